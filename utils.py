"""Files, images, training data, metrics and weights files. Knows no network."""
import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import progressbar
import tensorflow as tf
from PIL import Image, ImageCms

SCALE = 4  # the article's upscaling factor, everywhere
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class UserError(Exception):
    """What a user can mend; the message is one sentence that names the file or setting, what is wrong and what to do."""


# ---------------------------------------------------------------------------------------------------------- files


@contextlib.contextmanager
def whole_file(path):
    """Write a file whole or not at all: yields a temporary path beside `path`, which takes its place at the end.

    Raises UserError where the folder can't be written or the disk is full; what was at `path` before is then intact.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
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


def progress(label, total, **variables):
    """A progress bar with time left, on stderr; `bar.update(done, name=value)` for the names given in `variables`.

    Where stderr is a file, a line every 30 seconds instead.
    """
    widgets = [f"{label} ", progressbar.SimpleProgress(), " ", progressbar.Bar(), " ", progressbar.ETA()]
    for name, form in variables.items():
        widgets += ["  ", progressbar.Variable(name, format="{name} {formatted_value}", width=1, precision=form)]
    return progressbar.ProgressBar(
        max_value=total, widgets=widgets, redirect_stdout=True, min_poll_interval=0.1 if sys.stderr.isatty() else 30)


def natural(path):
    """Sort key that puts `im2.jpg` before `im10.jpg`."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", Path(path).name)]


# --------------------------------------------------------------------------------------------------------- images


def list_images(folder):
    """Image files directly in a folder, in natural order, as a list of `Path`; told by their endings."""
    return sorted((p for p in Path(folder).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()), key=natural)


def output_names(paths):
    """What each image's results are called: its stem, with its ending where two would share a name (`a_jpg`)."""
    stems = [Path(path).stem for path in paths]
    return [stem if stems.count(stem) == 1 else f"{stem}_{Path(path).suffix[1:]}" for path, stem in zip(paths, stems)]


def read_image(path, native=False):
    """The one way in for images: PNG, JPEG, WebP, BMP, TIFF or GIF (first frame), turned upright by its EXIF orientation.

    Returns uint8 RGB (H, W, 3) in [0, 255]; alpha is dropped, 16 bits are rounded to 8, colours are converted to sRGB
    by the file's profile. With `native`, what the file holds: (H, W, C) with C = 1 gray, 2 gray and alpha, 3 RGB or
    4 RGB and alpha, uint8 or, where the file has more than 8 bits, uint16 in [0, 65535].
    Raises UserError where the file can't be read.
    """
    try:
        image = _decode(path)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, cv2.error, MemoryError) as error:
        raise UserError(f"{path} can't be read as an image ({error}); replace it or take it out of the folder.") from error
    if native:
        return image
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.shape[2] < 3:
        return np.repeat(image[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])


def _decode(path):
    with Image.open(path) as image:
        orientation = image.getexif().get(0x0112, 1)
        if _is_deep(image):
            return _upright(_decode_deep(path), orientation)
        profile = image.info.get("icc_profile")
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        elif image.mode in ("1", "L") and "transparency" not in image.info:
            image = image.convert("L")
        elif image.mode in ("L", "LA", "La"):
            image = image.convert("LA")
        elif "A" in image.mode or "a" in image.mode or "transparency" in image.info:
            image = image.convert("RGBA")
        elif image.mode not in ("CMYK", "LAB"):
            image = image.convert("RGB")
        if profile and image.mode in ("RGB", "CMYK", "LAB"):
            image = _to_srgb(image, profile)
        elif image.mode in ("CMYK", "LAB"):
            image = image.convert("RGB")
        pixels = np.asarray(image)
    return _upright(pixels.reshape(*pixels.shape[:2], -1), orientation)


def _is_deep(image):
    """More than 8 bits a channel; Pillow itself cuts 16-bit colour to 8."""
    bits = image.tag_v2.get(258, (8,)) if image.format == "TIFF" else (8,)
    return image.mode.startswith("I") or image.mode == "F" or max(bits) > 8 or (
        image.format == "PNG" and any(str(tile[3]).find("16") >= 0 for tile in image.tile))


