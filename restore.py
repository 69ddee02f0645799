"""Restoring the photos of --input: files to files, and the page that shows them.

From Python: `from restore import Restorer; sr = Restorer()(lr)`.
"""
import collections
import dataclasses
import math
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path

import module_names  # noqa: F401
import utils
from utils import UserError

import numpy as np
from easydict import EasyDict

with utils.quiet():  # imported from Python, nobody else keeps TensorFlow's notes off the screen
    import tensorflow as tf

    import results
    from engine import devices
    from engine.restorer import Restorer, enlarged, make_restorers
    from files import images, photo_files, shipped
    from files.metadata import SOFTWARE, has_mark
    from files.outputs import OutputFolder
    from files.shipped import LARGEST_SCALE

BLEND_STOPS = (0, 0.25, 0.5, 0.75, 1)  # shares of SRGAN to choose from on the page of a photo
POOR_QUALITY = 20  # of JPEG; photo-srresnet gains 0.5 dB over bicubic there, 0.8 at 30 and 0.1 at 10 (Set5)


@dataclasses.dataclass
class RestoreJob:
    """A photo on its way from its file to that of its result.

    weights, blend: by which it is upscaled. shown_as: `target` without suffixes, if index.html is to show the photo.
    is_chosen: whether the page opens on it. moves: whether all frames are restored. asked: ("scale", 2), or "width",
    "height" or "long-side" and pixels; None: the scale of the weights. quality: of a lossy result. mark: of the result.
    size: its height and width. metadata: of the photo, for its result to keep. error: why there is no result.
    """

    path: Path
    target: Path
    weights: str
    blend: float = 1
    shown_as: Path | None = None
    is_chosen: bool = True
    moves: bool = False
    asked: tuple[str, float] | None = None
    quality: int = images.QUALITY
    mark: str = SOFTWARE
    lr: np.ndarray | images.Animation | None = None
    size: tuple[int, int] | None = None
    sr: np.ndarray | images.Animation | None = None
    metadata: images.Metadata | None = None
    error: UserError | None = None
    share_done: float = 0

    @property
    def method(self) -> str:
        """The name of the result on the page."""
        return self.weights if self.blend == 1 else results.blend_name(self.blend)


def restore(arguments: Namespace, config: EasyDict) -> int:
    """Restore the photos of `--input`. Returns the exit code: 1 if some of them failed. Raises UserError."""
    options = config.RESTORE
    images.limit_pixels(options.max_megapixels)
    output = Path(arguments.output or Path(config.TRAIN.sample_path) / "evaluate")
    found = shipped.find_generators(arguments.weights, Path(config.TRAIN.checkpoint_path), scoring=False)
    jobs = photos_to_restore([Path(source) for source in arguments.input], output, next(iter(found)), options.blend,
                             arguments.format, arguments.frames)
    if arguments.part:
        jobs = part_of(jobs, *arguments.part)
    if arguments.quality:
        set_quality(jobs, arguments.quality)
    scale = set_size(jobs, arguments.size) if arguments.size else None
    take_weights_by_kind(jobs, found, scale or 4)
    if options.blend < 1 and len(jobs) == 1 and jobs[0].shown_as and not arguments.part:
        jobs = with_blend_stops(jobs[0])
        print(f"One photo is restored in {len(jobs)} blends, to choose from on the page: "
              f"{', '.join(f'{job.blend:g}' for job in jobs)}. For {options.blend:g} alone, name a file with --output.")
    folder = output_folder(jobs, output)
    if arguments.skip_existing and not arguments.part:  # of which others may be writing
        folder.clear_partials()
    with utils.quiet():
        devices.choose_devices(config.TRAIN.devices)
    mark_jobs(jobs, found, options)
    done = {job.target: job for job in jobs if arguments.skip_existing and is_done(job, folder)}
    if done:
        print(f"{len(done):,} of {utils.plural(len(jobs), 'result')} are there already, made with these settings.")
    left = [job for job in jobs if job.target not in done]
    restorers = make_restorers(generators_of(left, found, options.back_project), options, config, scale)
    if left:
        print(f"Computing on {devices.describe()} in {devices.precision(options.precision)}.")
    return run_jobs(left, restorers, folder, done.values())


