"""Find, read and write images, and resize them."""
import contextlib
import dataclasses
import math
import os
import warnings
from pathlib import Path

import utils
from utils import UserError

import imagecodecs
import imageio.v3 as iio
import numpy as np
import pillow_heif
import tensorflow as tf
from imagecodecs import PNG
from PIL import Image, ImageSequence, PngImagePlugin

from files import arrays, colours, metadata, photo_files, tiff
from files.metadata import Metadata

warnings.filterwarnings("ignore", module="PIL")  # of metadata and palettes; what matters is raised
# Workflows of ComfyUI and histories in XMP take megabytes; what a small file can unpack to stays bounded all the same.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2 ** 26

pillow_heif.register_heif_opener(thumbnails=False)
# Pillow's others run programs or hold no photos.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
MOVING = {"GIF": ".gif", "WEBP": ".webp", "PNG": ".png"}  # formats whose frames are read and written, and their suffix
DECODER_VERSION = 1  # raise it when files are decoded to other pixels, so that cached photos are decoded again


# -------------------------------------------------------------------------------------------------------------- reading


def limit_pixels(megapixels: float) -> None:
    """Refuse larger images before they are decoded, as damaged files may claim any size; 0: no limit."""
    Image.MAX_IMAGE_PIXELS = megapixels * 500_000 or None  # Pillow refuses above twice this


limit_pixels(250)


def read_image(path: str | Path, native: bool = False) -> np.ndarray:
    """Read a PNG, JPEG, WebP, BMP, TIFF, GIF (first frame), AVIF or HEIC file, rotated by its EXIF orientation.

    Returns uint8 RGB (H, W, 3) in [0, 255]: alpha is dropped, 16 bits are rounded to 8, and colours are converted to
    sRGB from what the file says that they are. With `native`, what the file holds: (H, W, C), C = 1 gray, 2 gray and
    alpha, 3 RGB or 4 RGB and alpha, uint8 or, of a file of more than 8 bits, uint16 in [0, 65535].
    Raises UserError if the file can't be read.
    """
    with _reading(path):
        image = _decode(path)
    if native:
        return image
    if image.dtype == np.uint16:
        image = arrays.to_8_bits(image)
    if image.shape[2] < 3:
        return np.repeat(image[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])


@contextlib.contextmanager
def _reading(path):
    """Make a UserError of what decoders raise on a file."""
    try:
        yield
    except Exception as error:  # they raise any type on a damaged file
        if isinstance(error, Image.DecompressionBombError):
            raise UserError(f"{path} claims more than {Image.MAX_IMAGE_PIXELS * 2 / 1e6:,.6g} million pixels; raise "
                            "RESTORE.max_megapixels if that is true, or set it to 0 for no limit.") from error
        if isinstance(error, Image.UnidentifiedImageError):
            reason = f"empty, damaged, or none of {photo_files.FORMAT_NAMES}"
        elif isinstance(error, MemoryError):
            reason = "too large for the memory here"
        elif isinstance(error, (LookupError, AttributeError, TypeError)):
            reason = "damaged"
        else:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} can't be read as an image ({reason}); replace it or take it out of the "
                        "folder.") from error


