"""Photos of a run, the cache of decoded photos, and the batches made from it."""
import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import math
import os
import re
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import utils
from utils import UserError

import numpy as np
import tensorflow as tf
from easydict import EasyDict

import degradations
from config import is_div2k
from files import download, images, pairing, photo_files
from files.pairing import Pair

PACKAGED = {  # photos that scikit-image and scikit-learn ship
    "train": ("skimage/data/astronaut.png", "skimage/data/coffee.png", "skimage/data/rocket.jpg",
              "skimage/data/motorcycle_left.png", "skimage/data/hubble_deep_field.jpg", "skimage/data/grass.png",
              "skimage/data/gravel.png", "skimage/data/brick.png", "sklearn/datasets/images/flower.jpg"),
    "valid": ("skimage/data/chelsea.png", "sklearn/datasets/images/china.jpg"),
}


# -- which photos


def packaged_pairs(which: str) -> list[Pair]:
    """Photos of scikit-image and scikit-learn: "train" or "valid"."""
    roots = {name: Path(importlib.util.find_spec(name).origin).parent.parent for name in ("skimage", "sklearn")}
    return [(roots[name.split("/")[0]] / name, None) for name in PACKAGED[which]]


def is_demo(config: EasyDict) -> bool:
    """Whether to train on the bundled photos because no dataset was downloaded or configured."""
    return config.TRAIN.dataset == "folder" and _falls_back(config.TRAIN)


def _falls_back(part):
    """Whether a part of the settings, TRAIN or VALID, names DIV2K, which was not downloaded."""
    return is_div2k(part.hr_img_path) and not os.path.isdir(part.hr_img_path)


def training_photos(config: EasyDict) -> tuple[list[Pair], str]:
    """HR and LR files to train on, as `config.TRAIN` says, and a name for this set of photos. Raises UserError."""
    if is_demo(config):
        return packaged_pairs("train"), "packaged"
    if config.TRAIN.dataset == "flickr25k":
        folder = download.flickr25k()
        found = photo_files.find_images(folder, "TRAIN.dataset flickr25k")
        return [(path, None) for path in found], f"{folder.absolute()}\0"
    name = f"{Path(config.TRAIN.hr_img_path).absolute()}\0{config.TRAIN.lr_img_path}"
    return _configured_pairs(config.TRAIN, "TRAIN", config.TRAIN.scale), name


def validation_pairs(config: EasyDict, scale: int, announce: bool = True) -> list[Pair]:
    """HR and LR files to measure a network of that scale on, as `config.VALID` says. Raises UserError.

    announce: say so if these are the bundled photos.
    """
    if not _falls_back(config.VALID):
        return _configured_pairs(config.VALID, "VALID", scale)
    if announce:
        print(f"{config.VALID.hr_img_path} is not there: measuring on 2 bundled photos.")
    return packaged_pairs("valid")


def _configured_pairs(part, name, scale):
    files, lr_folder, lr_files = photo_files.find_images(part.hr_img_path, f"{name}.hr_img_path"), part.lr_img_path, []
    if is_div2k(lr_folder):
        lr_folder = str(Path(lr_folder).with_name(f"X{scale}"))
    if lr_folder and (os.path.isdir(lr_folder) or not is_div2k(part.lr_img_path)):  # DIV2K's may be missing
        lr_files = photo_files.find_images(lr_folder, f"{name}.lr_img_path", results_too=True)
    return pairing.pair_files(files, part.hr_img_path, scale, lr_files, lr_folder)


# -- pairs


def read_pair(hr_path: Path, lr_path: Path | None, scale: int,
              recipe: Mapping | None = None) -> tuple[np.ndarray, np.ndarray]:
    """HR, cropped to multiples of `scale`, and its LR, both uint8 RGB (H, W, 3).

    LR that has no file is made from HR, by a recipe of `config.DEGRADATION` always the same for a name. Raises
    UserError if a file can't be read or sizes do not match.
    """
    image = images.read_image(hr_path)
    hr = degradations.crop_to_scale(image, scale)
    height, width = hr.shape[0] // scale, hr.shape[1] // scale
    if not (height and width):
        raise UserError(f"{hr_path} is smaller than {scale}x{scale} pixels; take it out of the folder.")
    if not lr_path:
        rng = np.random.default_rng(zlib.crc32(os.fsencode(hr_path.stem)))
        return hr, degradations.degrade(hr, scale, recipe or {}, rng)
    lr = images.read_image(lr_path)
    rounded_up = tuple(math.ceil(side / scale) for side in image.shape[:2])  # as MATLAB's imresize does
    if lr.shape[:2] not in ((height, width), rounded_up):
        raise UserError(
            f"{lr_path} is {lr.shape[1]}x{lr.shape[0]}, not 1/{scale} of {hr_path} ({width}x{height}); "
            "make it again or take it out of the folder.")
    return hr, lr[:height, :width]


