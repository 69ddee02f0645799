"""Evaluation: scoring generators on validation images, and restoring photos (article, section 3.1)."""
import collections
import dataclasses
import os
import queue
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import utils
from utils import SCALE, UserError

import numpy as np
import tensorflow as tf

import data
import devices
import images
import model
import results
import weights


def evaluate(arguments, config) -> int:
    """Score the generators, or restore the photos of `--input`. Returns the exit code: 1 if some photos failed."""
    output = Path(arguments.output or Path(config.TRAIN.sample_path) / "evaluate")
    paths = find_generators(arguments.weights, Path(config.TRAIN.checkpoint_path))
    if arguments.input:  # check the photos first: loading weights takes seconds
        photos = photos_to_restore([Path(path) for path in arguments.input], output)
        paths = dict([list(paths.items())[-1]])
    else:
        pairs = data.validation_pairs(config)
    make_writable(output)
    with utils.quiet():
        devices.choose_devices(config.TRAIN.devices)
        names = [device.name for device in devices.list_devices()]
    restorers: list[dict] = [{} for _ in names]
    for method, path in paths.items():
        generator = weights.load_generator(path)
        for name, of_device in zip(names, restorers, strict=True):
            of_device[method] = Restorer(generator, config.VALID.memory_mb, name)
        print(f"{method}: {path}")
    if arguments.input:
        return restore(photos, [restorer for of_device in restorers for restorer in of_device.values()])
    return score(pairs, output, restorers, config.VALID.n_figures)


def find_generators(weights: str | None, trained: Path) -> dict[str, Path]:
    """The weights files to evaluate by method; raises UserError if there is none. trained: TRAIN.checkpoint_path."""
    if weights:
        return {Path(weights).stem: Path(weights)}
    shipped = Path(__file__).parent / "models"
    for candidates in ({"srresnet": trained / "g_srgan_init.npz", "srgan": trained / "g_srgan.npz"},
                       {"srresnet": shipped / "srresnet.npz", "srgan": shipped / "srgan.npz"}):
        found = {method: path for method, path in candidates.items() if path.exists()}
        if found:
            return found
    raise UserError(f"There are no trained weights in {trained}/ or models/; run python main.py first, or name a file "
                    "with --weights.")


def make_writable(folder: Path) -> None:
    """Make a folder for results; raises UserError if nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder} (--output) can't be written: {error.strerror}; name another folder.") from error


# ------------------------------------------------------------------------------------------------------ upscaling


class Restorer:
    """Upscales photos by 4: gray stays gray, alpha stays alpha."""

    def __init__(self, generator, memory_mb: int = 500, device: str | None = None):
        """memory_mb: what the feature maps of a tile may take; device: TensorFlow's name of one, None for its choice."""
        self.upscaler = model.Upscaler(generator, memory_mb, device)

    def __call__(self, photo: np.ndarray, report: Callable[[float], None] | None = None) -> np.ndarray:
        """(H, W, C), uint8 or uint16, C as in `images.read_image`, to (4 H, 4 W, C) of the same type.

        report: called with the share that is done, from 0 to 1.
        """
        n_colours = 1 if photo.shape[2] < 3 else 3
        colours, alpha = photo[:, :, :n_colours], photo[:, :, n_colours:]
        sr = np.empty((SCALE * photo.shape[0], SCALE * photo.shape[1], photo.shape[2]), photo.dtype)
        if alpha.size:
            sr[:, :, n_colours:] = images.resize(alpha, *sr.shape[:2])
        lr = np.repeat(colours, 3, axis=2) if n_colours == 1 else colours
        tiles = self.upscaler.tiles(*photo.shape[:2])
        for number, tile in enumerate(tiles):
            part = self.upscaler.upscale(
                lr, *tile, report and (lambda share, number=number: report((number + share) / len(tiles))))
            if n_colours == 1:
                part = part.mean(axis=2, keepdims=True)
            y, y_stop, x, x_stop = (SCALE * edge for edge in tile)
            sr[y:y_stop, x:x_stop, :n_colours] = model.quantize(part, tf.as_dtype(sr.dtype))
        return sr


def map_ahead(function: Callable, items: Iterable, n_threads: int = 1) -> Iterator:
    """Yield `function(item)` of each item, in order, computed in threads and at most `n_threads` ahead of the consumer."""
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
    """A photo on its way from its file to that of its result. image: LR, then SR; error: why there is none."""

    path: Path
    target: Path
    image: np.ndarray | None = None
    error: UserError | None = None
    share_done: float = 0


