"""Metadata of pictures: EXIF, dots per inch, profile, and the mark of our results."""
import contextlib
import dataclasses
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageCms

SOFTWARE = "SRGAN 4x super-resolution"  # in every picture that is written, so that results are not taken for photos

OUTPUT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff")  # of the pictures that are written

PROCESSING_SOFTWARE, ORIENTATION, EXIF, GPS, ICC_PROFILE = 0x000B, 0x0112, 0x8769, 0x8825, 0x8773
# Description, maker, model, software, date, artist, computer, rating, copyright, and Windows' title to subject.
KEPT = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298, *range(0x9C9B, 0x9CA0))
INTEROPERABILITY, GAMMA = 0xA005, 0xA500
DROPPED_FROM_EXIF = (0x927C, INTEROPERABILITY, GAMMA)  # the maker's notes point into the old file
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
COLOUR_SPACE, WIDTH, HEIGHT = 0xA001, 0xA002, 0xA003

_profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SRGB_PROFILE = _profile[:24] + bytes(12) + _profile[36:]  # without the date, so that equal results are equal files


@dataclasses.dataclass(frozen=True)
class Metadata:
    """tags, exif, gps: the three directories of EXIF; dpi: None if unknown; profiled: whether colours had a profile.

    mark: SOFTWARE, which may be followed by how a result was made.
    """

    tags: dict[int, Any] = dataclasses.field(default_factory=dict)
    exif: dict[int, Any] = dataclasses.field(default_factory=dict)
    gps: dict[int, Any] = dataclasses.field(default_factory=dict)
    dpi: tuple[float, float] | None = None
    profiled: bool = False
    mark: str = SOFTWARE

    def exif_of(self, height: int, width: int) -> Image.Exif:
        """EXIF of a result of that size: upright, in sRGB, without a thumbnail."""
        exif = Image.Exif()
        for tag, value in self.tags.items():
            exif[tag] = value
        exif[PROCESSING_SOFTWARE] = self.mark
        if self.tags or self.exif or self.gps:
            exif[ORIENTATION] = 1
        if self.dpi:
            exif[X_RESOLUTION], exif[Y_RESOLUTION], exif[RESOLUTION_UNIT] = *self.dpi, 2
        if self.exif:
            exif.get_ifd(EXIF).update({COLOUR_SPACE: 1, **self.exif, WIDTH: width, HEIGHT: height})
        if self.gps:
            exif.get_ifd(GPS).update(self.gps)
        return exif


def from_pillow(exif: Image.Exif, info: dict[str, Any], is_tiff: bool = False) -> Metadata:
    """Metadata from what Pillow read of a file; what is damaged is left out."""
    parts: dict[str, Any] = {"profiled": bool(info.get("icc_profile"))}
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError):
        dpi = tuple(float(value) for value in info["dpi"]) if "dpi" in info else ()
        if len(dpi) == 2 and all(1 <= value < 100_000 for value in dpi):
            parts["dpi"] = dpi
    # Colours that were converted are sRGB now; of others the claim stays, that they are not.
    is_known = parts["profiled"] or names_adobe_rgb(exif)
    # Programs keep the layout of their pages in the description of a TIFF.
    directories = {"tags": lambda: {tag: _as_stored(exif[tag]) for tag in KEPT
                                    if tag in exif and not (is_tiff and tag == KEPT[0])},
                   "exif": lambda: {tag: value for tag, value in exif.get_ifd(EXIF).items()
                                    if tag not in DROPPED_FROM_EXIF and not (tag == COLOUR_SPACE and is_known)},
                   "gps": lambda: dict(exif.get_ifd(GPS))}
    for name, read in directories.items():
        with contextlib.suppress(Exception):  # Pillow raises any type on damaged EXIF
            part = read()
            Metadata(**{name: part}).exif_of(1, 1).tobytes()  # can be written
            parts[name] = part
    return Metadata(**parts)


def from_tiff(file: BinaryIO) -> Metadata:
    """Metadata of a TIFF of any depth, most of which Pillow does not open as an image."""
    exif = exif_of_tiff(file)
    info = {"icc_profile": exif.get(ICC_PROFILE)}
    if X_RESOLUTION in exif and Y_RESOLUTION in exif:
        unit = {2: 1, 3: 2.54}[exif.get(RESOLUTION_UNIT, 2)]  # inch, centimetre
        info["dpi"] = [unit * exif[tag] for tag in (X_RESOLUTION, Y_RESOLUTION)]
    return from_pillow(exif, info, is_tiff=True)


def names_adobe_rgb(exif: Image.Exif) -> bool:
    """Whether colours are Adobe RGB, which cameras say in EXIF only; False if it is damaged."""
    with contextlib.suppress(Exception):
        space = exif.get_ifd(EXIF).get(COLOUR_SPACE)
        return space == 2 or (space != 1 and exif.get_ifd(INTEROPERABILITY).get(1) == "R03")
    return False


def exif_of_tiff(file: BinaryIO) -> Image.Exif:
    """The tags of a TIFF's first page."""
    file.seek(0)
    exif = Image.Exif()
    exif.load_from_fp(file)
    return exif


def _as_stored(value):
    """Pillow reads text as Latin-1 and writes it as ASCII, question marks for the rest; bytes it writes as they are."""
    return value.encode("latin-1") if isinstance(value, str) and not value.isascii() else value


def png_chunks(metadata: Metadata, height: int, width: int, is_gray: bool) -> bytes:
    """The chunks that hold metadata in a PNG, to stand after its header."""
    chunks = [(b"tEXt", b"Software\0" + metadata.mark.encode())]
    if metadata.profiled and not is_gray:
        chunks.append((b"iCCP", b"sRGB\0\0" + zlib.compress(SRGB_PROFILE)))
    if metadata.dpi:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in metadata.dpi), 1)))
    if metadata.tags or metadata.exif or metadata.gps:
        chunks.append((b"eXIf", metadata.exif_of(height, width).tobytes().removeprefix(b"Exif\0\0")))
    return b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
                    for kind, data in chunks)


def has_mark(path: Path, mark: str = SOFTWARE) -> bool:
    """Whether a file is a picture in which this program left its mark, or this one."""
    if path.suffix.lower() not in (*OUTPUT_SUFFIXES, ".gif"):  # a text may quote it
        return False
    try:
        if not path.is_file():  # reading a pipe would block
            return False
        with open(path, "rb") as file:
            ends = file.read(4096)
            file.seek(max(0, os.path.getsize(path) - 16384))  # WebP's metadata
            ends += file.read()
    except OSError:  # read_image will report it
        return False
    return mark.encode() in ends
