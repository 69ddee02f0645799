"""The one way in and out for images; resizing and metrics."""
import collections
import contextlib
import functools
import io
import itertools
import logging
import os
import warnings
from pathlib import Path

import utils
from utils import UserError

import imagecodecs
import imageio.v3 as iio
import numpy as np
import tensorflow as tf
import tifffile
from PIL import Image, ImageCms
from tifffile import EXTRASAMPLE, PHOTOMETRIC

warnings.filterwarnings("ignore", module="PIL")  # of metadata and palettes; what matters is raised
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # Pillow's others run programs or don't hold photos
TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
COLOURS = {PHOTOMETRIC.RGB: 3, PHOTOMETRIC.YCBCR: 3, PHOTOMETRIC.CIELAB: 3, PHOTOMETRIC.SEPARATED: 4}  # bands; else 1
READ_BY_TIFFFILE = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE,
                    PHOTOMETRIC.SEPARATED)
MAX_PSNR = 100.0  # dB
ALPHA = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)


def list_images(folder):
    """What has the name of an image, directly in a folder, as a list of `Path` in natural order.

    Also what is none for all that, such as a broken link: `read_image` says so, where a user would miss it in silence.
    """
    return sorted((path for path in Path(folder).iterdir()
                   if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")), key=utils.natural_key)


def output_names(paths):
    """What each image's results are called, all different: its stem, with its ending where two share it (`a_jpg`)."""
    stems = [Path(path).stem for path in paths]
    count = collections.Counter(stem.lower() for stem in stems)  # on Windows and macOS A.png is a.png
    taken = set(count)
    names = []
    for path, name in zip(paths, stems, strict=True):
        if count[name.lower()] > 1:
            name += f"_{Path(path).suffix[1:]}"
            while name.lower() in taken:
                name += "_"
            taken.add(name.lower())
        names.append(name)
    return names


def read_image(path, native=False):
    """The one way in for images: PNG, JPEG, WebP, BMP, TIFF or GIF (first frame), turned upright by its EXIF orientation.

    Returns uint8 RGB (H, W, 3) in [0, 255]; alpha is dropped, 16 bits are rounded to 8, colours are converted to sRGB
    by the file's profile. With `native`, what the file holds: (H, W, C) with C = 1 gray, 2 gray and alpha, 3 RGB or
    4 RGB and alpha, uint8 or, where the file has more than 8 bits, uint16 in [0, 65535].
    Raises UserError where the file can't be read.
    """
    try:
        image = _decode(path)
    except Exception as error:  # what decoders raise on a damaged file is listed nowhere
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "empty, damaged, or none of PNG, JPEG, WebP, BMP, TIFF and GIF"
        elif isinstance(error, Image.DecompressionBombError):
            reason = f"more than {2 * Image.MAX_IMAGE_PIXELS // 1_000_000} million pixels"
        else:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} can't be read as an image ({reason}); replace it or take it out of the folder.") from error
    if native:
        return image
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.shape[2] < 3:
        return np.repeat(image[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])


def _decode(path):
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("a folder or a device")  # to open a pipe would wait for ever
    with open(path, "rb") as file:
        is_tiff = file.read(4) in TIFF_BEGINNINGS
        file.seek(0)
        if not is_tiff:
            return _decode_by_pillow(file)
        # libtiff reports damage on stderr itself, besides the error that it returns; Pillow has no switch for it.
        with open(os.devnull, "wb") as nowhere, utils.redirect_stderr(nowhere):
            return _decode_tiff(file)


def _decode_by_pillow(file):
    with Image.open(file, formats=IMAGE_FORMATS) as image:
        if image.format not in ("MPO", "TIFF") and getattr(image, "is_animated", False):  # MPO: JPEG with a second picture
            _say_once(f"{file.name} holds several frames; the first is taken.")
        profile = image.info.get("icc_profile")
        image.load()
        orientation = None
        with contextlib.suppress(Exception):  # damaged EXIF is no reason to lose the photo
            orientation = image.getexif().get(0x0112)  # after load, which turns TIFF itself
        if image.format == "PNG" and _png_bits(file) == 16:  # Pillow cuts 16-bit colour to 8
            file.seek(0)
            pixels = imagecodecs.png_decode(file.read())
            pixels = pixels.reshape(*pixels.shape[:2], -1)
            n_colours = 1 if pixels.shape[2] < 3 else 3
            planes = [pixels[:, :, :n_colours], pixels[:, :, n_colours:]]
        else:
            mode = "L" if image.mode in ("1", "L", "LA") else "CMYK" if image.mode == "CMYK" else "RGB"
            planes = [np.atleast_3d(image.convert(mode))]
            if image.has_transparency_data:
                planes.append(np.asarray(image.convert("RGBA").getchannel("A")))
    planes[0] = _to_srgb(planes[0], profile)
    return _upright(np.dstack(planes), orientation)


@functools.cache
def _say_once(line):
    print(line)


def _png_bits(file):
    file.seek(24)
    return file.read(1)[0]


def _decode_tiff(file):
    """(H, W, C) of a TIFF's first page, by Pillow if it holds 8 bits or less, as most do, otherwise by tifffile."""
    with tifffile.TiffFile(file) as tiff:
        page = _first_page(tiff, file.name)
        if page.imagewidth * page.imagelength > 2 * Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
        n_colours = COLOURS.get(page.photometric, 1)
        n_extras = page.samplesperpixel - n_colours
        alpha = next((i for i, extra in enumerate(page.extrasamples) if extra in ALPHA), None)
        if n_extras > (alpha is not None):
            _say_once(f"{file.name} holds {utils.plural(n_extras, 'band')} besides its colours; what is not alpha is left out.")
        if (page is tiff.pages.first and page.sampleformat == 1 and page.bitspersample in (1, 2, 4, 8)
                and page.extrasamples in ((), (EXTRASAMPLE.UNASSALPHA,))):
            file.seek(0)
            with contextlib.suppress(Image.UnidentifiedImageError, ValueError):  # rare kinds, such as 8 bits in planes
                return _decode_by_pillow(file)
        if page.photometric not in READ_BY_TIFFFILE or page.imagedepth > 1 or n_extras < 0:
            kind = getattr(page.photometric, "name", page.photometric)
            raise ValueError(f"a rare kind of TIFF: {page.samplesperpixel} times {page.bitspersample} bits of {kind}")
        try:
            pixels = page.asarray()
        except (RuntimeError, ValueError, OSError) as error:
            raise ValueError(f"a damaged TIFF: {error}") from error
        pixels = np.moveaxis(pixels, 0, 2) if page.axes == "SYX" else np.atleast_3d(pixels)
        if page.photometric == PHOTOMETRIC.PALETTE:
            planes = [page.colormap.T[pixels[:, :, 0]]]
        else:
            kept = [*range(n_colours), *([] if alpha is None else [n_colours + alpha])]
            planes = np.split(_to_8_or_16_bits(pixels[:, :, kept], page.bitspersample), [n_colours], axis=2)
        white = np.iinfo(planes[0].dtype).max
        if page.photometric == PHOTOMETRIC.MINISWHITE:
            planes[0] = white - planes[0]
        if alpha is not None and page.extrasamples[alpha] == EXTRASAMPLE.ASSOCALPHA:  # colours are multiplied by alpha
            planes[0] = np.rint(planes[0] * (white / np.maximum(planes[1], 1.0))).clip(0, white).astype(planes[0].dtype)
        planes[0] = _to_srgb(planes[0], page.iccprofile)
        return _upright(np.dstack(planes), page.tags.valueof(0x0112))


def _first_page(tiff, name):
    """The first page that is not a preview or a mask; says where there are more. Raises ValueError for a raw photo."""
    pages = list(itertools.islice(tiff.pages, 16))
    inner = [page for parent in pages for page in parent.pages or ()]
    if any(page.is_dng or page.photometric in (PHOTOMETRIC.CFA, PHOTOMETRIC.LINEAR_RAW) for page in [*pages, *inner]):
        raise ValueError("a raw photo; develop it first, to TIFF, PNG or JPEG")
    whole = [page for page in pages if not (page.is_reduced or page.is_mask)]
    if len(whole) > 1:
        _say_once(f"{name} holds several pages; the first is taken.")
    return [*whole, *(page for page in inner if not (page.is_reduced or page.is_mask)), *pages][0]


def _to_8_or_16_bits(pixels, bits):
    """Pixels of a TIFF as uint8 or uint16, scaled by the range of their type; the lowest signed integer is black.

    Integers of 32 and 64 bits that use no more than 16 of them are taken as 16 bits, or 8 where 8 are enough: programs
    write so what they compute in NumPy's default integers, and by the range of the type it would be black.
    """
    if pixels.dtype.kind == "f":
        pixels = pixels.astype(np.promote_types(pixels.dtype, np.float32), copy=False)
        pixels = np.nan_to_num(pixels, nan=0.0, posinf=0.0, neginf=0.0).clip(0, 65535)
        # Float TIFF has no fixed white: 1, 255 and 65535 are in use; the mean, as a highlight may be above white.
        white = next((w for w in (1.0, 255.0) if pixels.mean() <= w), 65535.0)
        return np.rint((pixels * (65535.0 / white)).clip(0, 65535)).astype(np.uint16)
    if pixels.dtype.kind not in "biu":
        raise ValueError(f"a TIFF of {pixels.dtype} numbers")
    if bits > 16 and pixels.min() >= 0 and pixels.max() <= 65535:
        bits = 8 if pixels.max() <= 255 else 16
    elif pixels.dtype.kind == "i":
        pixels = (pixels ^ np.iinfo(pixels.dtype).min).astype(f"u{pixels.itemsize}")
    if bits > 16:
        pixels, bits = pixels >> (bits - 16), 16
    dtype = np.uint8 if bits <= 8 else np.uint16
    return pixels.astype(dtype) if bits in (8, 16) else np.rint(pixels * (np.iinfo(dtype).max / (2 ** bits - 1))).astype(dtype)


_SRGB = ImageCms.createProfile("sRGB")
_SRGB_BYTES = ImageCms.ImageCmsProfile(_SRGB).tobytes()


def _to_srgb(colours, profile):
    """Gray, RGB or CMYK (H, W, 1, 3 or 4), uint8 or uint16, as gray or RGB of sRGB.

    Where the profile is damaged, as without one: no reason to lose the photo.
    """
    channels = colours.shape[2]
    converted = None
    with contextlib.suppress(ImageCms.PyCMSError, imagecodecs.CmsError, OSError):
        if profile and colours.dtype == np.uint8:
            image = Image.fromarray(colours.squeeze(2) if channels == 1 else colours, "CMYK" if channels == 4 else None)
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = np.asarray(ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB"))
        elif profile:  # Pillow converts 8 bits only
            converted = imagecodecs.cms_transform(
                np.ascontiguousarray(colours.squeeze(2) if channels == 1 else colours), profile, _SRGB_BYTES,
                colorspace={1: "gray", 3: "rgb", 4: "cmyk"}[channels], outcolorspace="rgb")
    if converted is not None:
        return converted[:, :, 1:2] if channels == 1 else converted
    if channels < 4:
        return colours
    white = np.iinfo(colours.dtype).max
    ink, black = colours[:, :, :3], colours[:, :, 3:]
    return np.rint((white - ink) * ((white - black) / white)).astype(colours.dtype)


def _upright(pixels, orientation):
    """Undo the EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def write_image(path, image):
    """The one way out for images: (H, W, C) as `read_image` gives it, as PNG, whole or not at all; raises UserError."""
    with utils.atomic_write(path) as partial:
        if image.dtype == np.uint16:  # Pillow writes 16 bits for gray only
            partial.write_bytes(imagecodecs.png_encode(image))
        else:
            iio.imwrite(partial, image[:, :, 0] if image.shape[2] == 1 else image, plugin="pillow")


def resize(image, height, width, method="bicubic"):
    """Resize (H, W, C) by `bicubic`, `lanczos3` or `nearest`; antialiased, as MATLAB's imresize. float32 stays unrounded.

    `tf.image.resize`, rounded and clipped: https://www.tensorflow.org/api_docs/python/tf/image/resize
    """
    resized = tf.image.resize(image, (height, width), method=method, antialias=method != "nearest")
    return resized.numpy() if image.dtype == np.float32 else tf.saturate_cast(tf.round(resized), image.dtype).numpy()


def crop_to_scale(image):
    """Cut right and bottom so that both sides divide by 4."""
    return image[:image.shape[0] // utils.SCALE * utils.SCALE, :image.shape[1] // utils.SCALE * utils.SCALE]


def luminance(image):
    """Y of BT.601 in studio range, [16, 235], as float32 (H, W, 1), from uint8 RGB (H, W, 3)."""
    return np.float32(16 + image.astype(np.float64) @ np.array([[65.481], [128.553], [24.966]]) / 255)


def psnr(a, b):
    """PSNR in dB of two images with values up to 255; at most MAX_PSNR, so that equal images leave means finite."""
    return min(MAX_PSNR, float(tf.image.psnr(a, b, max_val=255)))


def psnr_ssim(sr, hr):
    """PSNR in dB and SSIM of two uint8 RGB images (H, W, 3) as the article measures them (section 3.1).

    On Y, with 4 border pixels cut; SSIM with a Gaussian window of 11x11, sigma 1.5. Returns two floats.
    """
    sr, hr = (luminance(image)[utils.SCALE:-utils.SCALE, utils.SCALE:-utils.SCALE] for image in (sr, hr))
    return psnr(sr, hr), float(tf.image.ssim(tf.constant(sr), tf.constant(hr), max_val=255))
