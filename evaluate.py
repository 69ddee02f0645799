"""Evaluation: scoring generators on validation images (article, section 3.1)."""
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import utils

import numpy as np
from easydict import EasyDict

import data
import degradations
import metrics
import results
import weights
from engine import devices
from engine.restorer import Restorer, make_restorers
from files import images, photo_files, shipped
from files.outputs import OutputFolder


def evaluate(arguments: Namespace, config: EasyDict) -> int:
    """Score the generators on the validation images. Returns the exit code, 0. Raises UserError."""
    valid = config.VALID
    images.limit_pixels(config.RESTORE.max_megapixels)
    output = Path(arguments.output or Path(config.TRAIN.sample_path) / "evaluate")
    recipe = degradations.find_recipe(config.DEGRADATION, valid.degradation)
    paths = shipped.find_generators(arguments.weights, Path(config.TRAIN.checkpoint_path), scoring=True)
    with utils.quiet():
        devices.choose_devices(config.TRAIN.devices)
    generators = {method: (path, 1, False) for method, path in paths.items()}
    main = paths[results.main_method(list(paths))]
    if valid.blend < 1:
        generators[results.blend_name(valid.blend)] = (main, valid.blend, False)
    if valid.back_project:
        generators["back_projected"] = (main, 1, True)
    scale = valid.scale or weights.load_folded(main).architecture.scale
    pairs = data.validation_pairs(config, scale)
    restorers = make_restorers(generators, valid, config, scale)
    for method, path in paths.items():
        print(f"{method}: {shipped.describe(path, scale, restorers[0][method].scales)}")
    print(f"Computing on {devices.describe()} in {devices.precision(valid.precision)}.")
    if recipe:
        print(f"LR is made by the recipe {valid.degradation}.")
    return score(pairs, output, restorers, valid.n_figures, valid.hr_img_path, recipe=recipe)


def score(pairs: list[tuple[Path, Path | None]], folder: Path, restorers: list[dict[str, Restorer]],
          n_figures: int, *hr_folders: str, recipe: Mapping | None = None) -> int:
    """Measure every method on validation images: a table, metrics, pictures, comparison.png and index.html.

    pairs: of `data.validation_pairs`; restorers: of `make_restorers`; n_figures: images in comparison.png; hr_folders:
    the pictures mirror the subfolders of these; recipe: of `config.DEGRADATION`, to make LR by. Returns the exit code.
    """
    output, files = OutputFolder(folder), [hr_path for hr_path, _ in pairs]
    scale, suffixes = next(iter(restorers[0].values())).scale, results.picture_suffixes(list(restorers[0]))
    ending = f"_{max(suffixes.values(), key=len)}.png"
    names = dict(zip(files, photo_files.output_names(files, *hr_folders, ending=ending), strict=True))
    methods = [method for method in suffixes if method not in ("lr", "hr")]
    output.check(results.scored_paths(folder, names.values(), suffixes))

    def upscale(of_device, pair):
        hr_path, hr, lr = pair
        pictures = {"lr": lr, "bicubic": images.resize(lr, *hr.shape[:2]),
                    "lanczos": images.resize(lr, *hr.shape[:2], "lanczos3"),
                    **{method: restorer(lr) for method, restorer in of_device.items()}, "hr": hr}
        measured = {method: metrics.measure(pictures[method], hr, lr) for method in methods}
        return {"name": names[hr_path], **measured}, pictures

    def write(result):
        row, pictures = result
        for method, picture in pictures.items():
            with output.replacing(path := results.picture_path(folder, row["name"], suffixes[method])):
                images.write_image(path, picture)
        results.write_thumbnail(output, row["name"], pictures["hr"])
        return row, pictures["hr"].shape[:2]

    rows, sizes = [], []
    with utils.progress("Image", len(pairs)) as bar:
        table = results.Table(list(names.values()), methods)
        upscaled = devices.map_over_devices(upscale, data.read_pairs(pairs, scale, recipe), restorers)
        for done, (row, size) in enumerate(devices.map_ahead(write, upscaled), start=1):
            table.row(row["name"], row)
            rows.append(row)
            sizes.append(size)
            bar.update(done)
    mean = {method: metrics.mean([row[method] for row in rows]) for method in methods}
    table.means(mean)
    results.write_metrics(output, mean, rows, suffixes, scale)
    results.write_scored_page(output, mean, rows, sizes, suffixes, scale)
    if n_figures:
        drawn = {method: suffix for method, suffix in suffixes.items() if method != "lanczos"}  # too close to bicubic
        results.draw_comparison(output, spread(rows, n_figures), drawn)
    print(f"PSNR in dB / SSIM, on Y (brightness) with {scale} border pixels cut, of "
          f"{utils.plural(len(rows), 'image')}; table, images{', comparison.png' if n_figures else ''} and index.html "
          f"are in {folder.absolute()}/.")
    return 0


def spread(items: list, n: int) -> list:
    """At most `n` items from all over a list, the first and the last among them."""
    return [items[place] for place in sorted({round(place) for place in np.linspace(0, len(items) - 1, n)})]
