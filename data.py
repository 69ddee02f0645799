"""Which photos a run uses, their decoded cache, training batches, and the downloads of DIV2K and MIRFLICKR-25k."""
import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import math
import mmap
import os
import re
import shutil
import stat
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import utils
from utils import UserError

import numpy as np
import requests
import tensorflow as tf
from easydict import EasyDict

import images
from config import is_div2k

PACKAGED = {  # photos that scikit-image and scikit-learn ship
    "train": ("skimage/data/astronaut.png", "skimage/data/coffee.png", "skimage/data/rocket.jpg",
              "skimage/data/motorcycle_left.png", "skimage/data/hubble_deep_field.jpg", "skimage/data/grass.png",
              "skimage/data/gravel.png", "skimage/data/brick.png", "sklearn/datasets/images/flower.jpg"),
    "valid": ("skimage/data/chelsea.png", "sklearn/datasets/images/china.jpg"),
}


def packaged_photos(which: str) -> list[Path]:
    """Photos of scikit-image and scikit-learn: "train" or "valid"."""
    return [Path(importlib.util.find_spec(name.split("/")[0]).origin).parent.parent / name for name in PACKAGED[which]]


def is_demo(config: EasyDict) -> bool:
    """Whether to train on the bundled photos because no dataset was downloaded or configured."""
    return config.TRAIN.dataset == "folder" and _falls_back(config.TRAIN)


def _falls_back(part):
    """Whether the photos of a part of the settings, TRAIN or VALID, are DIV2K, which was not downloaded."""
    return is_div2k(part.hr_img_path) and not os.path.isdir(part.hr_img_path)


def find_images(folder: str | Path, setting: str) -> list[Path]:
    """Image files of the folder that a setting names. Raises UserError if it does not exist or holds none."""
    if not os.path.isdir(folder):
        raise UserError(f"{setting} is {folder}, which is not a folder; set it to a folder of photos.")
    try:
        files = images.list_images(folder)
    except OSError as error:
        raise UserError(f"{folder} ({setting}) can't be read: {error.strerror}; set it to another folder.") from error
    if not files:
        raise UserError(f"{folder} ({setting}) holds no image; PNG, JPEG, WebP, BMP, TIFF and GIF files are read.")
    return files


def training_photos(config: EasyDict) -> tuple[list[Path], str]:
    """Image files and the folder of their LR partners, "" if there is none, as `config.TRAIN` says. Raises UserError."""
    if is_demo(config):
        return packaged_photos("train"), ""
    if config.TRAIN.dataset == "flickr25k":
        return find_images(flickr25k(), "TRAIN.dataset flickr25k"), ""
    return _configured_photos(config.TRAIN, "TRAIN")


def validation_pairs(config: EasyDict) -> list[tuple[Path, Path | None]]:
    """HR files and their LR files, None where LR is to be made, as `config.VALID` says. Raises UserError."""
    if _falls_back(config.VALID):
        print(f"{config.VALID.hr_img_path} is not there; measuring on two photos that scikit-image and scikit-learn ship. "
              "For DIV2K: python main.py --mode=download; for your own: config.VALID.hr_img_path.")
        files, lr_folder = packaged_photos("valid"), ""
    else:
        files, lr_folder = _configured_photos(config.VALID, "VALID")
    return list(zip(files, find_partners(files, lr_folder), strict=True))


def _configured_photos(part, name):
    """HR files and the LR folder of a part of the settings, TRAIN or VALID. DIV2K's LR folder may be missing."""
    if part.lr_img_path and not is_div2k(part.lr_img_path):
        find_images(part.lr_img_path, f"{name}.lr_img_path")
    return find_images(part.hr_img_path, f"{name}.hr_img_path"), part.lr_img_path