def read_pairs(pairs: Sequence[Pair], scale: int,
               recipe: Mapping | None = None) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """Yield HR path, HR and LR of each pair that can be measured, as `read_pair` does; prints why one can't.

    Raises UserError if none can.
    """
    smallest = 2 * scale + 11  # SSIM's window, inside the border that is cut off
    found = False
    for hr_path, lr_path in pairs:
        try:
            hr, lr = read_pair(hr_path, lr_path, scale, recipe)
            if min(hr.shape[:2]) < smallest:
                raise UserError(f"{hr_path} is too small to be measured, which takes {smallest} pixels; take it out of "
                                "VALID.hr_img_path.")
        except UserError as error:
            print(f"Left out: {error}", file=sys.stderr)
        else:
            found = True
            yield hr_path, hr, lr
    if pairs and not found:
        raise UserError("None of the validation images can be used; set VALID.hr_img_path to a folder of photos.")


# -- the cache of decoded photos


@dataclasses.dataclass(frozen=True)
class CachedPhoto:
    """A decoded photo: a file of HR bytes (height x width x 3), both multiples of `scale`, then LR bytes."""

    path: Path
    height: int
    width: int
    scale: int

    @property
    def n_bytes(self) -> int:
        return self.height * self.width * 3 * (self.scale ** 2 + 1) // self.scale ** 2

    def crop_hr(self, y: int, x: int, size: int) -> np.ndarray:
        """HR (size, size, 3), uint8, from row y and column x. Raises UserError if the file is gone or was cut short."""
        return self._crop(0, self.width, y, x, size)

    def crop_lr(self, y: int, x: int, size: int) -> np.ndarray:
        """LR (size, size, 3), uint8, from row y and column x of LR. Raises UserError as `crop_hr` does."""
        return self._crop(self.height * self.width * 3, self.width // self.scale, y, x, size)

    def _crop(self, start, width, y, x, size):
        # Read row by row, not mapped: not every file system can map a file, and one cut short while mapped kills the
        # process. The file is opened for each crop, as those of a large dataset would be too many to keep open.
        pixels = bytearray()
        try:
            with open(self.path, "rb", buffering=0) as file:
                for row in range(y, y + size):
                    file.seek(start + 3 * (row * width + x))
                    pixels += file.read(3 * size)
            return np.frombuffer(pixels, np.uint8).reshape(size, size, 3)
        except (OSError, ValueError) as error:  # ValueError: fewer bytes
            reason = getattr(error, "strerror", None) or "it is shorter than it was"
            raise UserError(f"{self.path} can't be read ({reason}); the decoded photos (TRAIN.cache_path) were deleted "
                            "or changed while in use: run the same command again to restore them.") from error


def cache_photos(pairs: Sequence[Pair], name: str, cache_path: str | Path, patch_size: int,
                 scale: int) -> list[CachedPhoto]:
    """Decode every photo once, into raw files that crops are read from; reuses what an earlier run decoded.

    pairs, name: of `training_photos`; patch_size: of HR. Prints which photos are smaller than a patch or can't be
    read, in a line each, and returns the others. Raises UserError if there are none.
    """
    keys = {(hr.absolute(), lr): _cache_key(hr.absolute(), lr) for hr, lr in pairs}
    folder = Path(cache_path) / _digest(name)
    known = folder.is_dir()
    cached, n_gone = _find_cached(folder, set(keys.values()), scale)
    missing = {key: pair for pair, key in keys.items() if key not in cached}
    errors = []
    if missing:
        utils.check_writable(Path(cache_path), "TRAIN.cache_path")
        decoded, errors = _decode(missing, folder, scale)
        cached |= decoded
    _mark_as_used(cached.values())
    if known and (len(missing) > len(errors) or n_gone):
        print(f"Photos since the last run: {len(missing) - len(errors)} new or changed, {n_gone} gone or changed.")
    if errors:
        more = f" And {len(errors) - 3} more." if len(errors) > 3 else ""
        print(f"Left out, {len(errors)} of {len(keys)} photos: {' '.join(errors[:3])}{more}")
    photos = {path: cached[key] for (path, _), key in keys.items() if key in cached}
    small = [path.name for path, photo in photos.items() if min(photo.height, photo.width) < patch_size]
    if small:
        print(f"Left out, {len(small)} of {len(keys)} photos smaller than a patch of {patch_size} pixels: "
              f"{utils.listing(small, 3)}")
    if len(small) == len(photos):
        raise UserError(f"None of the {len(keys)} photos can be used; set TRAIN.hr_img_path to a folder of photos of "
                        f"at least {patch_size} pixels.")
    return [photo for photo in photos.values() if min(photo.height, photo.width) >= patch_size]


def _decode(pairs, folder, scale):
    """Decode pairs, HR and LR path by key, into the cache. Returns their photos by key, and why any is left out."""
    photos = {}

    def decode(key):
        try:
            hr, lr = read_pair(*pairs[key], scale)
        except UserError as error:
            return str(error)
        path = folder / f"{key}-{hr.shape[0]}x{hr.shape[1]}_x{scale}.rgb"
        with utils.atomic_write(path) as partial, open(partial, "wb") as file:
            file.write(hr.tobytes())
            file.write(lr.tobytes())
        photos[key] = CachedPhoto(path, *hr.shape[:2], scale)

    errors = []
    # More than 8 threads gain little, and each holds a photo as float32.
    with ThreadPoolExecutor(min(8, os.cpu_count())) as pool, utils.progress("Decoding photos", len(pairs)) as bar:
        for done, error in enumerate(pool.map(decode, pairs), start=1):
            errors += [error] if error else []
            bar.update(done)
    return photos, errors


KEPT = 30 * 86400  # seconds for which the cache keeps what no run has begun with: a training may take weeks


def _find_cached(folder, keys, scale):
    """Photos in a cache folder by key, and how many of the last run's have other keys, as their originals are gone.

    Deletes what has not been used for long. Younger ones, and those of another scale, another run may be using.
    """
    cached, others, times, now = {}, [], [0], time.time()
    for path in folder.iterdir() if folder.is_dir() else ():
        match = re.fullmatch(r"(\w+)-(\d+)x(\d+)(?:_x(\d))?\.rgb", path.name)
        photo = match and CachedPhoto(path, *map(int, match.groups(default="4")[1:]))  # 4: of an earlier version
        status = path.stat()
        if now - status.st_mtime > (KEPT if photo else 3600) and not (photo and match[1] in keys):
            with contextlib.suppress(OSError):
                path.unlink()
        elif photo and photo.scale == scale:
            times.append(status.st_mtime)
            if match[1] not in keys:
                others.append(status.st_mtime)
            elif status.st_size == photo.n_bytes:
                cached[match[1]] = photo
    return cached, others.count(max(times))


def _mark_as_used(photos):
    """Give all photos in the cache that a run begins with the same time, by which `_find_cached` knows them."""
    now = time.time()
    for photo in photos:
        with contextlib.suppress(OSError):  # the cache may be read-only
            os.utime(photo.path, (now, now))


def _cache_key(hr_path, lr_path):
    """A digest of how photos are decoded and shrunk, and of path, size and time of a photo's files."""
    return _digest(f"{images.DECODER_VERSION} {degradations.VERSION}",
                   *(_fingerprint(path) for path in (hr_path, lr_path) if path))


def _fingerprint(path):
    try:
        status = path.stat()
    except OSError:  # a broken link, which reading it reports
        return str(path)
    return f"{path}|{status.st_size}|{status.st_mtime_ns}"


def _digest(*parts):
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:24]