def photos_to_restore(sources: list[Path], output: Path) -> list[Photo]:
    """The photos that are named and those of the folders that are, each once; raises UserError if there is none."""
    files = []
    for source in sources:
        if not os.path.exists(source):
            raise UserError(f"{source} (--input) does not exist; name a photo or a folder of photos.")
        found = data.find_images(source, "--input") if source.is_dir() else [source]
        if source.is_dir() and output.is_dir() and source.samefile(output):
            photos = [path for path in found if not path.name.endswith("_gen.png")]
            if len(photos) < len(found):
                print(f"Not restored again: {len(found) - len(photos)} results (*_gen.png) of an earlier run.")
            found = photos
        files += [path for path in found if path not in files]
    return [Photo(path, output / f"{name}_gen.png") for path, name in zip(files, images.output_names(files), strict=True)]


def restore(photos: list[Photo], restorers: list[Callable]) -> int:
    """Restore photos; a failure does not stop the others. Returns the exit code, 1 if some failed.

    restorers: one a device, mapping LR and a `report` to SR, as `Restorer` does. While they compute, the next photo is
    read and the last one is written: memory holds two results at most, and one more for each further device.
    """
    numbers = {id(photo): number for number, photo in enumerate(photos, start=1)}

    def read(photo):
        photo.image = images.read_image(photo.path, native=True)

    def upscale(restorer, photo):
        number = f"{numbers[id(photo)]} of {len(photos)}, " if len(photos) > 1 else ""
        label, = results.short_names([number + photo.path.name], 40).values()

        def report(share):
            photo.share_done = share
            bar.set_description_str(label, refresh=False)
            bar.update(sum(photo.share_done for photo in photos))

        report(0)
        photo.image = restorer(photo.image, report)

    def write(photo):
        images.write_image(photo.target, photo.image)
        height, width = photo.image.shape[:2]
        print(f"{photo.path} {width // SCALE}x{height // SCALE} -> {photo.target} {width}x{height}")

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
        photo.share_done, photo.image = 1, None
        if photo.error:
            print(str(photo.error), file=sys.stderr)

    with utils.progress("", len(photos), counter=False, delay=1) as bar:
        upscaled = map_over_devices(step(upscale), map_ahead(step(read), photos), restorers)
        collections.deque(map_ahead(finish, upscaled), maxlen=0)
    n_failed = sum(photo.error is not None for photo in photos)
    if n_failed:
        print(f"{n_failed} of {len(photos)} failed.", file=sys.stderr)
    return 1 if n_failed else 0


# -------------------------------------------------------------------------------------------------------- scoring


def score(pairs: list[tuple[Path, Path | None]], output: Path, restorers: list[dict[str, Callable]],
          n_figures: int) -> int:
    """Measure every method on validation images; print the table, write metrics, pictures and comparison.png.

    pairs: as `data.validation_pairs` gives them; restorers: for each device the generators' `Restorer` by method;
    n_figures: images in comparison.png. Returns the exit code.
    """
    files = [hr_path for hr_path, _ in pairs]
    names = dict(zip(files, images.output_names(files), strict=True))
    suffixes = results.picture_suffixes(list(restorers[0]))
    methods = [method for method in suffixes if method not in ("lr", "hr")]

    def upscale(of_device, pair):
        hr_path, hr, lr = pair
        pictures = {"lr": lr, "bicubic": images.resize(lr, *hr.shape[:2]),
                    "lanczos": images.resize(lr, *hr.shape[:2], "lanczos3"),
                    **{method: restorer(lr) for method, restorer in of_device.items()}, "hr": hr}
        metrics = {method: dict(zip(results.METRICS, images.psnr_ssim(pictures[method], hr), strict=True))
                   for method in methods}
        return {"name": names[hr_path], **metrics}, pictures

    def write(result):
        row, pictures = result
        for method, picture in pictures.items():
            images.write_image(output / f"{row['name']}_{suffixes[method]}.png", picture)
        return row

    rows = []
    with utils.progress("Image", len(pairs)) as bar:
        table = results.Table(list(names.values()), methods)
        upscaled = map_over_devices(upscale, data.read_pairs(pairs), restorers)
        for done, row in enumerate(map_ahead(write, upscaled), start=1):
            table.row(row["name"], row)
            rows.append(row)
            bar.update(done)
    mean = {method: {metric: float(np.mean([row[method][metric] for row in rows])) for metric in results.METRICS}
            for method in methods}
    table.row("mean", mean)
    results.write_metrics(output, mean, rows, suffixes)
    if n_figures:
        chosen = sorted({round(place) for place in np.linspace(0, len(rows) - 1, n_figures)})
        results.draw_comparison(output, [rows[i] for i in chosen], suffixes)
    print(f"PSNR in dB / SSIM, on Y with 4 border pixels cut, of {len(rows)} images; table, images and comparison.png "
          f"are in {output.absolute()}/.")
    return 0
