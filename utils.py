"""Files, images, training data, metrics and weights files. Knows no network."""
import collections
import contextlib
import dataclasses
import functools
import hashlib
import io
import mmap
import os
import pickle
import re
import secrets
import shutil
import stat
import struct
import sys
import threading
import time
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import cv2
import h5py
import numpy as np
import progressbar
import requests
import tensorflow as tf
from PIL import Image, ImageCms, TiffImagePlugin

SCALE = 4  # the article's upscaling factor, everywhere
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # Pillow's others run programs or read what no photo is in

warnings.filterwarnings("ignore", module="PIL")  # of metadata and palettes; what matters is raised


class UserError(Exception):
    """What a user can mend; the message is one sentence that names the file or setting, what is wrong and what to do."""


# ---------------------------------------------------------------------------------------------------------- files


@contextlib.contextmanager
def whole_file(path):
    """Write a file whole or not at all: yields a temporary path beside `path`, which takes its place at the end.

    Raises UserError where the folder can't be written or the disk is full; what was at `path` before is then intact.
    """
    path = Path(path)
    # 255 bytes a name, 4 a character; no process id, which two machines on a shared folder may have in common.
    partial = path.with_name(f".{path.stem[:50]}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}; free space or name another folder.") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def move_aside(folder, what):
    """Move all that is in a folder, but for a lock, into a new one beside it, and say so; raises UserError."""
    aside = folder.with_name(f"{folder.name}_{datetime.now():%Y%m%d_%H%M%S}")
    try:
        aside.mkdir()
        for path in list(folder.iterdir()):
            if path.name != "lock":
                shutil.move(path, aside)  # a rename fails where a folder is mounted
    except OSError as error:
        raise UserError(f"{folder}/ can't be moved aside to {aside}/: {error.strerror or error}; move it yourself.") from error
    print(f"The {what} that was in {folder}/ is now in {aside}/.")


class progress(progressbar.ProgressBar):
    """A progress bar with time left, on stderr; where that is a file, a line every 30 seconds instead.

    label: what is done; total: of what is counted from `start` on; names: of values that `update(done, name=value)` shows.
    """

    visible = True

    def __init__(self, label, total, start=0, names=(), count=progressbar.SimpleProgress):
        widgets = [f"{label} ", count(), " ", progressbar.Bar(), " ", progressbar.AdaptiveETA(samples=20)]
        for name in names:
            widgets += ["  ", progressbar.Variable(name, format="{name} {formatted_value}", width=1, precision=3)]
        on_screen = self.visible and sys.stderr.isatty()
        stream = sys.stderr if self.visible else open(os.devnull, "w")
        # With the redirection, what is printed waits for the next update.
        super().__init__(max_value=total, initial_value=start, widgets=widgets, fd=stream, redirect_stdout=on_screen)
        self.interval = 0 if on_screen else 30
        self.shown = -self.interval

    def update(self, value=None, **values):
        if value == self.max_value or time.monotonic() - self.shown >= self.interval:
            self.shown = time.monotonic()
            super().update(value, **values)


def natural(path):
    """Sort key that puts `im2.jpg` before `im10.jpg`."""
    name = Path(path).name
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)], name


# --------------------------------------------------------------------------------------------------------- images