# -- batches

MARGIN = 16  # LR pixels that a patch to be degraded is cut from besides its own: a block of JPEG at half the colours


class Patches:
    """Training batches of random patches, a function of phase and step alone, so that a run can be resumed.

    photos: of `cache_photos`; seed: an integer; patch_size: of HR, a multiple of the scale; patches_per_image: how
    many patches a photo gives per epoch; recipe: of `config.DEGRADATION`, to make LR by; without one it is the cache's.
    """

    def __init__(self, photos: list[CachedPhoto], seed: int, batch_size: int, patch_size: int, patches_per_image: int,
                 recipe: Mapping | None = None):
        self.photos, self.seed, self.batch_size = photos, seed, batch_size
        self.patch_size, self.patches_per_image, self.scale = patch_size, patches_per_image, photos[0].scale
        self.recipe = recipe
        self.error = None  # the UserError that ended `dataset`

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every photo gives its patches once; the last batch is filled up with some of them again."""
        return math.ceil(len(self.photos) * self.patches_per_image / self.batch_size)

    def batch(self, phase: int, step: int, share: int = 0, n_shares: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The batch of a step, or share number `share` of `n_shares`, which must divide the batch size.

        Each item is a random crop, flipped at random and rotated by a random multiple of 90 degrees. Returns uint8
        LR (N, patch_size / scale, patch_size / scale, 3) and HR (N, patch_size, patch_size, 3), N = batch_size /
        n_shares.
        Raises UserError if the cache can't be read.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _shuffle(self.seed, phase, epoch, len(self.photos), self.patches_per_image)
        chosen = np.take(order, range(position * self.batch_size, (position + 1) * self.batch_size), mode="wrap")
        rng = np.random.default_rng([self.seed, phase, epoch, position])
        items = list(zip(chosen, rng.random((self.batch_size, 2)), rng.integers(2, size=self.batch_size),
                         rng.integers(4, size=self.batch_size), strict=True))
        first = share * self.batch_size // n_shares
        pairs = []
        for number, (index, place, flip, turns) in list(enumerate(items))[first:first + self.batch_size // n_shares]:
            pair = self._pair(self.photos[index], place, [self.seed, phase, epoch, position, number])
            pairs.append([np.rot90(image[:, ::-1] if flip else image, turns) for image in pair])
        lr, hr = zip(*pairs, strict=True)
        return np.stack(lr), np.stack(hr)

    def _pair(self, photo, place, seed):
        """LR and HR of a patch of a photo. place: row and column, from 0 to 1."""
        scale, size = self.scale, self.patch_size // self.scale
        height, width = photo.height // scale, photo.width // scale
        side = min(size + MARGIN, height, width) if self.recipe else size
        top, left = (int(share * (length - side + 1)) for share, length in zip(place, (height, width), strict=True))
        hr = photo.crop_hr(scale * top, scale * left, scale * side)
        if not self.recipe:
            return photo.crop_lr(top, left, size), hr
        rng = np.random.default_rng(seed)
        lr = degradations.degrade(hr, scale, self.recipe, rng)
        y, x = rng.integers(side - size + 1, size=2)  # so that JPEG's grid of 8x8 falls anywhere
        return lr[y:y + size, x:x + size], hr[scale * y:scale * (y + size), scale * x:scale * (x + size)]

    def dataset(self, phase: int, start: int, stop: int, shares: Sequence[int] = (0,),
                n_shares: int = 1) -> tf.data.Dataset:
        """`batch` for the steps [start, stop), each step as one element per share, read ahead in the background.

        Iterate over it within `user_errors`.
        """

        def load(number):
            step, share = divmod(int(number), len(shares))
            try:
                return self.batch(phase, step, shares[share], n_shares)
            except UserError as error:
                self.error = error
                raise

        def with_shape(lr, hr):
            n, size = self.batch_size // n_shares, self.patch_size
            lr_size = size // self.scale
            return tf.ensure_shape(lr, (n, lr_size, lr_size, 3)), tf.ensure_shape(hr, (n, size, size, 3))

        numbers = tf.data.Dataset.range(start * len(shares), stop * len(shares))
        loaded = numbers.map(lambda number: tf.numpy_function(load, [number], [tf.uint8, tf.uint8], stateful=False),
                             num_parallel_calls=2 if self.recipe else 1, deterministic=True)
        options = tf.data.Options()
        options.autotune.enabled = False  # nothing to tune, and waiting for its thread to end takes up to 8 s
        return loaded.map(with_shape).prefetch(4 * len(shares)).with_options(options)

    @contextlib.contextmanager
    def user_errors(self) -> Iterator[None]:
        """Raise the UserError of `batch` where TensorFlow raises an error of its own because of it."""
        try:
            yield
        except tf.errors.OpError:
            if self.error:
                raise self.error from None
            raise


@functools.lru_cache(maxsize=2)
def _shuffle(seed, phase, epoch, n_photos, patches_per_image):
    return np.random.default_rng([seed, phase, epoch]).permutation(n_photos * patches_per_image) % n_photos
