"""Restoring by small networks or by none: what the tests of restore.py and of evaluate.py share."""
import json
from urllib.parse import unquote

import keras
import numpy as np
import pictures
from PIL import Image

import main
import model
import restore

EXACTLY = ("--set", "RESTORE.precision=float32")  # bfloat16 differs by levels from process to process


def nearest(lr, report=None, size=None):
    return lr.repeat(4, axis=0).repeat(4, axis=1)


def stand_in(upscale=nearest, key="srgan"):
    """A function in place of the Restorer on one device: of a method to score, or of weights and their blend."""
    upscale.scale, upscale.scales, upscale.n_tiles = 4, [4], lambda *size: 1
    return [{key: upscale}]


def restore_all(source, output, upscale=nearest):
    jobs = restore.photos_to_restore([source], output, "srgan")
    return restore.run_jobs(jobs, stand_in(upscale, ("srgan", 1)), restore.output_folder(jobs, output))


def small_generator(seed, scale=4):
    keras.utils.set_random_seed(seed)
    generator = model.get_G(n_blocks=1, scale=scale)
    rng = np.random.default_rng(seed)
    for weight in generator.weights:  # no zeros, and an error of colours to project back
        weight.assign(weight + rng.normal(0, 0.02, weight.shape))
    return generator


def photo(height, width):
    return np.asarray(Image.open(pictures.PHOTOS / "chelsea.png"))[80:80 + height, 90:90 + width]


def run(*arguments):
    arguments = main.parse_arguments(["--mode=evaluate", *map(str, arguments)])
    return main.main(arguments)


def page_of(folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    return json.loads(page.split('<script id="results" type="application/json">')[1].split("</script>")[0])


def check_page(folder):
    """All that the page shows is there, in the size that it says. Returns its methods and its images."""
    page = page_of(folder)
    for image in page["images"]:
        sizes = {method: Image.open(folder / unquote(url)).size for method, url in image["pictures"].items()}
        lr = sizes.pop("lr", (image["width"] // 4, image["height"] // 4))
        assert set(sizes.values()) == {(image["width"], image["height"])} == {(4 * lr[0], 4 * lr[1])}
        assert Image.open(folder / unquote(image["thumb"])).format == "JPEG"
        assert (folder / unquote(image["thumb"])).stat().st_size < 30_000
    return [method["id"] for method in page["methods"]], {image["name"]: image for image in page["images"]}
