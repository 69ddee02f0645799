"""What evaluation leaves in its folder: pictures and their names, metrics, the printed table, and the comparison."""
import csv
import json
import warnings
from pathlib import Path

import utils

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import images

METRICS = ("psnr", "ssim")
TITLES = {"lr": "LR", "lanczos": "Lanczos", "srresnet": "SRResNet", "srgan": "SRGAN", "hr": "original"}


def picture_suffixes(generators: list[str]) -> dict[str, str]:
    """What the file name of each picture ends in, `<image>_<suffix>.png`, by method and in the order in which they are shown.

    `_gen` is tensorlayer/srgan's name for the result: SRGAN's where there is one, otherwise the first generator's.
    """
    result = "srgan" if "srgan" in generators else generators[0]
    return {method: "gen" if method == result else method for method in ("lr", "bicubic", "lanczos", *generators, "hr")}


# ---------------------------------------------------------------------------------------------------------- table


def short_names(names: list[str], width: int) -> dict[str, str]:
    """Each name in at most `width` characters, all different; cut in the middle, as a series often differs at the end."""
    short = {}
    for name in names:
        number, mark = 1, ""
        while len(name) > width or mark:
            room = width - len(mark) - 1
            cut = f"{name[:room // 2]}…{name[len(name) - (room + 1) // 2:]}{mark}"
            if cut not in short.values():
                break
            number, mark = number + 1, f"~{number + 1}"
        short[name] = cut if len(name) > width else name
    return short


class Table:
    """PSNR and SSIM of each method, printed image by image in 80 columns; progress bars are kept out of its way.

    Of more than four methods Lanczos is left to metrics.csv, and what is still too many goes on a second line.
    """

    NAME, COLUMN, N_COLUMNS = 20, 15, 4

    def __init__(self, names: list[str], methods: list[str]):
        self.names = short_names([*names, "mean"], self.NAME)
        if len(methods) > self.N_COLUMNS:
            methods = [method for method in methods if method != "lanczos"]
        self.methods = methods
        titles = short_names(methods, self.COLUMN - 1)
        self._print("", [titles[method] for method in methods])

    def row(self, name: str, metrics: dict[str, dict[str, float]]) -> None:
        values = [metrics[method] for method in self.methods]
        self._print(self.names[name], [f"{value['psnr']:.2f} / {value['ssim']:.4f}" for value in values])

    def _print(self, name, cells):
        for start in range(0, len(cells), self.N_COLUMNS):
            print(f"{'' if start else name:{self.NAME}}"
                  + "".join(f"{cell:>{self.COLUMN}}" for cell in cells[start:start + self.N_COLUMNS]))


# -------------------------------------------------------------------------------------------------------- metrics


def write_metrics(folder: Path, mean: dict, rows: list[dict], suffixes: dict[str, str]) -> None:
    """Write metrics.json and metrics.csv.

    mean, rows: metrics by method, in a row also the image's `name`; suffixes: of the pictures, which --mode=mos reads.
    """
    with utils.atomic_write(folder / "metrics.json") as partial:
        everything = {"mean": mean, "images": rows, "suffixes": suffixes}
        partial.write_text(json.dumps(everything, indent=2, allow_nan=False) + "\n")
    with utils.atomic_write(folder / "metrics.csv") as partial, open(
            partial, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file)
        columns = [(method, metric) for method, metrics in mean.items() for metric in metrics]
        table.writerow(["name", *(f"{method}_{metric}" for method, metric in columns)])
        for row in [*rows, {"name": "mean", **mean}]:
            table.writerow([row["name"], *(f"{row[method][metric]:.4f}" for method, metric in columns)])


# ----------------------------------------------------------------------------------------------------- comparison


def draw_comparison(folder: Path, rows: list[dict], suffixes: dict[str, str]) -> None:
    """Draw comparison.png, the article's figure 2: the methods side by side, and a magnified detail below each.

    rows: of the images to show, as in metrics.json; their pictures are read from `folder`. suffixes: of the pictures.
    """
    figure = Figure(figsize=(4 * len(suffixes), 6.2 * len(rows)), layout="constrained")
    axes = figure.subplots(2 * len(rows), len(suffixes), squeeze=False)
    for row, wholes, details in zip(rows, axes[::2], axes[1::2], strict=True):
        pictures = {method: images.read_image(folder / f"{row['name']}_{suffix}.png")
                    for method, suffix in suffixes.items()}
        hr = pictures["hr"]
        pictures["lr"] = images.resize(pictures["lr"], *hr.shape[:2], "nearest")
        top, left, side = most_different_square([pictures[method] for method in pictures if method in row])
        for (method, picture), whole, detail in zip(pictures.items(), wholes, details, strict=True):
            whole.imshow(picture)
            whole.add_patch(Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor="red", linewidth=1.5))
            whole.set_title(TITLES.get(method, method), parse_math=False)
            detail.imshow(picture[top:top + side, left:left + side], interpolation="nearest")
            caption = row["name"] if method == "hr" else ""
            if method in row:
                caption = f"PSNR {row[method]['psnr']:.2f} dB, SSIM {row[method]['ssim']:.4f}"
            detail.set_xlabel(caption.encode(errors="backslashreplace").decode(), fontsize=12, parse_math=False)
            for ax in (whole, detail):
                ax.set(xticks=[], yticks=[])
    with utils.atomic_write(folder / "comparison.png") as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a name in a script that the font lacks
        figure.savefig(partial, dpi=110)


def most_different_square(pictures: list[np.ndarray]) -> tuple[int, int, int]:
    """Row, column and side of the square in which the luminance of pictures of one size differs most.

    Its side is a quarter of the shorter side, at least 16 pixels, and it lies inside.
    """
    difference = np.stack([images.luminance(picture)[:, :, 0] for picture in pictures]).std(axis=0)
    side = min(max(16, min(difference.shape) // 4), *difference.shape)
    total = np.pad(difference.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    squares = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(squares.argmax(), squares.shape)
    return int(top), int(left), side
