"""The one way in and out for images; resizing and metrics."""
import collections
import contextlib
import functools
import io
import os
import struct
import sys
import threading
import warnings
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf
from PIL import Image, ImageCms, TiffImagePlugin

import utils
from utils import UserError

warnings.filterwarnings("ignore", module="PIL")  # of metadata and palettes; what matters is raised

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # Pillow's others run programs or read what no photo is in


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
        head = file.read(4)
        file.seek(0)
        if head not in TiffImagePlugin.PREFIXES:
            return _decode_by_pillow(file)
        with _stderr_muted():
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if b"+" in head else 8))
            file.seek(tags.next)
            tags.load(file)
            file.seek(0)
            return _decode_deep_tiff(file, tags) if max(tags.get(258, (1,))) > 8 else _decode_by_pillow(file)


_stderr_lock = threading.Lock()


@contextlib.contextmanager
def _stderr_muted():
    """libtiff writes of damage straight to stderr, besides the error that it returns; Pillow has no switch for it."""
    with _stderr_lock, open(os.devnull, "wb") as nowhere:
        sys.stderr.flush()
        screen = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(screen, 2)
            os.close(screen)


def _decode_by_pillow(file):
    with Image.open(file, formats=IMAGE_FORMATS) as image:
        if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a phone's JPEG with a second picture
            _say_once(f"{file.name} holds several frames; the first is taken.")
        profile = image.info.get("icc_profile")
        image.load()
        orientation = None
        with contextlib.suppress(Exception):  # damaged EXIF is no reason to lose the photo
            orientation = image.getexif().get(0x0112)  # after load, which turns TIFF itself
        if image.format == "PNG" and _png_bits(file) == 16:  # Pillow cuts 16-bit colour to 8
            file.seek(0)
            clear = "transparency" in image.info  # one colour (tRNS), which TensorFlow drops unless it is asked for alpha
            pixels = tf.io.decode_png(file.read(), 4 if clear else 0, tf.uint16).numpy()
            if clear and image.mode == "I;16":
                pixels = pixels[:, :, [0, 3]]
            return _upright(_deep_to_srgb(pixels, profile), orientation)
        mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
        colours = image if image.mode == "CMYK" else image.convert(mode)
        if profile:
            colours = _to_srgb(colours, profile)
        planes = [np.asarray(colours.convert(mode))]
        if image.has_transparency_data:
            planes.append(np.asarray(image.convert("RGBA").getchannel("A")))
    return _upright(np.dstack(planes), orientation)


@functools.cache
def _say_once(line):
    print(line)


def _png_bits(file):
    file.seek(24)
    return file.read(1)[0]


def _decode_deep_tiff(file, tags):
    """uint16 (H, W, C) of a TIFF of more than 8 bits; Pillow cuts them to 8, or does not open it. OpenCV turns it upright."""
    n_pixels, channels, bits = tags.get(256, 0) * tags.get(257, 0), tags.get(277, 1), tags[258][0]
    if n_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError
    # Gray, RGB or RGBA in one plane, alpha not multiplied in: of others OpenCV makes something else without a word.
    plain = ((tags.get(262), channels) in ((1, 1), (2, 3), (2, 4)) and bits in (16, 32, 64) and tags.get(284, 1) == 1
             and tags.get(338) != (1,))
    pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED) if plain else None
    if pixels is None or pixels.size != n_pixels * channels or pixels.itemsize * 8 != bits:
        raise ValueError(f"a damaged TIFF, or a rare kind of {bits} bits")
    pixels = pixels.reshape(*pixels.shape[:2], channels)
    if channels >= 3:
        pixels = pixels[:, :, [2, 1, 0, 3][:channels]]
    if pixels.dtype.kind == "f":
        pixels = np.nan_to_num(pixels, nan=0.0, posinf=0.0, neginf=0.0).clip(0, 65535)
        # Float TIFF has no fixed white: 1, 255 and 65535 are in use; the mean, as a highlight may be above white.
        white = next((w for w in (1.0, 255.0) if pixels.mean() <= w), 65535.0)
        pixels = np.rint(pixels * (65535.0 / white))
    return _deep_to_srgb(np.clip(pixels, 0, 65535).astype(np.uint16), tags.get(34675))


