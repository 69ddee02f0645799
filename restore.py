"""Restoring photos. From Python: `from restore import Restorer; sr = Restorer()(lr)`."""
import collections
import dataclasses
import math
import os
import queue
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import utils
from utils import SCALE, UserError

import numpy as np

with utils.quiet():  # imported from Python, nobody else keeps TensorFlow's notes off the screen
    import keras
    import tensorflow as tf

    import data
    import model
    import results
    from degradations import shrink
    from engine import devices, upscaling
    from files import arrays, images
    from weights import load_blended

BLEND_STOPS = (0, 0.25, 0.5, 0.75, 1)  # shares of SRGAN to choose from on the page of a photo
BAND = 128  # rows of LR that are finished at once, as that takes several copies
BICUBIC_MARGIN = 4  # LR pixels: 2 to each side that the kernel reaches down, and 2 that it reaches up


class Restorer:
    """Upscales photos by 4, whatever their size: gray stays gray, and alpha stays alpha.

    restorer = Restorer()  # or Restorer("checkpoint/g_srgan.npz")
    sr = restorer(lr)
    """

    def __init__(self, weights: str | Path | model.Folded | keras.Model = "pretrained", *, blend: float = 1,
                 back_project: bool = True, self_ensemble: bool = False, memory_mb: int = 500, precision: str = "auto",
                 device: str | None = None):
        """weights: a file, a name as in `load_generator`, or a generator that is loaded already.

        blend: as in `load_blended`. back_project: give the result the colours and the brightness of its LR.
        self_ensemble: average over eight flips and turns. memory_mb: what the feature maps of a tile may take.
        precision: as RESTORE.precision. device: TensorFlow's name of one, None for its choice. Raises UserError.
        """
        with utils.quiet():
            generator = load_blended(weights, blend) if isinstance(weights, str | Path) else weights
            self.upscaler = upscaling.Upscaler(generator, memory_mb, device, devices.dtype_policy(precision))
        self.back_project, self.self_ensemble = back_project, self_ensemble

    def __call__(self, lr: np.ndarray, report: Callable[[float], None] | None = None) -> np.ndarray:
        """Upscale LR (H, W, C), uint8 or uint16, to SR (4 H, 4 W, C) of the same type.

        C: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha. report: called with the share that is done, from 0 to 1.
        """
        n_colours = 1 if lr.shape[2] < 3 else 3
        colours, alpha = lr[:, :, :n_colours], lr[:, :, n_colours:]
        if alpha.size:
            colours = arrays.spread_colours(colours, alpha)
        gray = not (colours != colours[:, :, :1]).any()
        if n_colours == 1:
            colours = np.broadcast_to(colours, (*colours.shape[:2], 3))
        height, width, channels = lr.shape
        sr = np.empty((SCALE * height, SCALE * width, channels), lr.dtype)
        image = (0, height, 0, width)
        tiles = self.upscaler.tiles(height, width)
        for number, (y, y_stop, x, x_stop) in enumerate(tiles):
            def report_tile(share, number=number):
                if report:
                    report((number + share) / len(tiles))

            top, _, left, right = seen = upscaling.around((y, y_stop, x, x_stop), BICUBIC_MARGIN, image)
            part = self._average(colours, seen, report_tile)
            for start, stop, *_ in upscaling.cut((y, y_stop, x, x_stop), math.ceil((y_stop - y) / BAND), 1):
                first, last, *_ = upscaling.around((start, stop, x, x_stop), BICUBIC_MARGIN, image)
                inside = np.s_[SCALE * (start - first):SCALE * (stop - first),
                               SCALE * (x - left):SCALE * (x_stop - left)]
                band = part[SCALE * (first - top):SCALE * (last - top)]
                if gray:
                    band = band.mean(axis=2, keepdims=True)
                if self.back_project:
                    band = back_project(band, colours[first:last, left:right, :band.shape[2]])
                target = sr[SCALE * start:SCALE * stop, SCALE * x:SCALE * x_stop]
                target[:, :, :n_colours] = model.quantize(band[inside], tf.as_dtype(sr.dtype))
                if alpha.size:
                    target[:, :, n_colours:] = images.resize(alpha[first:last, left:right], *band.shape[:2])[inside]
        return sr

    def _average(self, lr, tile, report):
        """SR of a tile, float32 in [-1, 1]; with `self_ensemble` the mean over eight flips and turns of all of LR."""
        if not self.self_ensemble:
            return self.upscaler.upscale(lr, *tile, report)
        total = 0
        for number in range(8):
            flip, turns = number % 2, number // 2
            turned, (y, y_stop, x, x_stop) = lr, tile
            if flip:
                turned, (x, x_stop) = lr[:, ::-1], (lr.shape[1] - x_stop, lr.shape[1] - x)
            for _ in range(turns):
                y, y_stop, x, x_stop = turned.shape[1] - x_stop, turned.shape[1] - x, y, y_stop
                turned = np.rot90(turned)
            sr = self.upscaler.upscale(turned, y, y_stop, x, x_stop)
            total = total + (np.rot90(sr, -turns)[:, ::-1] if flip else np.rot90(sr, -turns)) / 8
            report((number + 1) / 8)
        return total


