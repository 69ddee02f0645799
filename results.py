"""Results of an evaluation in its folder: names of pictures, metrics and their table, comparison.png, index.html."""
import contextlib
import csv
import json
import os
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import utils

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

import metrics
from files import arrays, images
from files.outputs import OutputFolder
from metrics import METRICS, SHOWN

TITLES = {"lr": "LR", "lanczos": "Lanczos", "srresnet": "SRResNet", "srgan": "SRGAN", "pretrained": "pre-trained SRGAN",
          "pretrained-srresnet": "pre-trained SRResNet", "back_projected": "back-projected",
          "photo": "SRGAN for photos", "photo-srresnet": "SRResNet for photos", "hr": "original"}
THUMBNAIL_SIZE = (240, 160)  # at most


def picture_suffixes(generators: list[str]) -> dict[str, str]:
    """The suffix of each method's pictures, `<image>_<suffix>.png`, in the order in which they are shown.

    `_gen` is tensorlayer/srgan's name for the result.
    """
    gen = main_method(generators)
    return {method: "gen" if method == gen else method for method in ("lr", "bicubic", "lanczos", *generators, "hr")}


def picture_path(folder: Path, name: str, suffix: str) -> Path:
    """The file of a scored picture."""
    return folder / f"{name}_{suffix}.png"


def scored_paths(folder: Path, names: Iterable[str], suffixes: dict[str, str]) -> Iterator[Path]:
    """All files that scoring writes for images of these names."""
    for name in names:
        yield thumbnail_path(folder, name)
        yield from (picture_path(folder, name, suffix) for suffix in suffixes.values())
    yield from (folder / name for name in ("metrics.json", "metrics.csv", "comparison.png", "index.html"))


def main_method(generators: list[str]) -> str:
    """The method whose picture is the result: SRGAN where there is one, otherwise the first."""
    return next((method for method in ("srgan", "pretrained", "photo") if method in generators), generators[0])


def blend_name(share: float) -> str:
    """The method that blends SRResNet with a share of SRGAN."""
    return f"blend_{share:g}"


def restored_path(name: Path, blend: float, suffix: str) -> Path:
    """The file of a restored picture: `<name>_gen<suffix>`, or with the blend's name."""
    return name.with_name(f"{name.name}_{'gen' if blend == 1 else blend_name(blend)}{suffix}")


def title(method: str) -> str:
    """Title of a method in the comparison and on the page."""
    return TITLES.get(method, method.replace("_", " "))


# ---------------------------------------------------------------------------------------------------------- table


def short_names(names: list[str], width: int) -> dict[str, str]:
    """Each name in at most `width` characters, all different. Cut in the middle: a series often differs at the end."""
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
    """METRICS of each method, printed image by image in 80 columns; progress bars are kept out of its way.

    Of more than four methods the others go on a second line. A cell has PSNR and SSIM; the means of all other metrics
    follow in a row each.
    """

    NAME, COLUMN, N_COLUMNS = 20, 15, 4

    def __init__(self, names: list[str], methods: list[str]):
        self.names, self.methods = short_names(names, self.NAME), methods
        for start in range(0, len(methods), self.N_COLUMNS):
            heads = [textwrap.wrap(method, self.COLUMN - 1) for method in methods[start:start + self.N_COLUMNS]]
            height = max(map(len, heads))
            for line in zip(*([""] * (height - len(head)) + head for head in heads), strict=True):
                self._print("", line)

    def row(self, name: str, values: dict[str, dict[str, float | None]]) -> None:
        """Print the row of an image. values: by method and metric."""
        self._print(self.names[name], self._cells(values, SHOWN))

    def means(self, values: dict[str, dict[str, float | None]]) -> None:
        self._print("mean", self._cells(values, SHOWN))
        for metric in METRICS:
            if metric not in SHOWN:
                self._print(f"mean {METRICS[metric].title}", self._cells(values, [metric]))

    def _cells(self, values, shown):
        return [" / ".join(METRICS[metric].format(values[method][metric]) for metric in shown)
                for method in self.methods]

    def _print(self, name, cells):
        for start in range(0, len(cells), self.N_COLUMNS):
            line = "".join(f"{cell:>{self.COLUMN}}" for cell in cells[start:start + self.N_COLUMNS])
            print(f"{'' if start else name:{self.NAME}}{line}".rstrip())


# -------------------------------------------------------------------------------------------------------- metrics