_SRGB = ImageCms.createProfile("sRGB")


def _to_srgb(image, profile):
    """An image L, RGB or CMYK in sRGB, L or RGB; as it is where the profile is damaged, no reason to lose the photo."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image
    return converted.getchannel("G") if image.mode == "L" else converted


def _deep_to_srgb(pixels, profile):
    """As `_to_srgb`, uint16 (H, W, C); Pillow's colour management has 8 bits. For profiles of curves and a matrix."""
    n_colours = 1 if pixels.shape[2] < 3 else 3
    names = (b"kTRC",) if n_colours == 1 else (b"rTRC", b"gTRC", b"bTRC")
    try:
        linear = np.dstack([_tone_curve(profile, name)[pixels[:, :, i]] for i, name in enumerate(names)])
        if n_colours == 3:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
            linear = linear @ (np.linalg.inv(_colorants(_SRGB)) @ _colorants(source)).T.astype(np.float32)
    except (KeyError, TypeError, ValueError, struct.error, OSError):  # no profile, a damaged one, or one of tables
        return pixels
    linear = linear.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.dstack([np.rint(65535 * encoded).astype(np.uint16), pixels[:, :, n_colours:]])


def _colorants(profile):
    return np.array([colorant[0] for colorant in (profile.red_colorant, profile.green_colorant, profile.blue_colorant)]).T


def _tone_curve(profile, name):
    """Linear light, float32 in [0, 1], of the 65536 values, by a curve of an ICC profile (ICC.1:2022, 10.6 and 10.18)."""
    count, = struct.unpack_from(">I", profile, 128)
    tags = dict(struct.unpack_from(">4sI", profile, 132 + 12 * i) for i in range(count))
    kind, n = struct.unpack_from(">4s4xI", profile, tags[name])
    x = np.linspace(0, 1, 65536)
    if kind == b"curv" and n > 1:
        y = np.interp(x, np.linspace(0, 1, n), np.frombuffer(profile, ">u2", n, tags[name] + 12) / 65535)
    elif kind == b"curv":
        y = x ** (np.frombuffer(profile, ">u2", n, tags[name] + 12) / 256) if n else x
    else:
        given = np.frombuffer(profile, ">i4", {0: 1, 3 << 16: 5, 4 << 16: 7}[n], tags[name] + 12) / 65536
        g, a, b, c, d, e, f = [*given, *(1, 1, 0, 0, 0, 0, 0)[len(given):]]
        y = np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)
    return y.astype(np.float32)


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
        if image.dtype == np.uint16:  # Pillow writes 16 bits for gray alone
            partial.write_bytes(tf.io.encode_png(image).numpy())
        else:
            Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(partial)


def resize(image, height, width, method="bicubic"):
    """Resize (H, W, C), uint8 or uint16, by `bicubic`, `lanczos3` or `nearest`; antialiased, as MATLAB's imresize.

    `tf.image.resize`, rounded and clipped: https://www.tensorflow.org/api_docs/python/tf/image/resize
    """
    resized = tf.image.resize(image, (height, width), method=method, antialias=method != "nearest")
    return tf.saturate_cast(tf.round(resized), image.dtype).numpy()


def crop_to_scale(image):
    """Cut right and bottom so that both sides divide by 4."""
    return image[:image.shape[0] // utils.SCALE * utils.SCALE, :image.shape[1] // utils.SCALE * utils.SCALE]


def luminance(image):
    """Y of BT.601 in studio range, [16, 235], as float32 (H, W, 1), from uint8 RGB (H, W, 3)."""
    return np.float32(16 + image.astype(np.float64) @ np.array([[65.481], [128.553], [24.966]]) / 255)


def psnr_ssim(sr, hr):
    """PSNR in dB and SSIM of two uint8 RGB images (H, W, 3) as the article measures them (section 3.1).

    On Y, with 4 border pixels cut; SSIM with a Gaussian window of 11x11, sigma 1.5. Returns two floats.
    """
    sr, hr = (luminance(image)[utils.SCALE:-utils.SCALE, utils.SCALE:-utils.SCALE] for image in (sr, hr))
    return float(tf.image.psnr(sr, hr, max_val=255)), float(tf.image.ssim(tf.constant(sr), tf.constant(hr), max_val=255))