def _open_file(path):
    """Open a file to read it. Raises ValueError for a folder or a device, as opening a pipe would block."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("a folder or a device")
    return open(path, "rb")


def _decode(path):
    with _open_file(path) as file:
        if tiff.is_raw(Path(path)):
            raise ValueError(tiff.RAW)
        head = file.read(16)
        file.seek(0)
        if head.startswith(tiff.RAW_BEGINNINGS):
            raise ValueError(tiff.RAW)
        if not head.startswith(tiff.BEGINNINGS):
            return _decode_by_pillow(file)
        # libtiff reports damage on stderr itself, besides the error that it returns; Pillow has no switch for it.
        with open(os.devnull, "wb") as nowhere, utils.redirect_stderr(nowhere):
            most_pixels = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
            page = tiff.read(file, most_pixels)
            file.seek(0)
            if not page:
                try:
                    return _decode_by_pillow(file)
                except (Image.UnidentifiedImageError, ValueError):  # a layout or colours that it does not know
                    page = tiff.read(file, most_pixels, usual_too=True)
            planes, profile, orientation = page
            if not profile and planes[0].shape[2] < 4:
                with contextlib.suppress(Exception):  # damaged EXIF is no reason to lose the photo
                    profile = colours.profile_of_exif(metadata.exif_of_tiff(file), planes[0].shape[2] == 1)
            return _finish(planes, profile, orientation)


def _decode_by_pillow(file):
    with Image.open(file, formats=IMAGE_FORMATS) as image:
        animated = getattr(image, "is_animated", False)
        if animated and image.format not in ("MPO", "TIFF"):  # MPO: a JPEG with a second picture
            option = " (to restore all of them: --frames)" if image.format in MOVING else ""
            utils.say_once(f"{file.name} holds several frames; the first is taken{option}.")
        info = image.info
        if image.format == "AVIF":
            with contextlib.suppress(Exception):  # Pillow reads kinds that libheif does not, such as sequences
                info = info | pillow_heif.open_heif(file, convert_hdr_to_8bit=False, hdr_to_16bit=False).info
        pixels = _decode_deep(image, info, file)
        if pixels is not None:
            planes = np.split(pixels, [1 if pixels.shape[2] < 3 else 3], axis=2)
        else:
            image.load()
            mode = "L" if image.mode in ("1", "L", "LA") else "CMYK" if image.mode == "CMYK" else "RGB"
            planes = [np.atleast_3d(image.convert(mode))]
            if image.has_transparency_data:
                planes.append(np.asarray(image.convert("RGBA").getchannel("A")))
        orientation = None
        with contextlib.suppress(Exception):  # damaged EXIF is no reason to lose the photo
            orientation = image.getexif().get(0x0112)  # after load, which turns TIFF itself
        profile = colours.declared_profile(image, info, file)
    return _finish(planes, profile, orientation)


def _decode_deep(image, info, file):
    """Pixels (H, W, C) of what Pillow cuts to 8 bits; None if it does not."""
    if image.format == "PNG":
        file.seek(24)
        # Pillow takes the transparent shade of 1, 2 and 4 bits for one of 8, too.
        if file.read(1) == b"\x10" or (image.mode in ("1", "L") and "transparency" in info):
            image.load()  # EXIF may come after the pixels
            file.seek(0)
            return np.atleast_3d(imagecodecs.png_decode(file.read()))
    elif info.get("bit_depth", 8) > 8:
        file.seek(0)
        pixels = (imagecodecs.avif_decode(file.read(), 0) if image.format == "AVIF" else
                  pillow_heif.open_heif(file, convert_hdr_to_8bit=False, hdr_to_16bit=False))
        return tiff.scale(np.atleast_3d(pixels), info["bit_depth"])
    return None


def _finish(planes, profile, orientation):
    """Colours in sRGB, and alpha if there is any, in one array; rotated by the EXIF orientation, 1 to 8."""
    pixels = np.dstack([colours.to_srgb(planes[0], profile), *planes[1:]])
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


@dataclasses.dataclass
class Animation:
    """A picture that moves.

    frames: uint8 RGB (H, W, 3), or (H, W, 4) with alpha. durations: of each, in milliseconds. loop: how often it is
    shown, 0: without end, None: as the format has it. shape: of a frame.
    """

    frames: list[np.ndarray]
    durations: list[float]
    loop: int | None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.frames[0].shape


def moving_suffix(path: str | Path) -> str | None:
    """The suffix for its kind of file, if a picture moves and `read_frames` reads it; else None."""
    with contextlib.suppress(Exception), _open_file(path) as file, Image.open(file, formats=list(MOVING)) as image:
        return MOVING[image.format] if image.is_animated else None
    return None


def read_frames(path: str | Path) -> Animation:
    """Read all frames of a GIF, WebP or APNG as they are shown, as `read_image` does one. Raises UserError."""
    with _reading(path), _open_file(path) as file, Image.open(file, formats=list(MOVING)) as image:
        if image.n_frames * image.width * image.height > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
            raise Image.DecompressionBombError
        frames, durations = [], []
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(frame.convert("RGBA")))
            durations.append(frame.info.get("duration", 0))  # known when the frame is decoded
        profile, orientation = colours.declared_profile(image, image.info, file), image.getexif().get(0x0112)
        frames = [_finish(np.split(frame, [3], axis=2), profile, orientation) for frame in frames]
        first = 1 if image.info.get("default_image") else 0  # a picture for programs that show no frames
        if all((frame[:, :, 3] == 255).all() for frame in frames):
            frames = [frame[:, :, :3] for frame in frames]
        return Animation(frames[first:], durations[first:], image.info.get("loop"))


def image_size(path: str | Path) -> tuple[int, int] | None:
    """Height and width of an image as it is shown, by the head of its file; None if that can't be read."""
    with contextlib.suppress(Exception), _open_file(path) as file:
        if file.read(4) in tiff.BEGINNINGS:
            return tiff.size(file)
        file.seek(0)
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            turned = image.getexif().get(0x0112, 1) > 4
            return image.size if turned else image.size[::-1]
    return None