def photos_to_restore(inputs: list[Path], output: Path, weights: str, blend: float = 1,
                      form: str | None = None, frames: bool = False) -> list[RestoreJob]:
    """The photos that are named, and those of folders, to be restored by `weights`, a method, and their `blend`.

    Results of a folder are laid out as its subfolders are. `output` is a folder, unless there is one photo and `output`
    ends as an image does: then it is the result's own file. form: of the results, png if None. frames: restore all of
    pictures that move. Raises UserError if there are no photos, if several would go to one file, or if that is of
    another form.
    """
    found: dict[Path, dict[Path, None]] = {}  # photos, each once, by the folder of their results
    for source in inputs:
        for path in photo_files.find_images(source, "--input") if source.is_dir() else [source]:
            folder = output / (path.parent.relative_to(source) if source.is_dir() else "")
            found.setdefault(folder, {})[path] = None
    jobs = [RestoreJob(path, results.restored_path(folder / name, blend, f".{form or 'png'}"), weights, blend,
                       shown_as=folder / name)
            for folder, paths in found.items()
            for path, name in zip(paths, photo_files.output_names(list(paths)), strict=True)]
    if photo_files.is_image_name(output) and not output.is_dir():
        photo_files.check_suffix(output, frames)
        if len(jobs) > 1:
            raise UserError(f"{output} (--output) is the name of one image, but there are {len(jobs)} photos; name a "
                            "folder.")
        if form and form != output.suffix[1:].lower():
            raise UserError(f"{output} (--output) does not end in .{form}, the --format; leave --format out.")
        jobs = [RestoreJob(jobs[0].path, output, weights, blend)]
    return [with_frames(job, output) for job in jobs] if frames else jobs


def with_frames(job: RestoreJob, output: Path) -> RestoreJob:
    """The job for all frames if the picture moves: to a file of the same kind, without a place on the page.

    Raises UserError if `output`, the result's own file, is of another kind.
    """
    suffix = images.moving_suffix(job.path)
    if not suffix:
        photo_files.check_suffix(job.target)
        return job
    if job.target == output and output.suffix.lower() != suffix:
        raise UserError(f"{output} (--output) does not end in {suffix}, but {job.path.name} moves; name a {suffix}, or "
                        "leave --frames out.")
    return dataclasses.replace(job, moves=True, shown_as=None,
                               target=job.target if job.target == output else job.target.with_suffix(suffix))


def part_of(jobs: list[RestoreJob], part: int, n_parts: int) -> list[RestoreJob]:
    """One of several parts, counted from 1. Raises UserError if nothing is left for it."""
    if part > len(jobs):
        raise UserError(f"--part is {part}/{n_parts}, but there is no more than {utils.plural(len(jobs), 'photo')}; "
                        "make fewer parts.")
    mine = jobs[part - 1::n_parts]
    print(f"Part {part} of {n_parts}: {len(mine):,} of {utils.plural(len(jobs), 'photo')}.")
    return mine


def set_quality(jobs: list[RestoreJob], quality: int) -> None:
    """Set the quality of lossy results. Raises UserError if there are none."""
    lossy = [job for job in jobs if job.target.suffix.lower() in images.LOSSY_SUFFIXES]
    if not lossy:
        raise UserError(f"--quality is for JPEG, WebP and AVIF, but the results are {jobs[0].target.suffix}; add "
                        "--format jpg, webp or avif.")
    for job in lossy:
        job.quality = quality


def take_weights_by_kind(jobs: list[RestoreJob], found: dict[str, str | Path], scale: float = 4) -> None:
    """Give lossless pictures `srgan` where `found`, weights by method, has it beside `photo`.

    Says which weights are taken, how they reach `scale`, and which photos are too poor.
    """
    qualities = [images.lossy_quality(job.path) for job in jobs]
    poor = [job.path.name for job, quality in zip(jobs, qualities, strict=True) if quality and quality < POOR_QUALITY]
    kinds = {}
    if len(found) > 1:
        for job, quality in zip(jobs, qualities, strict=True):
            job.weights = "photo" if quality else "srgan"
        n_lossless = qualities.count(None)
        kinds = {"photo": f", for {utils.plural(len(jobs) - n_lossless, 'compressed photo')}",
                 "srgan": f", for {utils.plural(n_lossless, 'lossless picture')} (--weights photo for what once "
                          "was a JPEG, such as a screenshot)"}
    for name in dict.fromkeys(job.weights for job in jobs):
        print(f"{name}: {shipped.describe(found[name], scale)}{kinds.get(name, '')}")
    if poor:
        print(f"Compressed so strongly that little can be restored (JPEG below quality {POOR_QUALITY}): "
              f"{utils.listing(poor, 3)}.")


