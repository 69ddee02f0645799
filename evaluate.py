"""Evaluation: scoring generators on validation images (article, section 3.1)."""
from collections.abc import Callable, Mapping
from pathlib import Path

import utils

import numpy as np

import data
import degradations
import metrics
import results
import weights
from engine import devices
from files import images
from restore import Restorer, map_ahead, map_over_devices, photos_to_restore, restore, with_blend_stops
from weights import load_blended


def evaluate(arguments, config) -> int:
    """Score the generators, or restore the photos of `--input`. Returns the exit code: 1 if some photos failed."""
    valid, options = config.VALID, config.RESTORE if arguments.input else config.VALID
    images.limit_pixels(config.RESTORE.max_megapixels)
    output = Path(arguments.output or Path(config.TRAIN.sample_path) / "evaluate")
    trained = Path(config.TRAIN.checkpoint_path)
    generators = weights.find_generators(arguments.weights, trained, scoring=not arguments.input)
    if arguments.input:  # check the photos first: loading weights takes seconds
        (method, path), = generators.items()
        method = method if options.blend == 1 else results.blend_name(options.blend)
        photos = photos_to_restore([Path(path) for path in arguments.input], output, method)
        methods = {method: (path, options.blend, options.back_project)}
        if options.blend < 1 and len(photos) == 1 and photos[0].shown_as:
            photos, shares = with_blend_stops(photos[0], options.blend)
            methods = {results.blend_name(share): (path, share, options.back_project) for share in shares}
    else:
        recipe = degradations.find_recipe(config.DEGRADATION, valid.degradation)
        pairs = data.validation_pairs(config)
        methods = {method: (path, 1, False) for method, path in generators.items()}
        path = generators[results.main_method(list(generators))]
        if valid.blend < 1:
            methods[results.blend_name(valid.blend)] = (path, valid.blend, False)
        if valid.back_project:
            methods["back_projected"] = (path, 1, True)
    with utils.quiet():
        devices.choose_devices(config.TRAIN.devices)
        device_names = [device.name for device in devices.list_devices()]
    restorers: list[dict[str, Callable]] = [{} for _ in device_names]
    for method, (path, share, back_project) in methods.items():
        generator = load_blended(path, share)
        for name, of_device in zip(device_names, restorers, strict=True):
            of_device[method] = Restorer(generator, back_project=back_project, self_ensemble=options.self_ensemble,
                                         memory_mb=config.RESTORE.memory_mb, precision=options.precision,
                                         device=name)
    for method, path in generators.items():
        print(f"{method}: {weights.describe(path)}")
    print(f"Computing on {devices.describe()} in {devices.precision(options.precision)}.")
    if arguments.input:
        return restore(photos, restorers, output)
    if recipe:
        print(f"LR is made by the recipe {valid.degradation}.")
    return score(pairs, output, restorers, valid.n_figures, valid.hr_img_path, recipe=recipe)


# -------------------------------------------------------------------------------------------------------- scoring


def score(pairs: list[tuple[Path, Path | None]], output: Path, restorers: list[dict[str, Callable]],
          n_figures: int, *folders: str, recipe: Mapping | None = None) -> int:
    """Measure every method on validation images: a table, metrics, pictures, comparison.png and index.html.

    pairs: as `data.validation_pairs` gives them; restorers: for each device the generators' `Restorer` by method;
    n_figures: images in comparison.png; folders: the pictures mirror the subfolders of these; recipe: of
    `config.DEGRADATION`, to make LR by. Returns the exit code.
    """
    utils.check_writable(output, "--output")
    files = [hr_path for hr_path, _ in pairs]
    suffixes = results.picture_suffixes(list(restorers[0]))
    ending = f"_{max(suffixes.values(), key=len)}.png"
    names = dict(zip(files, images.output_names(files, *folders, ending=ending), strict=True))
    methods = [method for method in suffixes if method not in ("lr", "hr")]

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
            images.write_image(output / f"{row['name']}_{suffixes[method]}.png", picture)
        results.write_thumbnail(output, row["name"], pictures["hr"])
        return row, pictures["hr"].shape[:2]

    rows, sizes = [], []
    with utils.progress("Image", len(pairs)) as bar:
        table = results.Table(list(names.values()), methods)
        upscaled = map_over_devices(upscale, data.read_pairs(pairs, utils.SCALE, recipe), restorers)
        for done, (row, size) in enumerate(map_ahead(write, upscaled), start=1):
            table.row(row["name"], row)
            rows.append(row)
            sizes.append(size)
            bar.update(done)
    mean = {method: metrics.mean([row[method] for row in rows]) for method in methods}
    table.means(mean)
    results.write_metrics(output, mean, rows, suffixes)
    results.write_scored_page(output, mean, rows, sizes, suffixes)
    if n_figures:
        chosen = sorted({round(place) for place in np.linspace(0, len(rows) - 1, n_figures)})
        drawn = {method: suffix for method, suffix in suffixes.items() if method != "lanczos"}  # too close to bicubic
        results.draw_comparison(output, [rows[i] for i in chosen], drawn)
    print(f"PSNR in dB / SSIM, on Y with {utils.SCALE} border pixels cut, of "
          f"{utils.plural(len(rows), 'image')}; table, images{', comparison.png' if n_figures else ''} and index.html "
          f"are in {output.absolute()}/.")
    return 0