def list_images(folder):
    """What has the name of an image, directly in a folder, as a list of `Path` in natural order.

    Also what is none for all that, such as a broken link: `read_image` says so, where a user would miss it in silence.
    """
    return sorted((path for path in Path(folder).iterdir()
                   if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")), key=natural)


def output_names(paths):
    """What each image's results are called, all different: its stem, with its ending where two share it (`a_jpg`)."""
    stems = [Path(path).stem for path in paths]
    count = collections.Counter(stem.lower() for stem in stems)  # on Windows and macOS A.png is a.png
    taken = set(count)
    names = []
    for path, name in zip(paths, stems):
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
    with whole_file(path) as partial:
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


def cut_to_scale(image):
    """Cut right and bottom so that both sides divide by 4."""
    return image[:image.shape[0] // SCALE * SCALE, :image.shape[1] // SCALE * SCALE]


# -------------------------------------------------------------------------------------------------------- metrics


def luminance(image):
    """Y of BT.601 in studio range, [16, 235], as float32 (H, W, 1), from uint8 RGB (H, W, 3)."""
    return np.float32(16 + image.astype(np.float64) @ np.array([[65.481], [128.553], [24.966]]) / 255)


def psnr_ssim(sr, hr):
    """PSNR in dB and SSIM of two uint8 RGB images (H, W, 3) as the article measures them (section 3.1).

    On Y, with 4 border pixels cut; SSIM with a Gaussian window of 11x11, sigma 1.5. Returns two floats.
    """
    sr, hr = (luminance(image)[SCALE:-SCALE, SCALE:-SCALE] for image in (sr, hr))
    return float(tf.image.psnr(sr, hr, max_val=255)), float(tf.image.ssim(tf.constant(sr), tf.constant(hr), max_val=255))


# -------------------------------------------------------------------------------------------------- training data


@dataclasses.dataclass(frozen=True)
class Photo:
    """A decoded photo in the cache: `height` and `width` of its HR, multiples of 4, whose bytes its LR's follow."""

    path: Path
    height: int
    width: int

    @property
    def n_bytes(self):
        return self.height * self.width * 3 * (SCALE ** 2 + 1) // SCALE ** 2

    def crop(self, y, x, size):
        """The LR (size, size, 3) at row y and column x of the LR, and its HR (4 size, 4 size, 3): views, uint8, read-only.

        Raises UserError where the file is no longer there, or no longer whole.
        """
        # Mapped for each crop: a lasting map of each of 800 photos is 800 open files, and what it touched stays in memory.
        try:
            with open(self.path, "rb") as file:
                data = np.frombuffer(mmap.mmap(file.fileno(), self.n_bytes, access=mmap.ACCESS_READ), np.uint8)
        except (OSError, ValueError) as error:  # ValueError: shorter
            reason = getattr(error, "strerror", None) or "it is shorter than it was"
            raise UserError(f"{self.path} can't be read ({reason}); decoded photos (TRAIN.cache_path) were deleted or changed "
                            "while in use: run the same command again, which makes them anew.") from error
        n_hr = self.height * self.width * 3
        hr = data[:n_hr].reshape(self.height, self.width, 3)
        lr = data[n_hr:].reshape(self.height // SCALE, self.width // SCALE, 3)
        return lr[y:y + size, x:x + size], hr[SCALE * y:SCALE * (y + size), SCALE * x:SCALE * (x + size)]


def find_partners(files, lr_folder):
    """The LR file of each HR file, None where there is none: `0001x4.png` (as DIV2K) or `0001.png` for `0001.png`.

    lr_folder: "" where LR is to be made; otherwise it is said how many have no partner in it.
    """
    if not lr_folder:
        return [None] * len(files)
    by_stem = {path.stem: path for path in list_images(lr_folder)} if Path(lr_folder).is_dir() else {}
    partners = [by_stem.get(f"{path.stem}x{SCALE}", by_stem.get(path.stem)) for path in files]
    missing = [path.name for path, partner in zip(files, partners) if partner is None]
    if missing:
        print(f"{len(missing)} of {len(files)} photos have no partner in {lr_folder}, their LR is made from them: "
              f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    return partners


def read_pair(hr_path, lr_path=None):
    """HR, cut to multiples of 4, and its LR, uint8 RGB; without a file of its own the LR is the antialiased bicubic.

    Raises UserError where a file can't be read or the sizes do not fit.
    """
    hr = cut_to_scale(read_image(hr_path))
    height, width = hr.shape[0] // SCALE, hr.shape[1] // SCALE
    if not (height and width):
        raise UserError(f"{hr_path} is smaller than {SCALE}x{SCALE} pixels; take it out of the folder.")
    lr = read_image(lr_path) if lr_path else resize(hr, height, width)
    if lr.shape != (height, width, 3):
        raise UserError(
            f"{lr_path} is {lr.shape[1]}x{lr.shape[0]}, not a quarter of {hr_path} ({width}x{height}); "
            "make it anew or take it out of the folder.")
    return hr, lr


def read_pairs(pairs):
    """HR path, HR and LR of each pair of files that can be measured, one after the other; says which can't.

    Raises UserError where there is none.
    """
    smallest = 2 * SCALE + 11  # the window of SSIM, inside the border that is cut
    found = False
    for hr_path, lr_path in pairs:
        try:
            hr, lr = read_pair(hr_path, lr_path)
            if min(hr.shape[:2]) < smallest:
                raise UserError(f"{hr_path} is too small to be measured; VALID.hr_img_path wants {smallest} pixels at least.")
        except UserError as error:
            print(f"Left out: {error}", file=sys.stderr)
        else:
            found = True
            yield hr_path, hr, lr
    if pairs and not found:
        raise UserError("None of the validation images can be used; set VALID.hr_img_path to a folder of photos.")


def cache_photos(files, lr_folder, cache_path, patch_size):
    """Decode every photo once, into raw files that crops are read from; what an earlier run decoded is used again.

    files: paths of HR images; lr_folder: where their LR partners are, if anywhere; patch_size: of HR.
    Returns the photos of at least a patch as a list of `Photo`; says in one line which were left out.
    Raises UserError where none is left.
    """
    files = [Path(path).absolute() for path in files]
    pairs = dict(zip(files, find_partners(files, lr_folder)))
    # The key changes with either file, so that a changed photo is decoded anew.
    keys = {hr: _digest(*(_state(path) for path in (hr, lr) if path)) for hr, lr in pairs.items()}
    folder = Path(cache_path) / _digest(*sorted({str(path.parent) for path in files}), str(lr_folder))
    known = folder.is_dir()
    cached, n_stale = _find_cached(folder, set(keys.values()))

    def decode(hr_path):
        try:
            hr, lr = read_pair(hr_path, pairs[hr_path])
        except UserError as error:
            return str(error)
        path = folder / f"{keys[hr_path]}-{hr.shape[0]}x{hr.shape[1]}.rgb"
        with whole_file(path) as partial, open(partial, "wb") as file:
            file.write(hr.tobytes())
            file.write(lr.tobytes())
        cached[keys[hr_path]] = Photo(path, *hr.shape[:2])

    missing = [path for path in files if keys[path] not in cached]
    errors = []
    if missing:
        # More threads than 8 gain little, and each holds a photo as float32.
        with ThreadPoolExecutor(min(8, os.cpu_count())) as pool, progress("Decoding photos", len(missing)) as bar:
            for done, error in enumerate(pool.map(decode, missing), start=1):
                errors += [error] if error else []
                bar.update(done)
    if known and (len(missing) > len(errors) or n_stale):
        print(f"Photos since the last run: {len(missing) - len(errors)} new or changed, {n_stale} gone or changed.")
    if errors:
        print(f"Left out, {len(errors)} of {len(files)} photos: {' '.join(errors)}")
    photos = {path: cached[keys[path]] for path in files if keys[path] in cached}
    large = {path: photo for path, photo in photos.items() if min(photo.height, photo.width) >= patch_size}
    small = [path.name for path in photos if path not in large]
    if small:
        print(f"Left out, {len(small)} of {len(files)} photos smaller than a patch of {patch_size} pixels: {', '.join(small)}")
    if not large:
        raise UserError(f"{files[0].parent} holds no photo that can be used; TRAIN.hr_img_path wants photos of at least "
                        f"{patch_size} pixels.")
    return list(large.values())


def _find_cached(folder, keys):
    """The photos in a cache folder by key, and how many were removed as their original was changed or taken away."""
    cached, n_stale = {}, 0
    for path in folder.iterdir() if folder.is_dir() else ():
        match = re.fullmatch(r"(\w+)-(\d+)x(\d+)\.rgb", path.name)
        photo = match and Photo(path, int(match[2]), int(match[3]))
        if match and match[1] in keys and path.stat().st_size == photo.n_bytes:
            cached[match[1]] = photo
        else:
            n_stale += bool(match)
            with contextlib.suppress(OSError):
                if match or time.time() - path.stat().st_mtime > 3600:  # younger: another run is just writing it
                    path.unlink()
    return cached, n_stale


def _state(path):
    """What changes with a file."""
    try:
        status = path.stat()
    except OSError:  # a broken link; reading it will say so
        return str(path)
    return f"{path}|{status.st_size}|{status.st_mtime_ns}"


def _digest(*parts):
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:24]


def steps_per_epoch(photos, batch_size, patches_per_image):
    """Steps in which every photo gives its patches once; the last batch is filled up with some of them again."""
    return -(-len(photos) * patches_per_image // batch_size)


@functools.lru_cache(maxsize=2)
def _order(seed, epoch, n_photos, patches_per_image):
    return np.random.default_rng([*seed, epoch]).permutation(n_photos * patches_per_image) % n_photos


def batch(photos, seed, step, batch_size, patch_size, patches_per_image, share=0, n_shares=1):
    """The batch of step `step`, from the seed (a tuple of integers) and the step alone, so that a run can be resumed.

    Each item is a random crop, flipped or not and turned by a random quarter. With n_shares, which must divide
    batch_size, only the share of that number, so that N = batch_size / n_shares. Returns uint8
    LR (N, patch_size / 4, patch_size / 4, 3) and HR (N, patch_size, patch_size, 3).
    """
    epoch, position = divmod(step, steps_per_epoch(photos, batch_size, patches_per_image))
    order = _order(seed, epoch, len(photos), patches_per_image)
    chosen = np.take(order, range(position * batch_size, (position + 1) * batch_size), mode="wrap")
    rng = np.random.default_rng([*seed, epoch, position])
    size = patch_size // SCALE
    pairs = []
    items = zip(chosen, rng.random((batch_size, 2)), rng.integers(2, size=batch_size), rng.integers(4, size=batch_size))
    for index, (y, x), flip, turns in list(items)[share * batch_size // n_shares:(share + 1) * batch_size // n_shares]:
        photo = photos[index]
        rows, columns = photo.height // SCALE - size + 1, photo.width // SCALE - size + 1
        pair = photo.crop(int(y * rows), int(x * columns), size)
        pairs.append([np.rot90(image[:, ::-1] if flip else image, turns) for image in pair])
    lr, hr = zip(*pairs)
    return np.stack(lr), np.stack(hr)


def batches(photos, seed, start, stop, batch_size, patch_size, patches_per_image, shares=range(1), n_shares=1):
    """`batch` of the steps from `start` to before `stop`, of each the `shares`, as a tf.data.Dataset that reads ahead.

    See `user_errors`.
    """

    def load(number):
        step, share = divmod(int(number), len(shares))
        return batch(photos, seed, step, batch_size, patch_size, patches_per_image, shares[share], n_shares)

    def shape(lr, hr):
        size = patch_size // SCALE
        return (tf.ensure_shape(lr, (batch_size // n_shares, size, size, 3)),
                tf.ensure_shape(hr, (batch_size // n_shares, patch_size, patch_size, 3)))

    numbers = tf.data.Dataset.range(start * len(shares), stop * len(shares))
    loaded = numbers.map(lambda number: tf.numpy_function(load, [number], [tf.uint8, tf.uint8], stateful=False))
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune, and the end of its thread is waited for, up to 8 s
    return loaded.map(shape).prefetch(4 * len(shares)).with_options(options)


@contextlib.contextmanager
def user_errors():
    """Raise the UserError of a batch that can't be read as such; TensorFlow makes an error of its own out of it."""
    try:
        yield
    except tf.errors.OpError as error:
        sentence = re.search(rf"{UserError.__name__}: (.*)", error.message)
        if not sentence:
            raise
        raise UserError(sentence[1]) from error


# ------------------------------------------------------------------------------------------------------- datasets


FLICKR25K_URL = "https://press.liacs.nl/mirflickr/mirflickr25k.v3b/"


def flickr25k():
    """The folder of MIRFLICKR-25k's photos; tensorlayer downloads them, once, to where its own loader would. Raises UserError."""
    folder = Path("data/flickr25k/mirflickr")
    if not folder.is_dir():
        import tensorlayer as tl
        partial = folder.with_name(".partial")
        try:
            # tl.files.load_flickr25k_dataset asks over http, keeps a half archive, and decodes all photos into 14 GB of memory.
            tl.files.maybe_download_and_extract("mirflickr25k.zip", str(partial), FLICKR25K_URL, extract=True)
            (partial / "mirflickr").rename(folder)
        except Exception as error:  # what tensorlayer raises depends on what urllib and zipfile meet
            raise UserError(f"MIRFLICKR-25k could not be downloaded ({error}); try again, or unpack mirflickr25k.zip into "
                            f"{folder}/ yourself.") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


DOWNLOAD_TIMEOUT = 30  # seconds in which a server has to send something


def download(archives, base_url):
    """Fetch and unpack the archives of DIV2K whose folders are not there yet; raises UserError.

    archives: {name: {"folder": ..., "size": bytes, "sha256": ...}}; base_url: what `<name>.zip` is appended to.
    An archive that is there already, whoever put it there, is checked as one that is fetched.
    """
    for name, archive in archives.items():
        folder = Path(archive["folder"])
        if folder.is_dir():
            print(f"{folder}/ is already there.")
            continue
        path = folder.parents[len(folder.parts) - 2] / f"{name}.zip"
        _fetch(f"{base_url.rstrip('/')}/{name}.zip", path, archive["size"], archive["sha256"])
        _unpack(path, folder)
        path.unlink()
        print(f"{folder}/: {len(list_images(folder))} images.")


def _fetch(url, path, size, sha256):
    """Download to `path`, which appears when size and digest are right; a part that is left from before is continued."""
    part = path.with_suffix(".zip.part")
    advice = "run the same command again to go on, or set config.DOWNLOAD.url to a mirror"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.replace(part)
        have = part.stat().st_size if part.exists() else 0
        if have < size:
            headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
            with requests.get(url, stream=True, timeout=DOWNLOAD_TIMEOUT, headers=headers) as answer:
                answer.raise_for_status()
                resumed = answer.status_code == 206
                have = have if resumed else 0
                promised = answer.headers.get("Content-Length", "an unknown number of")
                if str(size - have) != promised:
                    raise UserError(f"{url} answers with {promised} bytes, not {size - have}; it is not the archive: {advice}.")
                with open(part, "ab" if resumed else "wb") as file, progress(
                        path.name, size, count=progressbar.DataSize) as bar:
                    for block in answer.iter_content(1 << 16):
                        file.write(block)
                        bar.update(file.tell())
        with open(part, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except requests.HTTPError as error:
        raise UserError(f"{url} could not be downloaded ({error}); {advice}.") from error
    except requests.RequestException as error:
        raise UserError(f"{url} could not be downloaded (no connection, or it broke off); {advice}.") from error
    except OSError as error:
        raise UserError(f"{part} can't be written ({error.strerror}); free space, then run the same command again.") from error
    if part.stat().st_size < size:
        raise UserError(f"{url} broke off after {part.stat().st_size} of {size} bytes; {advice}.")
    if digest != sha256:
        part.unlink()
        raise UserError(f"{url} is not what it should be (SHA-256 {digest}), and was deleted; {advice}.")
    part.rename(path)


def _unpack(path, folder):
    """Unpack the archive of a folder of images; whole or not at all, and nothing that leads out of the folder."""
    inner = re.escape("/".join(folder.parts[1:]))
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            for entry in entries:
                if stat.S_ISLNK(entry.external_attr >> 16) or not re.fullmatch(rf"{inner}/[\w-]+\.png", entry.filename):
                    path.unlink()
                    raise UserError(f"{path} holds {entry.filename!r}, which is no image of {folder}/; it was deleted, set "
                                    "config.DOWNLOAD.url to a source that you trust.")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            with progress(f"Unpacking {path.name}", len(entries)) as bar:
                for done, entry in enumerate(entries, start=1):
                    with archive.open(entry) as source, open(partial / Path(entry.filename).name, "wb") as target:
                        shutil.copyfileobj(source, target)
                    bar.update(done)
        partial.rename(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        path.unlink()
        raise UserError(f"{path} can't be unpacked ({error}); it was deleted, set config.DOWNLOAD.url to another "
                        "source.") from error
    except OSError as error:
        raise UserError(f"{path} can't be unpacked ({error.strerror}); free space, then run the same command again.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# -------------------------------------------------------------------------------------------------- weights files

WEIGHTS_LIMIT = 2 ** 30  # bytes that a weights file may unpack to; the largest there is, vgg19.npy, has 575 MB
BATCH_NORM = {"beta": 1, "gamma": 2, "moving_mean": 3, "moving_var": 4, "moving_variance": 4}  # their order in a layer

# All that a pickle of arrays asks for (NumPy 2 says numpy._core for numpy.core), and the opcodes that it has no use for.
PICKLE_NAMES = {"numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar",
                "_codecs.encode"}
PICKLE_UNUSED = (pickle.EXT1 + pickle.EXT2 + pickle.EXT4 + pickle.EMPTY_SET + pickle.ADDITEMS + pickle.FROZENSET
                 + pickle.BYTEARRAY8)


def load_arrays(path):
    """The one way in for weights: all arrays of a file, in the order of its layers, as `{name: array}`.

    Reads our own `.npz`, those of TensorLayer 1.x, 2.x and TensorLayerX, the `.h5` of TensorLayer 2.x and `vgg19.npy`
    (its convolutions), told apart by content. Names, shapes and dtypes (floats, integers, text) are the file's; arrays
    without a name are "0", "1", ..., those of vgg19.npy "conv1_1/kernel", "conv1_1/bias", ...; a foreign batch norm
    comes as beta, gamma, moving mean, moving variance. Arrays may be read-only. Nothing in a file is ever run.
    Raises UserError for a file that can't be opened, holds no weights, is damaged or too large, asks for a function or
    an object, or points outside of itself.
    """
    try:
        file = open(path, "rb")
    except OSError as error:
        raise UserError(f"{path} can't be opened ({error.strerror}); name a weights file that is there.") from error
    with file:
        try:
            _check_size(os.fstat(file.fileno()).st_size)
            arrays = dict(_reader(file)(file))
            if not arrays:
                raise UserError("holds no arrays; name a weights file.")
            return arrays if "architecture" in arrays else _in_layer_order(arrays)
        except UserError as error:
            raise UserError(f"{path} {_printable(error)}") from error
        except Exception as error:  # zipfile, pickle, NumPy and HDF5 each fail in their own ways on damaged bytes
            reason = _printable(error)[:100] or type(error).__name__
            raise UserError(f"{path} is damaged or cut off ({reason}); copy or download it again.") from error


def save_arrays(path, arrays):
    """The one way out for weights: `{name: array}` as `.npz` without pickles, whole or not at all.

    Equal arrays give equal bytes. Raises UserError where `path` can't be written, ValueError for an array of objects.
    The format: https://numpy.org/doc/stable/reference/generated/numpy.savez.html
    """
    with whole_file(path) as partial, open(partial, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _reader(file):
    """The function that yields name and array of each weight of an open file, told by the first bytes."""
    start = file.read(512)
    file.seek(0)
    for magic, reader in ((b"PK", _read_npz), (b"\x93NUMPY", _read_npy), (b"\x89HDF\r\n\x1a\n", _read_h5)):
        if start.startswith(magic):
            return reader
    if not start:
        raise UserError("is empty; copy or download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise UserError("is a Git LFS pointer, not the weights; run `git lfs pull` or download the file itself.")
    if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        raise UserError("is a web page, not the weights; open it in a browser and download the file from there.")
    raise UserError("is not a weights file; name an .npz, .npy or .h5.")


def _check_size(size):
    if size > WEIGHTS_LIMIT:
        raise UserError(f"unpacks to {size / 2 ** 30:,.1f} GiB, which no weights need; get it from a source you trust.")


def _in_layer_order(arrays):
    """Layers by number or as they first appear in the file, each batch norm in the order of BATCH_NORM."""
    if all(name.isdecimal() for name in arrays):
        return {name: arrays[name] for name in sorted(arrays, key=int)}
    layers = {}

    def place(name):
        layer, _, weight = name.replace(".", "/").rpartition("/")
        return layers.setdefault(layer, len(layers)), BATCH_NORM.get(weight.removesuffix(":0"), 0)

    return {name: arrays[name] for name in sorted(arrays, key=place)}


def _read_npz(file):
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_size(sum(entry.file_size for entry in entries))
        if not all(entry.filename.endswith(".npy") for entry in entries):
            raise UserError("is an archive of other files than arrays; name a weights file.")
        for entry in entries:
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("compressed as no .npz is")  # and zipfile inflates the other kinds without a bound
            with archive.open(entry) as packed:
                data = packed.read(entry.file_size)  # a bare read() inflates a gigabyte, whatever the size above says
            yield from _read_npy(io.BytesIO(data), entry.filename.removesuffix(".npy"))


def _read_npy(file, name="0"):
    """One array, or those pickled in it; https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"""
    np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)  # np.save writes version 1
    if dtype.hasobject:
        yield from _read_pickle(file)
    else:
        yield name, _array(file.read(), dtype, shape, fortran)


def _array(data, dtype, shape, fortran):
    """An array on the bytes `data`, without a copy; ValueError unless they are just as many as dtype and shape say."""
    if dtype.kind not in "fiubU":
        raise ValueError(f"an array of {dtype}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _read_h5(file):
    """Weights in the order of the attributes `layer_names` and `weight_names`, which TensorLayer 2.x and Keras 2 write."""
    with h5py.File(file.name, "r") as root:
        if "layer_names" not in root.attrs:
            raise UserError("does not say the order of its layers, as TensorLayer 2.x does; save the weights as .npz.")
        total = 0
        for layer in map(_text, root.attrs["layer_names"]):
            group = _inside(root, layer)
            for name in map(_text, group.attrs["weight_names"]):
                dataset = _inside(group, name)
                if dataset.chunks or dataset.external or dataset.is_virtual or dataset.dtype.kind not in "fiu":
                    raise UserError(f"keeps {name:.80} in pieces or in another file; get it from a source you trust.")
                total += dataset.nbytes
                _check_size(total)
                yield name, dataset[()]


def _inside(group, path):
    """What lies at a path in an HDF5 group, unless a link, which may lead to another file, is on the way there."""
    for part in path.split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise UserError(f"has a link or nothing at {path:.80}; get it from a source you trust.")
        group = group[part]
    return group


def _read_pickle(file):
    """A pickled list of arrays, or the convolutions of a pickled dict `{layer: [kernel, bias]}`."""
    *_, items = _Unpickler(file, encoding="bytes").load().state  # bytes: Python 2 wrote what is in arrays as text
    if not isinstance(items[0], list):
        yield from ((str(number), item.array()) for number, item in enumerate(items))
        return
    for layer, weights in sorted(zip(map(_text, items[0][::2]), items[0][1::2]), key=lambda item: natural(item[0])):
        if not layer.startswith("fc"):
            for name, weight in zip(("kernel", "bias"), weights, strict=True):
                yield f"{layer}/{name}", weight.array()


class _Unpickler(pickle._Unpickler):
    """Reads a pickle as data: what it would call becomes an inert `_Call`, and any name that arrays don't need is refused.

    Built on Python's own unpickler, not the one in C, in which ten bytes (LONG_BINPUT) take 64 GB. Dicts become flat
    lists of keys and values, since the hash of a key that is nested deeply enough overflows the stack.
    """

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1].extend((key, value))

    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if code not in PICKLE_UNUSED}
    dispatch |= {pickle.EMPTY_DICT[0]: dispatch[pickle.EMPTY_LIST[0]], pickle.DICT[0]: dispatch[pickle.LIST[0]],
                 pickle.SETITEMS[0]: dispatch[pickle.APPENDS[0]], pickle.SETITEM[0]: load_setitem}

    def find_class(self, module, name):
        asked = f"{module}.{name}"
        if asked.replace("numpy._core", "numpy.core") not in PICKLE_NAMES:
            raise UserError(f"asks for {asked:.80}, which no weights need; nothing was run, get it from a source you trust.")
        return _Call()

    def persistent_load(self, pid):
        asked = _text(pid) if isinstance(pid, (str, bytes)) else type(pid).__name__
        raise UserError(f"asks for the object {asked:.80} outside of itself; get it from a source you trust.")


class _Call:
    """A call that a pickle asks for, with its arguments, and the state that the result gets: noted, not done."""

    state = None

    def __init__(self, *args):
        self.args = args

    def __call__(self, *args):
        return _Call(*args)

    def __setstate__(self, state):
        self.state = state

    def array(self):
        """The array that NumPy would make of it; raises where arguments and state are not those of an array or a scalar."""
        _, shape, dtype, fortran, data = self.state or (1, (), self.args[0], False, self.args[1])
        dtype = np.dtype("".join((_text(dtype.state[1]), _text(dtype.args[0]))))  # byte order and kind: "<" and "f4"
        if isinstance(data, _Call):
            data = data.args[0].encode("latin1")  # so Python 3 writes bytes in protocols 0 to 2
        return _array(data, dtype, shape, fortran)


def _text(name):
    return name.decode() if isinstance(name, bytes) else name


def _printable(error):
    return "".join(char if char.isprintable() else " " for char in str(error))
