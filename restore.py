"""Restoring photos. From Python: `from restore import Restorer; sr = Restorer()(lr)`."""
import collections
import dataclasses
import math
import os
import queue
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import module_names  # noqa: F401
import utils
from utils import UserError

import numpy as np
import scipy.ndimage
from easydict import EasyDict
from PIL import Image

with utils.quiet():  # imported from Python, nobody else keeps TensorFlow's notes off the screen
    import keras
    import tensorflow as tf

    import model
    import results
    import weights
    from degradations import shrink
    from engine import devices, upscaling
    from files import arrays, images, photo_files
    from files.outputs import OutputFolder
    from weights import is_for_photos, load_blended

BLEND_STOPS = (0, 0.25, 0.5, 0.75, 1)  # shares of SRGAN to choose from on the page of a photo
BAND = 128  # rows of LR that are finished at once, as that takes several copies
BICUBIC_MARGIN = 4  # LR pixels: 2 to each side that the kernel reaches down, and 2 that it reaches up
COLOUR_SIGMA = 4  # LR pixels: a Gaussian that leaves nothing of the blocks of JPEG, which have 8


class Restorer:
    """Upscales photos of any size by `scale`, that of the weights: gray stays gray, and alpha stays alpha.

    restorer = Restorer()  # or Restorer("checkpoint/g_srgan.npz")
    sr = restorer(lr)
    """

    def __init__(self, weights: str | Path | model.Folded | keras.Model = "photo", *, blend: float = 1,
                 back_project: bool | str = True, self_ensemble: bool = False, memory_mb: int = 500,
                 precision: str = "auto", device: str | None = None):
        """weights: a file, a name as in `load_generator`, or a generator that is loaded already.

        blend: as in `load_blended`. back_project: make the result equal LR when it is shrunk; "colours": only in its
        colours and brightness, without JPEG's blocks; for "photo" and "photo-srresnet" True means that.
        self_ensemble: average over eight flips and turns. memory_mb: what the feature maps of a tile may take.
        precision: as RESTORE.precision. device: TensorFlow's name of one, None for its choice. Raises UserError.
        """
        if not 0 <= blend <= 1:
            raise UserError(f"The blend is {blend}; give the share of SRGAN, from 0 to 1.")
        with utils.quiet():
            generator = load_blended(weights, blend) if isinstance(weights, str | Path) else weights
            self.upscaler = upscaling.Upscaler(generator, memory_mb, device, devices.dtype_policy(precision))
        self.scale, self.back_project, self.self_ensemble = self.upscaler.scale, bool(back_project), self_ensemble
        self.sigma = COLOUR_SIGMA if back_project == "colours" or (back_project and is_for_photos(weights)) else 0

    def n_tiles(self, height: int, width: int) -> int:
        """The number of tiles in which an LR of that size goes through the network."""
        return len(self.upscaler.tiles(height, width))

    def __call__(self, lr: np.ndarray | Image.Image, report: Callable[[float], None] | None = None) -> np.ndarray:
        """Upscale LR (H, W, C) to SR (scale H, scale W, C) of the same type: uint8, uint16, bool, or floats in [0, 1].

        C: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha; gray may be (H, W). 16 bits and floats may use a small part
        of their range. report: called with the share that is done, from 0 to 1. Raises UserError for other arrays.
        """
        sr, given = self._upscale(arrays.to_pixels(lr), report), np.asarray(lr)
        if given.dtype.kind == "f":
            sr = (sr / np.float32(65535)).astype(given.dtype)
        elif given.dtype.kind == "b":
            sr = sr > 127
        return sr[:, :, 0] if given.ndim == 2 and sr.shape[2] == 1 else sr

    def _upscale(self, lr, report):
        """LR (H, W, C), uint8 or uint16, to SR (scale H, scale W, C) of the same type."""
        n_colours = 1 if lr.shape[2] < 3 else 3
        colours, alpha = lr[:, :, :n_colours], lr[:, :, n_colours:]
        if alpha.size:
            colours = arrays.spread_colours(colours, alpha, self.upscaler.field + BICUBIC_MARGIN)
        colours, limits = arrays.stretch(colours)
        gray = not (colours != colours[:, :, :1]).any()
        if n_colours == 1:
            colours = np.broadcast_to(colours, (*colours.shape[:2], 3))
        scale, (height, width, channels) = self.scale, lr.shape
        margin = BICUBIC_MARGIN + 3 * self.sigma
        sr = np.empty((scale * height, scale * width, channels), lr.dtype)
        image = (0, height, 0, width)
        tiles = self.upscaler.tiles(height, width)
        for number, (y, y_stop, x, x_stop) in enumerate(tiles):
            def report_tile(share, number=number):
                if report:
                    report((number + share) / len(tiles))

            top, _, left, right = seen = upscaling.around((y, y_stop, x, x_stop), margin, image)
            part = self._average(colours, seen, report_tile)
            for start, stop, *_ in upscaling.cut((y, y_stop, x, x_stop), math.ceil((y_stop - y) / BAND), 1):
                first, last, *_ = upscaling.around((start, stop, x, x_stop), margin, image)
                inside = np.s_[scale * (start - first):scale * (stop - first),
                               scale * (x - left):scale * (x_stop - left)]
                band = part[scale * (first - top):scale * (last - top)]
                if gray:
                    band = band.mean(axis=2, keepdims=True)
                if self.back_project:
                    band = back_project(band, colours[first:last, left:right, :band.shape[2]], self.sigma)
                target = sr[scale * start:scale * stop, scale * x:scale * x_stop]
                band = model.quantize(band[inside], tf.as_dtype(sr.dtype)).numpy()
                target[:, :, :n_colours] = arrays.undo_stretch(band, *limits) if limits else band
                if alpha.size:
                    size = scale * (last - first), scale * (right - left)
                    target[:, :, n_colours:] = images.resize(alpha[first:last, left:right], *size)[inside]
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


