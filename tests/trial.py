"""A fair trial of recipes of losses: `nice python tests/trial.py --photos FOLDER --images Set14/`.

Each recipe fine-tunes the same weights on the same patches for as many steps. Then all are measured on the same images:
PSNR, SSIM, LR-PSNR and NIQE as in scoring; mesh, see `metrics.mesh`; and sharpness, the standard deviation of the
Laplacian of Y in parts of HR's. Whenever a recipe is done, `table.md` and `crops.png` are written anew. Run the command
again after Ctrl-C: a training is resumed, and what was measured is kept.
"""
import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import utils  # noqa: E402

import numpy as np  # noqa: E402
import scipy.ndimage  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

import data  # noqa: E402
import metrics  # noqa: E402
import results  # noqa: E402
import weights  # noqa: E402
from engine import upscaling  # noqa: E402
from files import images, photo_files  # noqa: E402

TODAY = {"vgg:conv2_2": 0.02, "adv": 1e-3}
LAYERS = {"vgg_l1:conv1_2-": 0.002, "vgg_l1:conv2_2-": 0.002, "vgg_l1:conv3_1-": 0.02, "adv": 1e-3}
RECIPES = {  # weights by which each loss moves SR about as much as today's features of VGG19, with a mean of 1, do
    "today": TODAY,
    "colour": TODAY | {"colour": 1.0},
    "layers": LAYERS,
    "ldl": TODAY | {"ldl": 5.0},
    "weave": TODAY | {"weave": 5.0},
    "all": LAYERS | {"colour": 1.0, "ldl": 5.0},
}
COLUMNS = {name: (metric.title, metric.digits) for name, metric in metrics.METRICS.items()} | {
    "mesh": ("mesh", 2), "sharpness": ("sharpness", 2)}
SIDE = 64  # of a crop, which is shown at 3x

ARGUMENTS = argparse.ArgumentParser(description=__doc__.split("\n")[0])
ARGUMENTS.add_argument("recipes", nargs="*", default=[*RECIPES], help=f"of {', '.join(RECIPES)}; by default all")
ARGUMENTS.add_argument("--photos", required=True, metavar="DIR", help="to train on")
ARGUMENTS.add_argument("--images", required=True, metavar="DIR", help="to measure on, HR, such as Set14/")
ARGUMENTS.add_argument("--weights", default="pretrained", help="to start from, as of main.py")
ARGUMENTS.add_argument("--epochs", type=int, default=4,
                       help="an epoch has as many steps as there are photos; 0: measure the start alone")
ARGUMENTS.add_argument("--output", default="trial/", metavar="DIR", help="one for each start and length")
ARGUMENTS.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="more settings, of all trainings")


def train(name, recipe, arguments, folder):
    """Fine-tune by a recipe, or resume that. Returns the weights file."""
    settings = {f"LOSS.{name}.{loss}": weight for loss, weight in recipe.items()} | {
        "TRAIN.loss": name, "TRAIN.hr_img_path": arguments.photos, "TRAIN.lr_img_path": "", "TRAIN.batch_size": 16,
        "TRAIN.patches_per_image": 16, "TRAIN.n_epoch": arguments.epochs, "TRAIN.save_every": 1,
        "VALID.hr_img_path": arguments.images, "VALID.lr_img_path": "", "TRAIN.checkpoint_path": folder,
        "TRAIN.sample_path": folder / "samples", "TRAIN.cache_path": folder.parent / "cache"}
    code = subprocess.run([sys.executable, ROOT / "main.py", "--weights", arguments.weights, "--set",
                           *(f"{key}={value}" for key, value in settings.items()), *arguments.set]).returncode
    if code:
        sys.exit(code)
    return folder / "g_srgan.npz"


def measure(sr, hr, lr):
    """All measures of uint8 RGB images, by the names of COLUMNS."""
    detail = [scipy.ndimage.laplace(metrics.luminance(image)[:, :, 0]).std() for image in (sr, hr)]
    return metrics.measure(sr, hr, lr) | {"mesh": metrics.mesh(sr, lr), "sharpness": float(detail[0] / detail[1])}


def means(rows):
    """The mean of each measure over the images that have it."""
    return {name: float(np.mean([row[name] for row in rows if row[name] is not None])) for name in COLUMNS}


def upscale_all(source, pairs, folder):
    """Upscale all images, write the pictures into a folder, and return the means of all measures."""
    upscaler = upscaling.Upscaler(weights.load_folded(source))
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, (hr, lr) in pairs.items():
        sr = upscaler(lr)
        images.write_image(folder / f"{name}.png", sr)
        rows.append(measure(sr, hr, lr))
    return means(rows)


def write_table(path, found):
    lines = [["", *(title for title, _ in COLUMNS.values())], ["---"] * (len(COLUMNS) + 1)]
    lines += [[name, *(f"{values[column]:.{digits}f}" for column, (_, digits) in COLUMNS.items())]
              for name, values in found.items()]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    path.write_text(f"```\npython {shlex.join(sys.argv)}\n```\n\n{table}", encoding="utf-8")
    print(table, flush=True)


def draw_crops(path, pairs, output, names):
    """Draw a row for each image, with the square in which the recipes differ most: HR, then a column for each."""
    rows = []
    for image, (hr, _) in pairs.items():
        pictures = [images.read_image(output / name / "pictures" / f"{image}.png") for name in names]
        top, left, side = results.most_different_square(pictures)
        top, left = (min(max(0, start + (side - SIDE) // 2), length - SIDE)
                     for start, length in zip((top, left), hr.shape, strict=False))
        crops = [picture[top:top + SIDE, left:left + SIDE] for picture in (hr, *pictures)]
        rows.append(np.hstack([images.resize(crop, 3 * SIDE, 3 * SIDE, "nearest") for crop in crops]))
    title = Image.new("RGB", (rows[0].shape[1], 20))
    for column, name in enumerate(("HR", *names)):
        ImageDraw.Draw(title).text((3 * SIDE * column + 4, 4), name)
    images.write_image(path, np.vstack([np.asarray(title), *rows]))


def trial(arguments):
    output, paths = Path(arguments.output), photo_files.list_images(arguments.images)
    pairs = {path.stem: (hr, lr) for path, hr, lr in data.read_pairs([(path, None) for path in paths], 4)}
    found = {"HR": means([measure(hr, hr, lr) for hr, lr in pairs.values()])}
    for name in ("start", *(arguments.recipes if arguments.epochs else ())):
        result = output / name / "means.json"
        if not result.exists():
            source = arguments.weights if name == "start" else train(name, RECIPES[name], arguments, output / name)
            values = upscale_all(source, pairs, output / name / "pictures")
            with utils.atomic_write(result) as partial:
                partial.write_text(json.dumps(values), encoding="utf-8")
        found[name] = json.loads(result.read_text(encoding="utf-8"))
        write_table(output / "table.md", found)
        draw_crops(output / "crops.png", pairs, output, [*found][1:])


if __name__ == "__main__":
    trial(ARGUMENTS.parse_args())