def lossy_quality(path: str | Path) -> float | None:
    """The quality, 1 to 100, with which a file was compressed, by its head; None of a lossless one.

    Of JPEG by the 16 finest steps of its quantization, as a multiple of those in the standard's table K.1, which
    libjpeg scales. Of WebP, AVIF and HEIC, which do not say it, and of damaged files 100.
    """
    with contextlib.suppress(Exception), _open_file(path) as file:
        head = file.read(12)
        if not head.startswith(b"\xff\xd8"):
            return 100 if head[4:8] == b"ftyp" or head[8:] == b"WEBP" else None
        file.seek(0)
        with Image.open(file, formats=["JPEG"]) as image:
            multiple = np.mean(sorted(image.quantization[min(image.quantization)])[:16]) / 15.375
        return 100 - 50 * multiple if multiple < 1 else 50 / multiple
    return 100


def read_metadata(path: str | Path) -> Metadata:
    """Read EXIF, dots per inch and whether there is a colour profile; nothing if it is damaged."""
    with contextlib.suppress(Exception), open(path, "rb") as file:
        is_tiff = file.read(4) in tiff.BEGINNINGS
        file.seek(0)
        if is_tiff:
            return metadata.from_tiff(file)
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            return metadata.from_pillow(image.getexif(), image.info)
    return Metadata()


# -------------------------------------------------------------------------------------------------------------- writing


LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp", ".avif")
LARGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".avif": 16384,  # libavif's, for what it reads
                ".gif": 65535, ".png": 1_000_000}  # libpng's, which others read with
QUALITY = 95  # of lossy files


def check_size(path: str | Path, height: int, width: int) -> None:
    """Raise UserError if the kind of file that a name ends in can't hold an image of that size."""
    largest = LARGEST_SIDE.get(Path(path).suffix.lower())
    if largest and max(height, width) > largest:
        raise UserError(f"{path} can't hold {width}x{height} pixels, {largest} a side at most; name a .tif.")


def write_image(path: str | Path, image: np.ndarray, about: Metadata | None = None, quality: int = QUALITY) -> None:
    """Write what `arrays.to_pixels` takes to a PNG, JPEG, WebP, AVIF or TIFF file, by its suffix; whole or not at all.

    PNG and TIFF are lossless. JPEG, WebP and AVIF have 8 bits and a quality from 1 to 100; JPEG shows transparent parts
    on white. about: metadata to keep, that of the photo which the image was made from. Raises UserError.
    """
    photo_files.check_suffix(path)
    suffix, about, image = Path(path).suffix.lower(), about or Metadata(), arrays.to_pixels(image)
    height, width = image.shape[:2]
    check_size(path, height, width)
    is_gray = image.shape[2] < 3
    profile = metadata.SRGB_PROFILE if about.profiled and not is_gray else None
    if suffix in LOSSY_SUFFIXES:
        image = _simplify(path, image, keep_alpha=suffix in (".webp", ".avif"))
    with utils.atomic_write(path) as partial:
        if suffix in (".tif", ".tiff"):
            tiff.write(partial, image, about.mark, about.exif_of(height, width), profile, about.dpi)
        elif suffix in LOSSY_SUFFIXES:
            exif = about.exif_of(height, width)
            if suffix == ".avif":  # Pillow would write it anew, without accents
                exif.pop(metadata.ORIENTATION, None)
            if len(exif.tobytes()) >= 65_000:
                exif = Metadata(mark=about.mark).exif_of(height, width)
            options = {"quality": quality, "exif": exif.tobytes(), "dpi": about.dpi, "icc_profile": profile,
                       "subsampling": "4:0:0" if suffix == ".avif" and is_gray else "4:4:4",
                       "speed": 8}  # of AVIF: 3 times as quick as usual, 3% larger
            options = {name: value for name, value in options.items() if value is not None}
            iio.imwrite(partial, image[:, :, 0] if image.shape[2] == 1 else image, plugin="pillow", **options)
        else:
            # Of a natural photo of 8000x5400 this is the smallest file and the quickest: 49 MB in 1.4 s of processor
            # time, where Pillow's default takes 17.8 s for 52 MB.
            png = memoryview(imagecodecs.png_encode(np.require(image, requirements="CW"), level=1,
                                                    strategy=PNG.STRATEGY.RLE, filter=PNG.FILTER.PAETH))
            with open(partial, "wb") as file:
                file.write(png[:33])  # signature and header
                file.write(metadata.png_chunks(about, height, width, is_gray))
                file.write(png[33:])