def write_metrics(output: OutputFolder, mean: dict, rows: list[dict], suffixes: dict[str, str], scale: int) -> None:
    """Write metrics.json and metrics.csv.

    mean, rows: metrics by method, in a row also the image's `name`; suffixes: of the pictures. --mode=mos reads these
    names, suffixes and the scale.
    """
    with output.replacing(path := output.folder / "metrics.json"), utils.atomic_write(path) as partial:
        everything = {"mean": mean, "images": rows, "suffixes": suffixes, "scale": scale}
        partial.write_text(json.dumps(everything, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with output.replacing(path := output.folder / "metrics.csv"), utils.atomic_write(path) as partial, open(
            partial, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file)
        columns = [(method, metric) for method in mean for metric in METRICS]
        table.writerow(["name", *(f"{method}_{metric}" for method, metric in columns)])
        for row in [*rows, {"name": "mean", **mean}]:
            values = (row[method][metric] for method, metric in columns)
            table.writerow([row["name"], *("" if value is None else f"{value:.4f}" for value in values)])


# ----------------------------------------------------------------------------------------------------- comparison


def draw_comparison(output: OutputFolder, rows: list[dict], suffixes: dict[str, str]) -> None:
    """Draw comparison.png, the article's figure 2: the methods side by side, and a magnified detail below each.

    rows: of the images to show, as in metrics.json; their pictures are read from `output`. suffixes: of the pictures.
    """
    strips = []
    with utils.progress("Drawing comparison.png, image", len(rows)) as bar:
        for done, row in enumerate(rows, start=1):  # a figure of all of them takes the time of their number's square
            strips.append(_draw_row(output.folder, row, suffixes))
            bar.update(done)
    with output.replacing(path := output.folder / "comparison.png"):
        images.write_image(path, np.vstack(strips))


def _draw_row(folder, row, suffixes):
    """The strip of an image in the comparison, uint8 RGB."""
    figure = Figure(figsize=(3.2 * len(suffixes), 6.6), dpi=110, layout="constrained")
    pictures = {method: images.read_image(picture_path(folder, row["name"], suffix))
                for method, suffix in suffixes.items()}
    hr = pictures["hr"]
    pictures["lr"] = images.resize(pictures["lr"], *hr.shape[:2], "nearest")
    top, left, side = most_different_square([pictures[method] for method in pictures if method in row])
    axes = figure.subplots(2, len(suffixes), squeeze=False)
    for (method, picture), whole, detail in zip(pictures.items(), *axes, strict=True):
        whole.imshow(picture)
        whole.add_patch(Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor="red", linewidth=1.5))
        whole.set_title(title(method), parse_math=False)
        detail.imshow(picture[top:top + side, left:left + side], interpolation="nearest")
        caption = row["name"] if method == "hr" else ""
        if method in row:
            caption = ", ".join(METRICS[metric].describe(row[method][metric]) for metric in SHOWN)
        detail.set_xlabel(caption.encode(errors="backslashreplace").decode(), fontsize=12, parse_math=False)
        for ax in (whole, detail):
            ax.set(xticks=[], yticks=[])
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a name in a script that the font lacks
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]