def back_project(sr: np.ndarray, lr: np.ndarray) -> np.ndarray:
    """SR (4 H, 4 W, C), float32 in [-1, 1], with what its downsampled self lacks of LR (H, W, C), uint8 or uint16.

    One step of iterative back-projection (Irani and Peleg, 1991), by the bicubic that LR is made with.
    """
    lr = lr * np.float32(2 / np.iinfo(lr.dtype).max) - 1
    return sr + images.resize(lr - shrink(sr, sr.shape[0] // lr.shape[0]), *sr.shape[:2])


def map_ahead(function: Callable, items: Iterable, n_threads: int = 1) -> Iterator:
    """Yield `function(item)` of each item, in order, computed in threads at most `n_threads` ahead of the consumer."""
    running: collections.deque = collections.deque()
    pool = ThreadPoolExecutor(n_threads)
    try:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > n_threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def map_over_devices(function: Callable, items: Iterable, workers: list) -> Iterator:
    """Yield `function(worker, item)` of each item, in order. Each worker, one a device, has one item at a time."""
    if len(workers) == 1:  # in this thread, so that Ctrl-C ends it at once
        yield from (function(workers[0], item) for item in items)
        return
    idle: queue.SimpleQueue = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(item):
        worker = idle.get()
        try:
            return function(worker, item)
        finally:
            idle.put(worker)

    yield from map_ahead(run, items, len(workers))


# ------------------------------------------------------------------------------------------------------ restoring


@dataclasses.dataclass
class Photo:
    """A photo on its way from its file to that of its result.

    method: by which it is upscaled. shown_as: `target` without suffixes, if index.html is to show the photo. about:
    what its file says besides, which that of the result keeps. error: why there is no result.
    """

    path: Path
    target: Path
    method: str
    shown_as: Path | None = None
    lr: np.ndarray | None = None
    sr: np.ndarray | None = None
    about: images.Metadata | None = None
    error: UserError | None = None
    share_done: float = 0


def photos_to_restore(inputs: list[Path], output: Path, method: str) -> list[Photo]:
    """The photos that are named, and those of folders, to be restored by `method`.

    Results of a folder are laid out as its subfolders are. `output` is a folder, unless there is one photo and `output`
    ends as an image does: then it is the result's own file. Raises UserError if there are no photos, if several would
    go to one file, and if a result would replace a photo.
    """
    found: dict[Path, dict[Path, None]] = {}  # photos, each once, by the folder of their results
    for source in inputs:
        if not os.path.exists(source):
            raise UserError(f"{source} (--input) does not exist; name a photo or a folder of photos.")
        for path in data.find_images(source, "--input") if source.is_dir() else [source]:
            folder = output / (path.parent.relative_to(source) if source.is_dir() else "")
            found.setdefault(folder, {})[path] = None
    photos = [Photo(path, folder / f"{name}_gen.png", method, shown_as=folder / name)
              for folder, paths in found.items()
              for path, name in zip(paths, images.output_names(list(paths)), strict=True)]
    if images.is_image_name(output) and not output.is_dir():
        images.check_suffix(output)
        if len(photos) > 1:
            raise UserError(f"{output} (--output) is the name of one image, but there are {len(photos)} photos; name a "
                            "folder.")
        photos = [Photo(photos[0].path, output, method)]
    originals = {_file_id(photo.path) for photo in photos} - {None}
    for photo in photos:
        if _file_id(photo.target) in originals:
            which, other = ("the photo itself", "file") if photo.target == output else ("one of the photos", "folder")
            raise UserError(f"{photo.target} is {which}; name another {other} with --output.")
    for folder in dict.fromkeys(photo.target.parent for photo in photos):
        utils.check_writable(folder, "--output")
    return photos


def _file_id(path):
    """What all names of a file share, None where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def with_blend_stops(photo: Photo, blend: float) -> tuple[list[Photo], list[float]]:
    """The photo once for each share of SRGAN to choose from, and these shares; the one of `blend` keeps its file."""
    shares = sorted({*BLEND_STOPS, blend})
    name = photo.shown_as.name
    targets = [photo.target if share == blend else photo.target.with_name(f"{name}_{results.blend_name(share)}.png")
               for share in shares]
    return [dataclasses.replace(photo, target=target, method=results.blend_name(share))
            for share, target in zip(shares, targets, strict=True)], shares


def restore(photos: list[Photo], restorers: list[dict[str, Callable]], output: Path) -> int:
    """Restore photos and write the page that shows them; a failure does not stop the others.

    restorers: of each device what maps LR and `report` to SR, as `Restorer` does, by method. While they compute, the
    next photo is read and the last one is written: two results are in memory at most, and one more for each further
    device. Returns the exit code, 1 if some failed.
    """
    shown: dict[Path, dict] = {}  # what the page has, by photo
    numbers = {id(photo): number for number, photo in enumerate(photos, start=1)}

    def read(photo):
        photo.lr = images.read_image(photo.path, native=True)
        photo.about = images.read_metadata(photo.path)
        images.check_size(photo.target, *(SCALE * side for side in photo.lr.shape[:2]))

    def upscale(of_device, photo):
        number = f"{numbers[id(photo)]} of {len(photos)}, " if len(photos) > 1 else ""
        label, = results.short_names([number + photo.path.name], 40).values()

        def report(share):
            photo.share_done = share
            bar.set_description_str(label, refresh=False)
            bar.update(sum(photo.share_done for photo in photos))

        report(0)
        photo.sr = of_device[photo.method](photo.lr, report)

    def write(photo):
        images.write_image(photo.target, photo.sr, photo.about)
        photo.sr = None  # the bicubic for the page is as large
        height, width = photo.lr.shape[:2]
        if photo.shown_as:
            if photo.path not in shown:
                shown[photo.path] = results.page_entry(output, photo.shown_as, photo.lr)
            shown[photo.path]["pictures"][photo.method] = results.page_url(output, photo.target)
        print(f"{photo.path} {width}x{height} -> {photo.target} {SCALE * width}x{SCALE * height}")

    def step(function):
        def run(*arguments):
            *_, photo = arguments
            try:
                if not photo.error:
                    function(*arguments)
            except UserError as error:
                photo.error = error
            except (MemoryError, tf.errors.OpError):
                photo.error = UserError(f"{photo.path} is too large for the memory here; cut it into parts.")
            return photo

        return run

    def finish(photo):
        step(write)(photo)
        photo.share_done, photo.lr, photo.sr = 1, None, None
        if photo.error:
            utils.print_error(photo.error)

    with utils.progress("", len(photos), counter=False, delay=1) as bar:
        upscaled = map_over_devices(step(upscale), map_ahead(step(read), photos), restorers)
        collections.deque(map_ahead(finish, upscaled), maxlen=0)
    n_failed = sum(photo.error is not None for photo in photos)
    if n_failed:
        print(f"{n_failed} of {len(photos)} failed.", file=sys.stderr)
    if shown:
        results.write_restored_page(output, list(shown.values()))
    return 1 if n_failed else 0
