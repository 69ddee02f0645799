"""Evaluation: scoring on validation images, and restoring one's own photos (article, section 3.1)."""
import collections
import csv
import functools
import itertools
import json
import os
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import data
import devices
import images
import model
import utils
import weights
from config import config
from utils import UserError


def find_generators(weights):
    """The weights files to evaluate, {method: path}; raises UserError where there is none."""
    if weights:
        return {Path(weights).stem: Path(weights)}
    trained = Path(config.TRAIN.checkpoint_path)
    shipped = Path(__file__).parent / "models"
    for candidates in ({"srresnet": trained / "g_srgan_init.npz", "srgan": trained / "g_srgan.npz"},
                       {"srresnet": shipped / "srresnet.npz", "srgan": shipped / "srgan.npz"}):
        found = {method: path for method, path in candidates.items() if path.exists()}
        if found:
            return found
    raise UserError(f"There are no trained weights in {trained}/ or models/; run python main.py first, or name a file "
                    "by --weights.")


def evaluate(arguments, config):
    output = Path(arguments.output or Path(config.TRAIN.sample_path) / "evaluate")
    paths = find_generators(arguments.weights)
    if arguments.input:  # looked at before some seconds go into the weights
        photos = photos_to_restore(Path(arguments.input), output)
        paths = dict([list(paths.items())[-1]])
    with utils.quiet():
        devices.choose_devices()
        found = devices.list_devices()
    upscalers = [{} for _ in found]
    for method, path in paths.items():
        generator = weights.load_generator(path)
        for device, of_device in zip(found, upscalers, strict=True):
            of_device[method] = model.Upscaler(generator, config.VALID.memory_mb, device.name)
        print(f"{method}: {path}")
    if not arguments.input:
        return score(output, upscalers)
    upscalers = [upscaler for of_device in upscalers for upscaler in of_device.values()]
    return restore(photos, output, upscalers if len(found) > 1 else [functools.partial(upscale, *upscalers)])


def upscale(upscaler, lr):
    """`upscaler(lr)`, with a progress bar where it takes more than some seconds."""
    n_pixels = lr.shape[0] * lr.shape[1]
    if n_pixels < 250_000:
        return upscaler(lr)
    with utils.progress("Upscaling, pixel", n_pixels) as bar:
        return upscaler(lr, bar.update)


def share_out(work, items, workers):
    """Yield `work(worker, item)` of each item, in order; several workers, those of different devices, work at once."""
    if len(workers) == 1:
        yield from (work(workers[0], item) for item in items)
        return
    running = collections.deque()
    with ThreadPoolExecutor(len(workers)) as pool:
        for worker, item in zip(itertools.cycle(workers), items, strict=False):
            if len(running) == len(workers):
                yield running.popleft().result()
            running.append(pool.submit(work, worker, item))
        yield from (result.result() for result in running)


def photos_to_restore(source, output):
    """The photo that is named, or those of a folder; raises UserError where there are none, or `output` can't be written."""
    if not os.path.exists(source):
        raise UserError(f"{source} (--input) is not there; name a photo or a folder of photos.")
    files = data.find_images(source, "--input") if source.is_dir() else [source]
    make_writable(output)
    if source.is_dir() and source.samefile(output):
        photos = [path for path in files if not path.name.endswith("_gen.png")]
        if len(photos) < len(files):
            print(f"Not restored again: {len(files) - len(photos)} results (*_gen.png) of an earlier run.")
        files = photos
    return files


def restore(files, output, upscalers):
    """Upscale photos to `<name>_gen.png` in the folder `output`; what fails does not stop the others.

    upscalers: of each device what maps LR (H, W, 3), uint8 or uint16, to SR. Returns the exit code.
    """

    def restore_one(upscaler, item):
        path, name = item
        target = output / f"{name}_gen.png"
        try:
            lr = images.read_image(path, native=True)
            images.write_image(target, upscale_photo(lr, upscaler))
        except UserError as error:
            return False, error
        except (MemoryError, tf.errors.OpError):
            return False, f"{path} is too large for the memory here; cut it into parts."
        return True, f"{path} {lr.shape[1]}x{lr.shape[0]} -> {target} {4 * lr.shape[1]}x{4 * lr.shape[0]}"

    n_failed = 0
    for restored, line in share_out(restore_one, zip(files, images.output_names(files), strict=True), upscalers):
        print(line, file=sys.stdout if restored else sys.stderr)
        n_failed += not restored
    if n_failed:
        print(f"{n_failed} of {len(files)} failed.", file=sys.stderr)
    return 1 if n_failed else 0