def scale_of(job: RestoreJob, height: int, width: int, usual: float = 4) -> float:
    """By how much a photo of that size is enlarged, `usual` if nothing is asked.

    Raises UserError if that would make it smaller or too large, above all for the kind of file.
    """
    option, number = job.asked or ("scale", usual)
    own = {"scale": 1, "width": width, "height": height, "long-side": max(height, width)}[option]
    if not own <= number <= LARGEST_SCALE * own:
        raise UserError(f"{job.path} is {width}x{height}: --{option} takes {own} to {LARGEST_SCALE * own} for it, not "
                        f"{number:g}.")
    images.check_size(job.target, *enlarged(height, width, number / own))
    return number / own


def set_size(jobs: list[RestoreJob], asked: tuple[str, float]) -> float | None:
    """Ask for a size of all results. Returns the scale of the first one, None if its photo can't be read.

    Raises UserError if no photo can have that size.
    """
    errors = []
    for job in jobs:
        job.asked = asked
    for job in jobs:
        size = images.image_size(job.path)
        try:
            return size and scale_of(job, *size)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def generators_of(jobs: list[RestoreJob], found: dict[str, str | Path],
                  back_project: bool) -> dict[tuple[str, float], tuple[str | Path, float, bool]]:
    """What `make_restorers` needs for some jobs. found: weights by method."""
    return {(job.weights, job.blend): (found[job.weights], job.blend, back_project) for job in jobs}


def mark_jobs(jobs: list[RestoreJob], found: dict[str, str | Path], options: EasyDict) -> None:
    """Set the marks that say what the results are made of, and how.

    found: weights by method. options: config.RESTORE.
    """
    digests = {name: shipped.digest(found[name]) for name in {job.weights for job in jobs}}
    for job in jobs:
        n_bytes = job.path.stat().st_size if job.path.exists() else 0
        size = "{} {:g}, ".format(*job.asked) if job.asked else ""
        job.mark = (f"{SOFTWARE} (of {n_bytes} bytes, {size}weights {digests[job.weights]}, blend {job.blend}, "
                    f"back_project {options.back_project}, self_ensemble {options.self_ensemble}, quality "
                    f"{job.quality})")


def is_done(job: RestoreJob, output: OutputFolder) -> bool:
    """Whether the result that a job would give is there, and what the page shows beside it."""
    size = images.image_size(job.target)
    return (size is not None and has_mark(job.target, job.mark)
            and job.target.stat().st_mtime >= job.path.stat().st_mtime
            and (not job.shown_as or results.page_entry(output.folder, job.shown_as, *size) is not None))


def output_folder(jobs: list[RestoreJob], output: Path) -> OutputFolder:
    """The folder of `--output`; raises UserError if something of the user's would be replaced, or can't be written."""
    originals = {_file_id(job.path) for job in jobs} - {None}
    for job in jobs:
        if _file_id(job.target) in originals:
            which = "the photo itself" if len(originals) == 1 else "one of the photos"
            raise UserError(f"{job.target} is {which}; name another place with --output.")
    shown, is_file = {job.shown_as for job in jobs if job.shown_as}, jobs[0].target == output
    folder = OutputFolder(output.parent if is_file else output, is_listed=not is_file)
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


def with_blend_stops(job: RestoreJob) -> list[RestoreJob]:
    """The job once for each share of SRGAN to choose from."""
    return [dataclasses.replace(job, blend=share, is_chosen=share == job.blend,
                                target=results.restored_path(job.shown_as, share, job.target.suffix))
            for share in sorted({*BLEND_STOPS, job.blend})]


def run_jobs(jobs: list[RestoreJob], restorers: list[dict[tuple[str, float], Restorer]], output: OutputFolder,
             done: Iterable[RestoreJob] = (), report: Callable[[str, float], None] | None = None) -> int:
    """Restore photos and write the page that shows them; a failure does not stop the others.

    restorers: of `make_restorers`. done: jobs whose results are there, for the page. report: called with what is being
    done and the share of all that is done, from 0 to 1; what it raises ends the work. While one is computed, the next
    photo is read and the last one is written: two results are in memory at most, and one more for each further device.
    Returns the exit code, 1 if some failed.
    """
    steps = _Steps(jobs, output, restorers, report)
    for job in done:
        steps.show(job)
    with utils.progress("", len(jobs), counter=False, delay=1) as steps.bar:
        upscaled = devices.map_over_devices(steps.upscale, devices.map_ahead(steps.read, jobs), restorers)
        collections.deque(devices.map_ahead(steps.finish, upscaled), maxlen=0)
    n_failed = sum(job.error is not None for job in jobs)
    if n_failed:
        print(f"{n_failed} of {len(jobs)} failed.", file=sys.stderr)
    if steps.shown:
        results.write_restored_page(output, list(steps.shown.values()))
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
        except (MemoryError, tf.errors.ResourceExhaustedError):
            job.error = UserError(f"{job.path} is too large for the memory here; cut it into parts.")
        except tf.errors.OpError as error:
            job.error = UserError(f"{job.path} can't be computed here ({devices.first_line(error).rstrip('.')}); "
                                  "--set RESTORE.precision=float32 needs the least of a processor.")
        return job

    return run


