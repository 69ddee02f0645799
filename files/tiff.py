"""TIFF files: which pixels they hold, whatever their depth and layout, and how results are written to them."""
import itertools
import logging
import math
from pathlib import Path
from typing import BinaryIO

import utils

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms, TiffImagePlugin
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters is raised

BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BANDS = {PHOTOMETRIC.MINISWHITE: 1, PHOTOMETRIC.MINISBLACK: 1, PHOTOMETRIC.PALETTE: 1, PHOTOMETRIC.RGB: 3,
         PHOTOMETRIC.SEPARATED: 4, PHOTOMETRIC.CIELAB: 3}  # of the colours, in the kinds that are read here
BANDS_BY_PILLOW = {**BANDS, PHOTOMETRIC.YCBCR: 3}
# What libtiff writes, JPEG 2000 and JPEG XL; not LERC, which takes all the memory that a damaged file claims. Others of
# imagecodecs' many were not tried on damaged files.
COMPRESSIONS = (COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.JPEG, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE,
                COMPRESSION.PACKBITS, COMPRESSION.LZMA, COMPRESSION.ZSTD, COMPRESSION.WEBP,
                COMPRESSION.JPEG2000, COMPRESSION.JPEGXL)
ALPHA = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)
SOFTWARE_TAG, EXIF_TAG, GPS_TAG = 0x0131, 0x8769, 0x8825
LAB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
# Raw photos that begin otherwise than a TIFF, or, as Canon's do, like one with a preview.
RAW_BEGINNINGS = (b"II*\0\x10\0\0\0CR", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"\0MRM", b"FOVb",
                  b"\0\0\0\x18ftypcrx")
RAW_SUFFIXES = (
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc", ".mef",
    ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f")
RAW = "a raw photo; develop it first, to TIFF, PNG or JPEG"


def is_raw(path: Path) -> bool:
    """Whether a name is that of a camera's raw photo."""
    return path.suffix.lower() in RAW_SUFFIXES


def read(file: BinaryIO, most_pixels: float,
         usual_too: bool = False) -> tuple[list[np.ndarray], bytes | None, int | None] | None:
    """Decode the first page of a TIFF. Returns None for the usual kinds of 8 bits or less, which are Pillow's.

    usual_too: decode these as well.
    Returns planes, ICC profile and orientation. Planes are the colours, gray, RGB or CMYK (H, W, 1, 3 or 4), and alpha
    (H, W, 1) if the file says that a band is alpha; uint8 or uint16.
    Raises Pillow's DecompressionBombError above `most_pixels`, and ValueError if the file can't be read.
    """
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = _first_page(tiff, file.name)
        if page.imagewidth * page.imagelength > most_pixels:
            raise Image.DecompressionBombError
        n_colours = _count_colours(page)
        n_extras = page.samplesperpixel - n_colours
        extras = page.extrasamples[-n_extras:] if n_extras > 0 else ()
        alpha = next((i for i, extra in enumerate(extras) if extra in ALPHA), None)
        if n_extras > (alpha is not None):
            utils.say_once(f"{file.name} holds {utils.plural(n_extras, 'band')} besides its colours; "
                           "what is not alpha is left out.")
        depths = (8,) if page.samplesperpixel > 1 else (1, 2, 4, 8)
        if (not usual_too and page is tiff.pages.first and page.sampleformat == 1 and page.bitspersample in depths
                and page.planarconfig == 1 and page.extrasamples in ((), (EXTRASAMPLE.UNASSALPHA,))):
            return None
        pixels = _decode(page)
    kept = [*range(n_colours), *([] if alpha is None else [n_colours + alpha])]
    if page.photometric == PHOTOMETRIC.PALETTE:
        planes = [page.colormap.T[pixels[:, :, 0]]]
    elif page.photometric == PHOTOMETRIC.CIELAB:
        planes = [_lab_to_srgb(pixels[:, :, :3])]
    else:
        planes = np.split(scale(pixels[:, :, kept], page.bitspersample), [n_colours], axis=2)
    white = np.iinfo(planes[0].dtype).max
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        planes[0] = white - planes[0]
    if alpha is not None and extras[alpha] == EXTRASAMPLE.ASSOCALPHA:  # colours are multiplied by alpha
        planes[0] = np.rint(planes[0] * (white / np.maximum(planes[1], 1.0))).clip(0, white).astype(planes[0].dtype)
    return planes, page.iccprofile, page.tags.valueof(0x0112)


def size(file: BinaryIO) -> tuple[int, int]:
    """Height and width of the picture that `read` decodes, as it is shown."""
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = _first_page(tiff, file.name)
        shape = page.imagelength, page.imagewidth
        return shape[::-1] if page.tags.valueof(0x0112, 1) > 4 else shape


def _count_colours(page):
    """The number of bands that are colours. GDAL calls RGB of 16 bits or floats gray with two bands more by default."""
    if (page.photometric == PHOTOMETRIC.MINISBLACK and page.samplesperpixel in (3, 4)
            and not any(extra in ALPHA for extra in page.extrasamples[:2])):
        return 3
    return BANDS_BY_PILLOW.get(page.photometric, 1)


def _first_page(tiff, name):
    """The first page that is not a preview or a mask; says where there are more. Raises ValueError for a raw photo."""
    pages = list(itertools.islice(tiff.pages, 16))
    inner = [page for parent in pages for page in parent.pages or ()]
    if any(page.is_dng or page.photometric in (PHOTOMETRIC.CFA, PHOTOMETRIC.LINEAR_RAW) for page in [*pages, *inner]):
        raise ValueError(RAW)
    whole = [page for page in pages if not (page.is_reduced or page.is_mask)]
    if len(whole) > 1:
        utils.say_once(f"{name} holds several pages; the first is taken.")
    return [*whole, *(page for page in inner if not (page.is_reduced or page.is_mask)), *pages][0]


def _decode(page):
    """(H, W, bands) as stored. Raises ValueError for a damaged page or a kind that is not read."""
    if (page.photometric not in BANDS or page.compression not in COMPRESSIONS or page.imagedepth > 1
            or page.samplesperpixel < BANDS[page.photometric]):
        names = [getattr(value, "name", str(value)) for value in (page.photometric, page.compression)]
        raise ValueError(f"a rare kind of TIFF: {page.samplesperpixel} times {page.bitspersample} bits of {names[0]}, "
                         f"compression {names[1]}")
    if (len(page.dataoffsets) != math.prod(page.chunked) or math.prod(page.chunks) > max(page.size, 2 ** 24)
            or page.samplesperpixel > 1024):
        raise ValueError("a damaged TIFF")
    try:
        pixels = page.asarray()
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"a damaged TIFF: {error}") from error
    return np.moveaxis(pixels, 0, 2) if page.axes == "SYX" else np.atleast_3d(pixels)