@dataclasses.dataclass(frozen=True)
class Photo:
    """A decoded photo in the cache: `height` and `width` of its HR, multiples of 4, whose bytes its LR's follow."""

    path: Path
    height: int
    width: int

    @property
    def n_bytes(self):
        return self.height * self.width * 3 * (utils.SCALE ** 2 + 1) // utils.SCALE ** 2

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
        lr = data[n_hr:].reshape(self.height // utils.SCALE, self.width // utils.SCALE, 3)
        return lr[y:y + size, x:x + size], hr[utils.SCALE * y:utils.SCALE * (y + size), utils.SCALE * x:utils.SCALE * (x + size)]


def find_partners(files, lr_folder):
    """The LR file of each HR file, None where there is none: `0001x4.png` (as DIV2K) or `0001.png` for `0001.png`.

    lr_folder: "" where LR is to be made; otherwise it is said how many have no partner in it.
    """
    if not lr_folder:
        return [None] * len(files)
    by_stem = {path.stem: path for path in images.list_images(lr_folder)} if Path(lr_folder).is_dir() else {}
    partners = [by_stem.get(f"{path.stem}x{utils.SCALE}", by_stem.get(path.stem)) for path in files]
    missing = [path.name for path, partner in zip(files, partners, strict=True) if partner is None]
    if missing:
        print(f"{len(missing)} of {len(files)} photos have no partner in {lr_folder}, their LR is made from them: "
              f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    return partners


def read_pair(hr_path, lr_path=None):
    """HR, cut to multiples of 4, and its LR, uint8 RGB; without a file of its own the LR is the antialiased bicubic.

    Raises UserError where a file can't be read or the sizes do not fit.
    """
    hr = images.crop_to_scale(images.read_image(hr_path))
    height, width = hr.shape[0] // utils.SCALE, hr.shape[1] // utils.SCALE
    if not (height and width):
        raise UserError(f"{hr_path} is smaller than {utils.SCALE}x{utils.SCALE} pixels; take it out of the folder.")
    lr = images.read_image(lr_path) if lr_path else images.resize(hr, height, width)
    if lr.shape != (height, width, 3):
        raise UserError(
            f"{lr_path} is {lr.shape[1]}x{lr.shape[0]}, not a quarter of {hr_path} ({width}x{height}); "
            "make it anew or take it out of the folder.")
    return hr, lr


def read_pairs(pairs):
    """HR path, HR and LR of each pair of files that can be measured, one after the other; says which can't.

    Raises UserError where there is none.
    """
    smallest = 2 * utils.SCALE + 11  # the window of SSIM, inside the border that is cut
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
    pairs = dict(zip(files, find_partners(files, lr_folder), strict=True))
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
        with utils.atomic_write(path) as partial, open(partial, "wb") as file:
            file.write(hr.tobytes())
            file.write(lr.tobytes())
        cached[keys[hr_path]] = Photo(path, *hr.shape[:2])

    missing = [path for path in files if keys[path] not in cached]
    errors = []
    if missing:
        # More threads than 8 gain little, and each holds a photo as float32.
        with ThreadPoolExecutor(min(8, os.cpu_count())) as pool, utils.progress("Decoding photos", len(missing)) as bar:
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


class Patches:
    """Training batches of random patches, a function of phase and step alone, so that a run can be resumed.

    photos: of `cache_photos`; seed: an integer; patch_size: of HR, a multiple of 4; patches_per_image: how many patches
    a photo gives per epoch.
    """

    def __init__(self, photos: list[Photo], seed: int, batch_size: int, patch_size: int, patches_per_image: int):
        self.photos, self.seed, self.batch_size = photos, seed, batch_size
        self.patch_size, self.patches_per_image = patch_size, patches_per_image
        self.error = None  # the UserError that ended `dataset`

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every photo gives its patches once; the last batch is filled up with some of them again."""
        return math.ceil(len(self.photos) * self.patches_per_image / self.batch_size)

    def batch(self, phase: int, step: int, share: int = 0, n_shares: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The batch of a step, or share number `share` of `n_shares`, which must divide the batch size.

        Each item is a random crop, flipped at random and rotated by a random multiple of 90 degrees. Returns uint8
        LR (N, patch_size / 4, patch_size / 4, 3) and HR (N, patch_size, patch_size, 3), N = batch_size / n_shares.
        Raises UserError if the cache can't be read.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _shuffle(self.seed, phase, epoch, len(self.photos), self.patches_per_image)
        chosen = np.take(order, range(position * self.batch_size, (position + 1) * self.batch_size), mode="wrap")
        rng = np.random.default_rng([self.seed, phase, epoch, position])
        items = list(zip(chosen, rng.random((self.batch_size, 2)), rng.integers(2, size=self.batch_size),
                         rng.integers(4, size=self.batch_size), strict=True))
        size = self.patch_size // utils.SCALE
        pairs = []
        for index, (y, x), flip, turns in items[share * self.batch_size // n_shares:][:self.batch_size // n_shares]:
            photo = self.photos[index]
            rows, columns = photo.height // utils.SCALE - size + 1, photo.width // utils.SCALE - size + 1
            pair = photo.crop(int(y * rows), int(x * columns), size)
            pairs.append([np.rot90(image[:, ::-1] if flip else image, turns) for image in pair])
        lr, hr = zip(*pairs, strict=True)
        return np.stack(lr), np.stack(hr)

    def dataset(self, phase: int, start: int, stop: int, shares: Sequence[int] = (0,), n_shares: int = 1) -> tf.data.Dataset:
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
            n, size = self.batch_size // n_shares, self.patch_size // utils.SCALE
            return tf.ensure_shape(lr, (n, size, size, 3)), tf.ensure_shape(hr, (n, self.patch_size, self.patch_size, 3))

        numbers = tf.data.Dataset.range(start * len(shares), stop * len(shares))
        loaded = numbers.map(lambda number: tf.numpy_function(load, [number], [tf.uint8, tf.uint8], stateful=False))
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
        print(f"{folder}/: {len(images.list_images(folder))} images.")


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
                with open(part, "ab" if resumed else "wb") as file, utils.progress(
                        path.name, size, unit_scale=True) as bar:
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
            with utils.progress(f"Unpacking {path.name}", len(entries)) as bar:
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