class _Steps:
    """The steps of restoring photos, which run in threads of their own."""

    def __init__(self, jobs, output, restorers, report):
        self.jobs, self.output, self.restorers, self.report = jobs, output, restorers, report
        self.is_estimated = False
        self.numbers = {id(job): number for number, job in enumerate(jobs, start=1)}
        self.shown = {}  # entries of the page, by photo

    @_step
    def read(self, job):
        job.lr = images.read_frames(job.path) if job.moves else images.read_image(job.path, native=True)
        job.metadata = dataclasses.replace(images.read_metadata(job.path), mark=job.mark)
        usual = self.restorers[0][job.weights, job.blend].scale
        job.size = enlarged(*job.lr.shape[:2], scale_of(job, *job.lr.shape[:2], usual))

    @_step
    def upscale(self, of_device, job):
        number = f"{self.numbers[id(job)]} of {len(self.jobs)}, " if len(self.jobs) > 1 else ""
        label, = results.short_names([number + job.path.name], 40).values()
        restorer, began = of_device[job.weights, job.blend], time.monotonic()
        n_tiles = restorer.n_tiles(*job.lr.shape[:2], job.size)

        def report(share):
            if share * n_tiles >= 1 < n_tiles and not self.is_estimated:
                self.is_estimated = True
                self.estimate(job, n_tiles, (time.monotonic() - began) / share)
            job.share_done = share
            self.bar.set_description_str(label, refresh=False)
            self.bar.update(sum(job.share_done for job in self.jobs))
            self.tell(label)

        report(0)
        if job.moves:
            n = len(job.lr.frames)
            frames = [restorer(frame, lambda share, done=done: report((done + share) / n), job.size)
                      for done, frame in enumerate(job.lr.frames)]
            job.sr = dataclasses.replace(job.lr, frames=frames)
        else:
            job.sr = restorer(job.lr, report, job.size)

    def estimate(self, job, n_tiles, seconds):
        """Say how long a photo takes, and all of them, by the time of its first tile."""
        (height, width), (sr_height, sr_width) = job.lr.shape[:2], job.size
        line = (f"{job.path.name} is {width}x{height} and becomes {sr_width}x{sr_height}, in {n_tiles} tiles: about "
                f"{utils.time_left(seconds)}")
        if len(self.jobs) > 1:
            sizes = [images.image_size(job.path) or (0, 0) for job in self.jobs]
            total = seconds * sum(map(math.prod, sizes)) / (height * width) / len(self.restorers)
            line += f", and {utils.time_left(total)} for all {len(self.jobs)} results"
        print(f"{line}.")

    def tell(self, label):
        """Report what is being done. Whoever listens may raise to end the work."""
        if self.report:
            self.report(label, sum(job.share_done for job in self.jobs) / len(self.jobs))

    @_step
    def write(self, job):
        self.tell(f"Saving {job.path.name}")
        with self.output.replacing(job.target):
            write = images.write_frames if job.moves else images.write_image
            write(job.target, job.sr, job.metadata, job.quality)
        (height, width), (sr_height, sr_width) = job.lr.shape[:2], job.size
        job.sr = None  # the bicubic for the page is as large
        if job.shown_as and job.path not in self.shown:
            self.tell(f"Comparing {job.path.name}")
            results.write_bicubic(self.output, job.shown_as, job.lr, sr_height, sr_width)
        self.show(job)
        frames = f", {utils.plural(len(job.lr.frames), 'frame')}" if job.moves else ""
        print(f"{job.path} {width}x{height} -> {job.target} {sr_width}x{sr_height}{frames}")

    def show(self, job):
        """Put a result, which is in its file, on the page."""
        if not job.shown_as:
            return
        if job.path not in self.shown:
            size = images.image_size(job.target)
            self.shown[job.path] = results.page_entry(self.output.folder, job.shown_as, *size)
        entry = self.shown[job.path]
        entry["pictures"][job.method] = results.page_url(self.output.folder, job.target)
        if job.is_chosen:
            entry["result"] = job.method

    def finish(self, job):
        self.write(job)
        job.share_done, job.lr, job.sr = 1, None, None
        if job.error:
            utils.print_error(job.error)
