"""What a photo's file says besides its pixels, and how a result keeps it: EXIF, dots per inch, the colour profile."""
import contextlib
import dataclasses
import struct
import zlib
from typing import Any

from PIL import Image, ImageCms

SOFTWARE = "SRGAN 4x super-resolution"  # in every picture that is written, so that results are not taken for photos

PROCESSING_SOFTWARE, ORIENTATION, EXIF, GPS = 0x000B, 0x0112, 0x8769, 0x8825
# Description, maker, model, software, date, artist, computer, rating, copyright, and Windows' title to subject.
KEPT = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298, *range(0x9C9B, 0x9CA0))
# The maker's own notes point into the old file; Interoperability names Adobe RGB.
DROPPED_FROM_EXIF = (0x927C, 0xA005)
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
COLOUR_SPACE, WIDTH, HEIGHT = 0xA001, 0xA002, 0xA003

_profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SRGB_PROFILE = _profile[:24] + bytes(12) + _profile[36:]  # without the date, so that equal results are equal files


@dataclasses.dataclass(frozen=True)
class Metadata:
    """tags, exif, gps: the three directories of EXIF; dpi: None if unknown; profiled: whether colours had a profile."""

    tags: dict[int, Any] = dataclasses.field(default_factory=dict)
    exif: dict[int, Any] = dataclasses.field(default_factory=dict)
    gps: dict[int, Any] = dataclasses.field(default_factory=dict)
    dpi: tuple[float, float] | None = None
    profiled: bool = False

    def exif_of(self, height: int, width: int) -> Image.Exif:
        """EXIF of a result of that size: upright, in sRGB, without a thumbnail."""
        exif = Image.Exif()
        for tag, value in self.tags.items():
            exif[tag] = value
        exif[PROCESSING_SOFTWARE] = SOFTWARE
        if self.tags or self.exif or self.gps:
            exif[ORIENTATION] = 1
        if self.dpi:
            exif[X_RESOLUTION], exif[Y_RESOLUTION], exif[RESOLUTION_UNIT] = *self.dpi, 2
        if self.exif:
            exif.get_ifd(EXIF).update({**self.exif, COLOUR_SPACE: 1, WIDTH: width, HEIGHT: height})
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
    # Programs keep the layout of their pages in the description of a TIFF.
    directories = {"tags": lambda: {tag: _as_stored(exif[tag]) for tag in KEPT
                                    if tag in exif and not (is_tiff and tag == KEPT[0])},
                   "exif": lambda: {tag: value for tag, value in exif.get_ifd(EXIF).items()
                                    if tag not in DROPPED_FROM_EXIF},
                   "gps": lambda: dict(exif.get_ifd(GPS))}
    for name, read in directories.items():
        with contextlib.suppress(Exception):  # Pillow raises any type on damaged EXIF
            part = read()
            Metadata(**{name: part}).exif_of(1, 1).tobytes()  # can be written
            parts[name] = part
    return Metadata(**parts)


def _as_stored(value):
    """Pillow reads text as Latin-1 and writes it as ASCII, question marks for the rest; bytes it writes as they are."""
    return value.encode("latin-1") if isinstance(value, str) and not value.isascii() else value


def png_chunks(metadata: Metadata, height: int, width: int, is_gray: bool) -> bytes:
    """The chunks that hold metadata in a PNG, to stand after its header."""
    chunks = [(b"tEXt", b"Software\0" + SOFTWARE.encode())]
    if metadata.profiled and not is_gray:
        chunks.append((b"iCCP", b"sRGB\0\0" + zlib.compress(SRGB_PROFILE)))
    if metadata.dpi:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in metadata.dpi), 1)))
    if metadata.tags or metadata.exif or metadata.gps:
        chunks.append((b"eXIf", metadata.exif_of(height, width).tobytes().removeprefix(b"Exif\0\0")))
    return b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
                    for kind, data in chunks)