def _lab_to_srgb(pixels):
    """CIELAB of 8 or 16 bits as RGB of 16: lightness has no sign, the two colours have one, whatever the type is."""
    bits = 8 * pixels.itemsize
    if pixels.dtype.kind not in "iu" or bits > 16:
        raise ValueError(f"a TIFF of CIELAB in {pixels.dtype} numbers")
    lightness, colours = pixels[:, :, :1].astype(f"u{bits // 8}"), pixels[:, :, 1:].astype(f"i{bits // 8}")
    lab = np.dstack([lightness * (65535 / (2 ** bits - 1)), (colours / 2.0 ** (bits - 8) + 128) * 257])  # as LittleCMS
    return imagecodecs.cms_transform(np.rint(lab).clip(0, 65535).astype(np.uint16), LAB_PROFILE,
                                     imagecodecs.cms_profile("srgb"), colorspace="lab", outcolorspace="rgb")


def scale(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of `bits` bits as uint8 or uint16, white being the largest of their type; of floats 1, 255 or 65535.

    Integers keep their values where these fit into 8 or 16 bits. Negative ones are shifted up by half of the range, and
    of wider ones the highest bits that are in use are taken.
    """
    if pixels.dtype.kind == "f":
        pixels = pixels.astype(np.promote_types(pixels.dtype, np.float32), copy=False)
        pixels = np.nan_to_num(pixels, nan=0.0, posinf=0.0, neginf=0.0).clip(0, 65535)
        # Float TIFF has no fixed white: 1, 255 and 65535 are in use; the mean, as a highlight may be above white.
        white = next((w for w in (1.0, 255.0) if pixels.mean() <= w), 65535.0)
        return np.rint((pixels * (65535.0 / white)).clip(0, 65535)).astype(np.uint16)
    if pixels.dtype.kind not in "biu":
        raise ValueError(f"a TIFF of {pixels.dtype} numbers")
    low, high = int(pixels.min()), int(pixels.max())
    if bits > 16:  # NumPy's default integers are wide, whatever they hold
        used = max(high, ~low).bit_length() + (low < 0)
        bits = 8 if used <= 8 else max(16, used)
    pixels = pixels.astype(f"u{pixels.itemsize}")
    if low < 0:
        pixels += pixels.dtype.type(1 << (bits - 1))
    if bits > 16:
        pixels, bits = pixels >> (bits - 16), 16
    dtype = np.uint8 if bits <= 8 else np.uint16
    if bits in (8, 16):
        return pixels.astype(dtype)
    return np.rint(np.arange(2 ** bits) * (np.iinfo(dtype).max / (2 ** bits - 1))).astype(dtype).take(pixels)


def write(path: Path, image: np.ndarray, software: str, exif: Image.Exif, profile: bytes | None,
          dpi: tuple[float, float] | None) -> None:
    """Write (H, W, C), C as in `images.read_image`, with its metadata, losslessly compressed."""
    is_big = image.nbytes > 2 ** 31
    directories = [] if is_big else [tag for tag in (EXIF_TAG, GPS_TAG) if exif.get_ifd(tag)]
    texts = [(tag, "s", 0, value, True) for tag, value in exif.items()
             if isinstance(value, (str, bytes)) and tag != SOFTWARE_TAG]
    tifffile.imwrite(
        path, image[:, :, 0] if image.shape[2] == 1 else image, bigtiff=is_big, byteorder="<", metadata=None,
        software=software, photometric="minisblack" if image.shape[2] < 3 else "rgb", planarconfig="contig",
        extrasamples=() if image.shape[2] % 2 else ("unassalpha",), compression="zlib", compressionargs={"level": 3},
        predictor=True, rowsperstrip=64, iccprofile=profile, resolution=dpi, resolutionunit="inch" if dpi else None,
        extratags=[*texts, *((tag - 1, "I", 1, 0, True) for tag in directories)])
    if not directories:
        return
    # tifffile does not write the directories of EXIF and GPS: append them, and change the tag before to point there.
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for tag in directories:
            ifd = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0", group=tag)
            for key, value in exif.get_ifd(tag).items():
                ifd[key] = value
            offset = tiff.filehandle.seek(0, 2)
            offset += tiff.filehandle.write(bytes(offset % 2))
            tiff.filehandle.write(ifd.tobytes(offset))
            entry = tiff.pages.first.tags[tag - 1]
            entry.overwrite(offset)
            tiff.filehandle.seek(entry.offset)
            tiff.filehandle.write(tag.to_bytes(2, "little"))