def write_frames(path: str | Path, animation: Animation, about: Metadata | None = None, quality: int = QUALITY) -> None:
    """Write a moving picture to a GIF, WebP or PNG file, by its suffix; whole or not at all.

    GIF has 256 colours a frame, and alpha of 0 or 255. about, quality: as in `write_image`. Raises UserError.
    """
    suffix, about = Path(path).suffix.lower(), about or Metadata()
    height, width, channels = animation.shape
    check_size(path, height, width)
    first, *others = map(Image.fromarray, animation.frames)
    options = {"save_all": True, "duration": animation.durations, "quality": quality}
    if animation.loop is not None:
        options["loop"] = animation.loop
    if suffix == ".gif":
        options["comment"] = about.mark.encode()
        if channels == 4:
            first, *others = (_with_hard_edges(frame) for frame in animation.frames)
            options["disposal"] = 2  # clear each frame before the next one
    else:
        options["exif"] = about.exif_of(height, width).tobytes()
    if suffix == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Software", about.mark)
    with utils.atomic_write(path) as partial:
        first.save(partial, append_images=others, **options)


def _with_hard_edges(frame):
    """A Pillow image of RGBA whose pixels are opaque, or transparent in one colour."""
    opaque = frame[:, :, 3:] > 127
    return Image.fromarray(np.where(opaque, frame | np.uint8([0, 0, 0, 255]), np.uint8(0)))


def _simplify(path, image, keep_alpha):
    """Reduce an image to uint8, and to colours unless alpha is kept; says what is lost."""
    lost = []
    if image.dtype == np.uint16:
        image = arrays.to_8_bits(image)
        lost.append("16 bits")
    if image.shape[2] % 2 == 0 and not keep_alpha:
        alpha = image[:, :, -1:] / np.float32(255)
        image = np.uint8(np.rint(image[:, :, :-1] * alpha + 255 * (1 - alpha)))
        lost.append("transparency (shown on white)")
    if lost:
        utils.say_once(f"{path}: this kind of file does not hold {' and '.join(lost)}; .png and .tif do.")
    return image


def resize(image: np.ndarray, height: int, width: int, method: str = "bicubic") -> np.ndarray:
    """Resize (H, W, C) by `bicubic`, `lanczos3` or `nearest`; antialiased, as MATLAB's imresize. float32 is kept.

    `tf.image.resize`, rounded and clipped: https://www.tensorflow.org/api_docs/python/tf/image/resize
    """
    return _as_given(tf.image.resize(image, (height, width), method=method, antialias=method != "nearest"), image)


def resize_part(image: np.ndarray, corner: tuple[int, int], zoom: tuple[float, float], part: tuple) -> np.ndarray:
    """A part of what `resize` makes of a larger image, of which no more is at hand than the bicubic kernel sees.

    image: (H, W, C), which begins at the row and column `corner` of the larger one. zoom: by which rows and columns are
    multiplied. part: y, y_stop, x, x_stop in the result.
    """
    size, begin = (part[1] - part[0], part[3] - part[2]), part[::2]
    shift = [z * there - here for z, there, here in zip(zoom, corner, begin, strict=True)]
    return _as_given(tf.raw_ops.ScaleAndTranslate(
        images=image[np.newaxis], size=size, scale=zoom, translation=shift, kernel_type="keyscubic")[0], image)


def _as_given(resized, image):
    """As float32 if the image was, else rounded and clipped to its type."""
    return resized.numpy() if image.dtype == np.float32 else tf.saturate_cast(tf.round(resized), image.dtype).numpy()