def most_different_square(pictures: list[np.ndarray]) -> tuple[int, int, int]:
    """Row, column and side of the square in which the luminance of pictures of one size differs most.

    Its side is a quarter of the shorter side, at least 16 pixels, and it lies inside.
    """
    difference = np.stack([metrics.luminance(picture)[:, :, 0] for picture in pictures]).std(axis=0)
    side = min(max(16, min(difference.shape) // 4), *difference.shape)
    total = np.pad(difference.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    squares = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(squares.argmax(), squares.shape)
    return int(top), int(left), side


# ----------------------------------------------------------------------------------------------------------- page


def write_scored_page(output: OutputFolder, mean: dict, rows: list[dict], sizes: list[tuple[int, int]],
                      suffixes: dict[str, str], scale: int) -> None:
    """Write the page that compares scored images. sizes: height and width of each; the rest as in `write_metrics`."""
    folder = output.folder
    entries = [{"name": row["name"], "width": width, "height": height,
                "thumb": page_url(folder, thumbnail_path(folder, row["name"])),
                "pictures": {method: page_url(folder, picture_path(folder, row["name"], suffix))
                             for method, suffix in suffixes.items()},
                "metrics": {method: row[method] for method in mean}}
               for row, (height, width) in zip(rows, sizes, strict=True)]
    restored = [entry for entry in _read_page(output)["images"] if "metrics" not in entry]
    _write_page(output, [*entries, *_still_there(output, restored, entries)], entries[0]["name"], mean, scale)


def write_restored_page(output: OutputFolder, entries: list[dict]) -> None:
    """Write the page that compares restored photos with their bicubic, beside what it showed before.

    entries: see `page_entry`.
    """
    with output.alone():
        page = _read_page(output)
        before = {entry["name"]: entry for entry in page["images"] if "metrics" not in entry}
        for entry in entries:
            old = before.get(entry["name"])
            if old and all(old[side] == entry[side] for side in ("width", "height")):
                replaced = entry["pictures"].values()
                others = {method: url for method, url in old["pictures"].items() if url not in replaced}
                entry["pictures"] = others | entry["pictures"]
        images = sorted([*entries, *_still_there(output, page["images"], entries)],
                        key=lambda entry: [utils.natural_key(part) for part in entry["name"].split("/")])
        _write_page(output, images, entries[0]["name"], page["mean"], page.get("scale"))


def page_paths(folder: Path, name: Path) -> list[Path]:
    """The files that `write_bicubic` may write for the page in `folder`; the last one is the thumbnail."""
    return [*(name.with_name(f"{name.name}_bicubic{suffix}") for suffix in (".jpg", ".png")),
            thumbnail_path(folder, name.relative_to(folder))]


def write_bicubic(output: OutputFolder, name: Path, lr: np.ndarray, height: int, width: int) -> None:
    """Write what the page shows beside a result: bicubic of its size, `<name>_bicubic.jpg`, and a thumbnail.

    lr: as `images.read_image` gives it with `native`.
    """
    shown = _pillow(lr)
    jpeg = shown.mode in ("L", "RGB") and max(height, width) <= images.LARGEST_SIDE[".jpg"]
    as_jpeg, as_png, _ = page_paths(output.folder, name)
    bicubic = as_jpeg if jpeg else as_png
    with output.replacing(bicubic):
        images.write_image(bicubic, np.atleast_3d(shown.resize((width, height), Image.Resampling.BICUBIC)))
    write_thumbnail(output, name.relative_to(output.folder), lr)


def page_entry(folder: Path, name: Path, height: int, width: int) -> dict | None:
    """Entry of a photo, whose result has this size, on the page in `folder`; None without what is shown beside it."""
    *bicubics, thumbnail = page_paths(folder, name)
    there = [path for path in bicubics if images.image_size(path) == (height, width)]
    if not there or not thumbnail.exists():
        return None
    bicubic = max(there, key=os.path.getmtime)
    return {"name": name.relative_to(folder).as_posix(), "width": width, "height": height,
            "thumb": page_url(folder, thumbnail), "pictures": {"bicubic": page_url(folder, bicubic)}}


def thumbnail_path(folder: Path, name: Path | str) -> Path:
    """Where the page in `folder` has the thumbnail of the image of that name."""
    return folder / "thumbnails" / f"{name}.jpg"


def write_thumbnail(output: OutputFolder, name: Path | str, image: np.ndarray) -> None:
    """Write the thumbnail of the image of that name."""
    thumbnail = _pillow(image).convert("RGBA")
    thumbnail.thumbnail(THUMBNAIL_SIZE)
    white = Image.new("RGBA", thumbnail.size, "white")
    with output.replacing(path := thumbnail_path(output.folder, name)):
        images.write_image(path, np.asarray(Image.alpha_composite(white, thumbnail).convert("RGB")))


def _pillow(image):
    """A Pillow image of 8 bits."""
    if image.dtype == np.uint16:
        image = arrays.to_8_bits(image)
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


PLACE = '<script id="results" type="application/json">{}</script>'  # of the page's content
RANKS = {"lr": 0, "bicubic": 1, "lanczos": 2, "hr": 4}  # of methods on the page; the networks come between


def _read_page(output):
    """The content of the page in `output`; without images where there is none that this program wrote."""
    path, (before, after) = output.folder / "index.html", PLACE.split("{}")
    if path.exists() and output.is_ours(path):
        with contextlib.suppress(OSError, ValueError):
            return json.loads(path.read_text(encoding="utf-8").partition(before)[2].partition(after)[0])
    return {"images": [], "mean": {}}


def _still_there(output, before, entries):
    """Those of the entries `before` that are not among `entries` now and whose pictures still lie in `output`."""
    names = {entry["name"] for entry in entries}
    return [entry for entry in before if entry["name"] not in names and all(
        (output.folder / os.fsdecode(unquote_to_bytes(url))).exists() for url in entry["pictures"].values())]


def _write_page(output, entries, first, mean, scale):
    """Write the page, which opens on the entry called `first`."""
    methods = sorted(dict.fromkeys(method for entry in entries for method in entry["pictures"]),
                     key=lambda method: RANKS.get(method, 3))
    results = {"scale": scale, "methods": [{"id": method, "title": title(method)} for method in methods],
               "metrics": [{"id": name, "title": metric.title, "unit": metric.unit, "digits": metric.digits,
                            "higher_is_better": metric.higher_is_better, "shown": name in SHOWN}
                           for name, metric in METRICS.items()],
               "mean": mean, "images": entries, "first": first}
    content = json.dumps(results, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    with output.replacing(path := output.folder / "index.html"), utils.atomic_write(path) as partial:
        partial.write_text(template.replace(PLACE.format("null"), PLACE.format(content)), encoding="utf-8")


def page_url(folder: Path, path: Path) -> str:
    """The URL of a file, relative to the page in `folder`; its name may be any bytes."""
    return quote(os.fsencode(path.relative_to(folder).as_posix()))