def back_project(sr: np.ndarray, lr: np.ndarray, sigma: int = 0) -> np.ndarray:
    """SR, float32 in [-1, 1], plus the upscaled difference between LR, uint8 or uint16, and SR shrunk to it.

    One step of iterative back-projection (Irani and Peleg, 1991), by the bicubic that LR is made with. sigma: of the
    Gaussian, in pixels of LR, that smooths the difference.
    """
    lr = lr * np.float32(2 / np.iinfo(lr.dtype).max) - 1
    difference = lr - shrink(sr, sr.shape[0] // lr.shape[0])
    if sigma:
        difference = scipy.ndimage.gaussian_filter(difference, sigma, axes=(0, 1), mode="nearest", radius=3 * sigma)
    return sr + images.resize(difference, *sr.shape[:2])


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
class RestoreJob:
    """A photo on its way from its file to that of its result.

    method: by which it is upscaled. shown_as: `target` without suffixes, if index.html is to show the photo.
    is_chosen: whether the page opens on it. metadata: of the photo, for its result to keep. error: why there is no
    result.
    """

    path: Path
    target: Path
    method: str
    shown_as: Path | None = None
    is_chosen: bool = True
    lr: np.ndarray | None = None
    sr: np.ndarray | None = None
    metadata: images.Metadata | None = None
    error: UserError | None = None
    share_done: float = 0


def restore(arguments: Namespace, config: EasyDict) -> int:
    """Restore the photos of `--input`. Returns the exit code: 1 if some of them failed. Raises UserError."""
    options = config.RESTORE
    images.limit_pixels(options.max_megapixels)
    output = Path(arguments.output or Path(config.TRAIN.sample_path) / "evaluate")
    (name, path), = weights.find_generators(
        arguments.weights, Path(config.TRAIN.checkpoint_path), scoring=False).items()
    method = name if options.blend == 1 else results.blend_name(options.blend)
    jobs = photos_to_restore([Path(source) for source in arguments.input], output, method)
    blends = {method: options.blend}
    if options.blend < 1 and len(jobs) == 1 and jobs[0].shown_as:
        jobs, blends = with_blend_stops(jobs[0], name, options.blend)
        print(f"One photo is restored in {len(blends)} blends, to choose from on the page: "
              f"{', '.join(f'{share:g}' for share in blends.values())}. For {options.blend:g} alone, name a file with "
              "--output.")
    folder = output_folder(jobs, output)
    with utils.quiet():
        devices.choose_devices(config.TRAIN.devices)
    projected = "colours" if options.back_project and is_for_photos(path) else options.back_project
    generators = {method: (load_blended(path, share), projected) for method, share in blends.items()}
    restorers = make_restorers(generators, options, config)
    print(f"{name}: {weights.describe(path)}")
    print(f"Computing on {devices.describe()} in {devices.precision(options.precision)}.")
    return run_jobs(jobs, restorers, folder)


def make_restorers(generators: dict[str, tuple[model.Folded, bool | str]], options: EasyDict,
                   config: EasyDict) -> list[dict[str, Restorer]]:
    """For each device, the Restorer of each method.

    generators: by method, its weights and whether to project back. options: config.RESTORE, or config.VALID to score.
    """
    with utils.quiet():
        names = [device.name for device in devices.list_devices()]
    return [{method: Restorer(generator, back_project=back_project, self_ensemble=options.self_ensemble,
                              memory_mb=config.RESTORE.memory_mb, precision=options.precision, device=name)
             for method, (generator, back_project) in generators.items()} for name in names]


def photos_to_restore(inputs: list[Path], output: Path, method: str) -> list[RestoreJob]:
    """The photos that are named, and those of folders, to be restored by `method`.

    Results of a folder are laid out as its subfolders are. `output` is a folder, unless there is one photo and `output`
    ends as an image does: then it is the result's own file. Raises UserError if there are no photos or if several would
    go to one file.
    """
    found: dict[Path, dict[Path, None]] = {}  # photos, each once, by the folder of their results
    for source in inputs:
        for path in photo_files.find_images(source, "--input") if source.is_dir() else [source]:
            folder = output / (path.parent.relative_to(source) if source.is_dir() else "")
            found.setdefault(folder, {})[path] = None
    suffix = results.restored_suffix(method)
    jobs = [RestoreJob(path, folder / f"{name}_{suffix}.png", method, shown_as=folder / name)
            for folder, paths in found.items()
            for path, name in zip(paths, photo_files.output_names(list(paths)), strict=True)]
    if photo_files.is_image_name(output) and not output.is_dir():
        photo_files.check_suffix(output)
        if len(jobs) > 1:
            raise UserError(f"{output} (--output) is the name of one image, but there are {len(jobs)} photos; name a "
                            "folder.")
        jobs = [RestoreJob(jobs[0].path, output, method)]
    return jobs


def output_folder(jobs: list[RestoreJob], output: Path) -> OutputFolder:
    """The folder of `--output`; raises UserError if something of the user's would be replaced, or can't be written."""
    originals = {_file_id(job.path) for job in jobs} - {None}
    for job in jobs:
        if _file_id(job.target) in originals:
            which = "the photo itself" if len(originals) == 1 else "one of the photos"
            raise UserError(f"{job.target} is {which}; name another place with --output.")
    shown = {job.shown_as for job in jobs if job.shown_as}
    folder = OutputFolder(output if shown else output.parent, is_listed=bool(shown))
    folder.check([*(job.target for job in jobs), *([output / "index.html"] if shown else []),
                  *(path for name in shown for path in results.page_paths(output, name))])
    return folder


def _file_id(path):
    """The same for all names of a file; None where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def with_blend_stops(job: RestoreJob, name: str, blend: float) -> tuple[list[RestoreJob], dict[str, float]]:
    """The job once for each share of SRGAN to choose from, and the shares by method; name: of SRGAN itself."""
    shares = sorted({*BLEND_STOPS, blend})
    blends = {name if share == 1 else results.blend_name(share): share for share in shares}
    stem = job.shown_as.name
    return [dataclasses.replace(job, target=job.target.with_name(f"{stem}_{results.restored_suffix(method)}.png"),
                                method=method, is_chosen=share == blend) for method, share in blends.items()], blends


def run_jobs(jobs: list[RestoreJob], restorers: list[dict[str, Restorer]], output: OutputFolder) -> int:
    """Restore photos and write the page that shows them; a failure does not stop the others.

    restorers: of `make_restorers`. While they compute, the next photo is read and the last one is written: two results
    are in memory at most, and one more for each further device. Returns the exit code, 1 if some failed.
    """
    steps = _Steps(jobs, output, restorers)
    with utils.progress("", len(jobs), counter=False, delay=1) as steps.bar:
        upscaled = map_over_devices(steps.upscale, map_ahead(steps.read, jobs), restorers)
        collections.deque(map_ahead(steps.finish, upscaled), maxlen=0)
    n_failed = sum(job.error is not None for job in jobs)
    if n_failed:
        print(f"{n_failed} of {len(jobs)} failed.", file=sys.stderr)
    if steps.shown:
        results.write_restored_page(output, list(steps.shown.values()), steps.scale)
        print(f"To compare them, open {(output.folder / 'index.html').absolute()} in a browser.")
    return 1 if n_failed else 0


def _step(function):
    """Make a method a step of a job, its last argument, which it returns; a job that failed takes no further step."""

    def run(self, *arguments):
        *_, job = arguments
        try:
            if not job.error:
                function(self, *arguments)
        except UserError as error:
            job.error = error
        except (MemoryError, tf.errors.OpError):
            job.error = UserError(f"{job.path} is too large for the memory here; cut it into parts.")
        return job

    return run


class _Steps:
    """The steps of restoring photos, which run in threads of their own."""

    def __init__(self, jobs, output, restorers):
        self.jobs, self.output, self.n_devices = jobs, output, len(restorers)
        self.scale = next(iter(restorers[0].values())).scale
        self.is_estimated = False
        self.numbers = {id(job): number for number, job in enumerate(jobs, start=1)}
        self.shown = {}  # entries of the page, by photo

    @_step
    def read(self, job):
        job.lr = images.read_image(job.path, native=True)
        job.metadata = images.read_metadata(job.path)
        images.check_size(job.target, *(self.scale * side for side in job.lr.shape[:2]))

    @_step
    def upscale(self, of_device, job):
        number = f"{self.numbers[id(job)]} of {len(self.jobs)}, " if len(self.jobs) > 1 else ""
        label, = results.short_names([number + job.path.name], 40).values()
        restorer, began = of_device[job.method], time.monotonic()
        n_tiles = restorer.n_tiles(*job.lr.shape[:2])

        def report(share):
            if share * n_tiles >= 1 < n_tiles and not self.is_estimated:
                self.is_estimated = True
                self.estimate(job, n_tiles, (time.monotonic() - began) / share)
            job.share_done = share
            self.bar.set_description_str(label, refresh=False)
            self.bar.update(sum(job.share_done for job in self.jobs))

        report(0)
        job.sr = restorer(job.lr, report)

    def estimate(self, job, n_tiles, seconds):
        """Say how long a photo takes, and all of them, by the time of its first tile."""
        height, width = job.lr.shape[:2]
        line = (f"{job.path.name} is {width}x{height} and becomes {self.scale * width}x{self.scale * height}, in "
                f"{n_tiles} tiles: about {utils.time_left(seconds)}")
        if len(self.jobs) > 1:
            sizes = [images.image_size(job.path) or (0, 0) for job in self.jobs]
            total = seconds * sum(map(math.prod, sizes)) / (height * width) / self.n_devices
            line += f", and {utils.time_left(total)} for all {len(self.jobs)} results"
        print(f"{line}.")

    @_step
    def write(self, job):
        with self.output.replacing(job.target):
            images.write_image(job.target, job.sr, job.metadata)
        (height, width), (sr_height, sr_width) = job.lr.shape[:2], job.sr.shape[:2]
        job.sr = None  # the bicubic for the page is as large
        if job.shown_as:
            if job.path not in self.shown:
                self.shown[job.path] = results.page_entry(self.output, job.shown_as, job.lr, self.scale)
            entry = self.shown[job.path]
            entry["pictures"][job.method] = results.page_url(self.output.folder, job.target)
            if job.is_chosen:
                entry["result"] = job.method
        print(f"{job.path} {width}x{height} -> {job.target} {sr_width}x{sr_height}")

    def finish(self, job):
        self.write(job)
        job.share_done, job.lr, job.sr = 1, None, None
        if job.error:
            utils.print_error(job.error)