def _decode_deep(path):
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise OSError("no decoder for it")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[2] >= 3:
        pixels = pixels[:, :, [2, 1, 0, 3][:pixels.shape[2]]]
    if pixels.dtype.kind == "f":
        pixels = np.nan_to_num(pixels, nan=0.0, posinf=0.0, neginf=0.0)
        # Float TIFF has no fixed white: 1, 255 and 65535 are in use.
        white = next((w for w in (1.0, 255.0) if pixels.max() <= w), 65535.0)
        pixels = np.clip(np.rint(pixels * (65535.0 / white)), 0, 65535).astype(np.uint16)
    elif pixels.dtype != np.uint8:
        pixels = np.clip(pixels, 0, 65535).astype(np.uint16)
    return pixels


def _to_srgb(image, profile):
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # a damaged profile is no reason to lose the photo
        return image.convert("RGB")


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
    """The one way out for images: (H, W, C) as `read_image` gives it, in the format of the ending, whole or not at all."""
    with whole_file(path) as partial:
        if image.dtype == np.uint16:
            order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[2], [0])
            cv2.imwrite(str(partial), image[:, :, order])
        else:
            Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(partial)


def resize(image, height, width, method="bicubic"):
    """Resize uint8 (H, W, C) by `bicubic`, `lanczos3` or `nearest` as MATLAB's imresize does, antialiased when it shrinks.

    `tf.image.resize`, rounded and clipped to uint8: https://www.tensorflow.org/api_docs/python/tf/image/resize
    """
    resized = tf.image.resize(image, (height, width), method=method, antialias=method != "nearest")
    return tf.saturate_cast(tf.round(resized), tf.uint8).numpy()


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

    def crop(self, y, x, size):
        """The LR (size, size, 3) at row y and column x of the LR, and its HR (4 size, 4 size, 3), both uint8."""
        # Opened for each crop: an open map of each of 800 photos is 800 open files, and what it touched stays in memory.
        data = np.memmap(self.path, np.uint8, "r")
        n_hr = self.height * self.width * 3
        hr = data[:n_hr].reshape(self.height, self.width, 3)
        lr = data[n_hr:].reshape(self.height // SCALE, self.width // SCALE, 3)
        return (np.array(lr[y:y + size, x:x + size]),
                np.array(hr[SCALE * y:SCALE * (y + size), SCALE * x:SCALE * (x + size)]))


def find_partners(files, lr_folder):
    """The LR file of each HR file, None where there is none: `0001x4.png` (as DIV2K) or `0001.png` for `0001.png`."""
    by_stem = {path.stem: path for path in list_images(lr_folder)} if lr_folder and Path(lr_folder).is_dir() else {}
    return [by_stem.get(f"{path.stem}x{SCALE}", by_stem.get(path.stem)) for path in files]


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


def cache_photos(files, lr_folder, cache_path, patch_size):
    """Decode every photo once, into raw files that crops are read from; what an earlier run decoded is used again.

    files: paths of HR images; lr_folder: where their LR partners are, if anywhere; patch_size: of HR.
    Returns the photos of at least a patch as a list of `Photo`; says in one line which were left out.
    Raises UserError where none is left.
    """
    files = [Path(path).absolute() for path in files]
    pairs = dict(zip(files, find_partners(files, lr_folder)))
    # The key changes with either file, so that a changed photo is decoded anew.
    keys = {hr: _digest(*(f"{p}|{p.stat().st_size}|{p.stat().st_mtime_ns}" for p in (hr, lr) if p))
            for hr, lr in pairs.items()}
    folder = Path(cache_path) / _digest(*sorted({str(path.parent) for path in files}), str(lr_folder))
    folder.mkdir(parents=True, exist_ok=True)
    cached = _find_cached(folder, set(keys.values()))

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
        with ThreadPoolExecutor(os.cpu_count()) as pool, progress("Decoding photos", len(missing)) as bar:
            for done, error in enumerate(pool.map(decode, missing), start=1):
                errors += [error] if error else []
                bar.update(done)
    if errors:
        print(f"Left out, {len(errors)} of {len(files)} photos: {' '.join(errors)}")
    photos = {path: cached[keys[path]] for path in files if keys[path] in cached}
    small = [path for path, photo in photos.items() if min(photo.height, photo.width) < patch_size]
    if small:
        print(f"Left out, {len(small)} of {len(files)} photos smaller than a patch of {patch_size} pixels: "
              f"{', '.join(path.name for path in small)}")
    if len(small) == len(photos):
        raise UserError(f"{files[0].parent} holds no photo that can be used; TRAIN.hr_img_path wants photos of at least "
                        f"{patch_size} pixels.")
    return [photo for path, photo in photos.items() if path not in small]


def _find_cached(folder, keys):
    """The photos in a cache folder by key; removes those whose original was changed or taken away."""
    cached = {}
    for path in folder.iterdir():
        match = re.fullmatch(r"(\w+)-(\d+)x(\d+)\.rgb", path.name)
        if match and match[1] in keys:
            cached[match[1]] = Photo(path, int(match[2]), int(match[3]))
        elif match or time.time() - path.stat().st_mtime > 3600:  # younger: another run is just writing it
            path.unlink()
    return cached


def _digest(*parts):
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def steps_per_epoch(photos, batch_size, patches_per_image):
    """Steps in which every photo gives its patches once; the last batch is filled up with some of them again."""
    return -(-len(photos) * patches_per_image // batch_size)


@functools.lru_cache(maxsize=2)
def _order(seed, epoch, n_photos, patches_per_image):
    return np.random.default_rng([*seed, epoch]).permutation(n_photos * patches_per_image) % n_photos


def batch(photos, seed, step, batch_size, patch_size, patches_per_image):
    """The batch of step `step`, from the seed (a tuple of integers) and the step alone, so that a run can be resumed.

    Each item is a random crop, flipped or not and turned by a random quarter. Returns uint8
    LR (batch_size, patch_size / 4, patch_size / 4, 3) and HR (batch_size, patch_size, patch_size, 3).
    """
    epoch, position = divmod(step, steps_per_epoch(photos, batch_size, patches_per_image))
    order = _order(seed, epoch, len(photos), patches_per_image)
    chosen = np.take(order, range(position * batch_size, (position + 1) * batch_size), mode="wrap")
    rng = np.random.default_rng([*seed, epoch, position])
    size = patch_size // SCALE
    pairs = []
    for index, (y, x), flip, turns in zip(
            chosen, rng.random((batch_size, 2)), rng.integers(2, size=batch_size), rng.integers(4, size=batch_size)):
        photo = photos[index]
        rows, columns = photo.height // SCALE - size + 1, photo.width // SCALE - size + 1
        pair = photo.crop(int(y * rows), int(x * columns), size)
        pairs.append([np.rot90(image[:, ::-1] if flip else image, turns) for image in pair])
    lr, hr = zip(*pairs)
    return np.stack(lr), np.stack(hr)


def batches(photos, seed, start, batch_size, patch_size, patches_per_image):
    """`batch` of the steps from `start` on, without end, as a tf.data.Dataset that reads ahead."""

    def load(step):
        return tf.numpy_function(
            lambda n: batch(photos, seed, int(n), batch_size, patch_size, patches_per_image), [step],
            [tf.uint8, tf.uint8], stateful=False)

    def shape(lr, hr):
        size = patch_size // SCALE
        return (tf.ensure_shape(lr, (batch_size, size, size, 3)),
                tf.ensure_shape(hr, (batch_size, patch_size, patch_size, 3)))

    steps = tf.data.Dataset.range(start, tf.int64.max)
    return steps.map(load).map(shape).prefetch(4)


# -------------------------------------------------------------------------------------------------- weights files


def load_arrays(path):
    with np.load(path) as file:
        return dict(file)


def save_arrays(path, arrays):
    with whole_file(path) as partial:
        np.savez(partial, **arrays)