def make_writable(folder):
    """Make a folder for results; raises UserError where nothing can be written to it, before hours went into them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder} (--output) can't be written: {error.strerror}; name another folder.") from error


def upscale_photo(photo, upscaler):
    """A photo (H, W, C) as `images.read_image` gives it with `native`, at 4x: gray stays gray, alpha stays alpha."""
    n_colours = 1 if photo.shape[2] < 3 else 3
    colours, alpha = photo[:, :, :n_colours], photo[:, :, n_colours:]
    sr = upscaler(np.repeat(colours, 3, axis=2) if n_colours == 1 else colours)
    if n_colours == 1:
        sr = np.rint(sr.mean(axis=2, keepdims=True)).astype(sr.dtype)
    if alpha.size:
        sr = np.concatenate([sr, images.resize(alpha, *sr.shape[:2])], axis=2)
    return sr


def score(output, upscalers):
    """PSNR and SSIM of every method on the validation images: a table, images, and the figure. Returns the exit code.

    upscalers: of each device {method: what maps LR to SR}.
    """
    make_writable(output)
    pairs = data.validation_pairs(config)
    names = dict(zip([hr for hr, _ in pairs], images.output_names([hr for hr, _ in pairs]), strict=True))
    generators = list(upscalers[0])
    methods = ["bicubic", "lanczos", *generators]
    # How the pictures' names end. `_gen` is tensorlayer/srgan's name of the result, that of the last generator.
    suffixes = {kind: kind for kind in ("lr", "bicubic", *generators, "hr")} | {generators[-1]: "gen"}
    print(" " * 20 + "".join(f"{method:>18}" for method in methods))
    rows, shown = [], []

    def score_one(of_device, pair):
        hr_path, hr, lr = pair
        results = {"bicubic": images.resize(lr, *hr.shape[:2]), "lanczos": images.resize(lr, *hr.shape[:2], "lanczos3"),
                   **{method: upscaler(lr) for method, upscaler in of_device.items()}}
        for kind, image in {**results, "lr": lr, "hr": hr}.items():
            if kind in suffixes:
                images.write_image(output / f"{names[hr_path]}_{suffixes[kind]}.png", image)
        row = {method: dict(zip(("psnr", "ssim"), images.psnr_ssim(sr, hr), strict=True)) for method, sr in results.items()}
        return names[hr_path], {**results, "original": hr}, row

    with utils.progress("Image", len(pairs)) as bar:
        for done, result in enumerate(share_out(score_one, data.read_pairs(pairs), upscalers), start=1):
            name, _, row = result
            print_row(name, row)
            rows.append({"name": name, **row})
            if len(shown) < config.VALID.n_figures:
                shown.append(result)
            bar.update(done)
    mean = {method: {metric: float(np.mean([row[method][metric] for row in rows])) for metric in ("psnr", "ssim")}
            for method in methods}
    print_row("mean", mean)
    write_metrics(output, mean, rows, suffixes)
    if shown:
        draw_comparison(output / "comparison.png", shown, ["bicubic", *generators, "original"])
    print(f"PSNR in dB / SSIM, on Y with 4 border pixels cut, of {len(rows)} images; table, images and comparison.png "
          f"are in {output}/.")
    return 0


def print_row(name, row):
    print(f"{name[:20]:20}" + "".join(f"{value['psnr']:9.2f} / {value['ssim']:.4f}" for value in row.values()))


def write_metrics(output, mean, images, suffixes):
    with utils.atomic_write(output / "metrics.json") as partial:
        partial.write_text(json.dumps({"mean": mean, "images": images, "suffixes": suffixes}, indent=2) + "\n")
    with utils.atomic_write(output / "metrics.csv") as partial, open(
            partial, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file)
        table.writerow(["name", *(f"{method}_{metric}" for method in mean for metric in ("psnr", "ssim"))])
        for row in [*images, {"name": "mean", **mean}]:
            table.writerow([row["name"], *(f"{row[method][metric]:.4f}" for method in mean for metric in ("psnr", "ssim"))])


TITLES = {"srresnet": "SRResNet", "srgan": "SRGAN"}


def draw_comparison(path, shown, methods):
    """The article's figure 2: for each image the methods side by side, a magnified detail below, PSNR and SSIM under it."""
    figure = Figure(figsize=(4 * len(methods), 6.2 * len(shown)), layout="constrained")
    axes = figure.subplots(2 * len(shown), len(methods), squeeze=False)
    for row, (name, results, metrics) in enumerate(shown):
        hr = results["original"]
        top, left, side = busiest_square(hr)
        for column, method in enumerate(methods):
            whole, detail = axes[2 * row][column], axes[2 * row + 1][column]
            whole.imshow(results[method])
            whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="red", linewidth=1.5))
            whole.set_title(TITLES.get(method, method) if row == 0 else "", parse_math=False)
            detail.imshow(results[method][top:top + side, left:left + side], interpolation="nearest")
            caption = f"({metrics[method]['psnr']:.2f} dB / {metrics[method]['ssim']:.4f})" if method in metrics else name
            detail.set_xlabel(caption.encode(errors="backslashreplace").decode(), fontsize=12, parse_math=False)
            for ax in (whole, detail):
                ax.set(xticks=[], yticks=[])
    with utils.atomic_write(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a name in a script that the font lacks
        figure.savefig(partial, dpi=110)


def busiest_square(image):
    """Row, column and side of the square of a quarter of the shorter side in which images.luminance varies most."""
    y = images.luminance(image)[:, :, 0]
    side = max(16, min(y.shape) // 4)
    corners = [(top, left) for top in range(0, max(1, y.shape[0] - side), side // 2)
               for left in range(0, max(1, y.shape[1] - side), side // 2)]
    return *max(corners, key=lambda c: y[c[0]:c[0] + side, c[1]:c[1] + side].std()), side
