"""LR as cameras and messengers make it: the steps of the recipes in `config.DEGRADATION`.

Every step takes an image, uint8 RGB (H, W, 3), and a NumPy random generator, and returns a new image. No step moves the
picture: the middle of an image stays its middle, so that LR lies under its HR.
"""
import io
import math
from collections.abc import Mapping

import numpy as np
import scipy.signal
import tensorflow as tf
from numpy.random import Generator
from PIL import Image

FILTERS = {"area": Image.Resampling.BOX, "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def shrink(hr: np.ndarray, scale: int) -> np.ndarray:
    """HR (H, W, 3), whose sides divide by `scale`, at 1/scale: bicubic, antialiased, as MATLAB's imresize."""
    height, width = hr.shape[0] // scale, hr.shape[1] // scale
    resized = tf.image.resize(hr, (height, width), method="bicubic", antialias=True)
    return tf.saturate_cast(tf.round(resized), tf.uint8).numpy()


def degrade(hr: np.ndarray, scale: int, recipe: Mapping[str, object], rng: Generator) -> np.ndarray:
    """LR of an HR (H, W, 3) whose sides divide by `scale`, both uint8 RGB; a function of its arguments alone.

    recipe: the parameters of each step by its name in STEPS, in the order of application; `clean` is the share of
    images that `shrink` alone makes. Without a step `shrink`, a recipe begins with it.
    """
    steps = {name: parameters for name, parameters in recipe.items() if name != "clean"}
    if rng.random() < recipe.get("clean", 0):
        steps = {}
    if "shrink" not in steps:
        steps = {"shrink": {}, **steps}
    size = hr.shape[0] // scale, hr.shape[1] // scale
    image = hr
    for name, parameters in steps.items():
        parameters = dict(parameters)
        if rng.random() >= parameters.pop("probability", 1):
            continue
        if name != "shrink":
            image = STEPS[name](image, rng, **parameters)
        elif parameters:
            image = resample(image, size, rng, **parameters)
        else:
            image = shrink(image, scale)
    return image


def blur(image: np.ndarray, rng: Generator, sigma: tuple[float, float], isotropic: float = 1) -> np.ndarray:
    """Blur by a Gaussian; sigma: the range of its width, in pixels; isotropic: the share of round ones.

    The others have a width of their own along each of two axes, at any angle.
    """
    widths = rng.uniform(*sigma, size=2)
    if rng.random() < isotropic:
        widths[1] = widths[0]
    kernel = gaussian(*widths, rng.uniform(0, math.pi))
    reach = len(kernel) // 2
    padded = np.pad(image.astype(np.float32), ((reach, reach), (reach, reach), (0, 0)), "symmetric")
    return _to_uint8(scipy.signal.fftconvolve(padded, kernel[:, :, np.newaxis], mode="valid", axes=(0, 1)))


def gaussian(width: float, height: float, angle: float) -> np.ndarray:
    """The kernel of a Gaussian (N, N), its axes turned by an angle in radians; its sum is 1."""
    reach = math.ceil(4 * max(width, height))
    y, x = np.mgrid[-reach:reach + 1, -reach:reach + 1]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kernel = np.exp(-((along / width) ** 2 + (across / height) ** 2) / 2)
    return np.float32(kernel / kernel.sum())


def resize(image: np.ndarray, rng: Generator, by: tuple[float, float], antialiased: float = 1) -> np.ndarray:
    """Resize on the way by a factor in the range `by`; antialiased: as in `resample`."""
    factor = rng.uniform(*by)
    return resample(image, [max(1, round(side * factor)) for side in image.shape[:2]], rng, antialiased)


def resample(image: np.ndarray, size: tuple[int, int], rng: Generator, antialiased: float = 1) -> np.ndarray:
    """Resize to `size`, (H, W), by area, bilinear or bicubic; antialiased: the share that is, besides area, which is."""
    method, is_antialiased = FILTERS[str(rng.choice(list(FILTERS)))], rng.random() < antialiased
    (height, width), picture = size, Image.fromarray(image)
    if is_antialiased or method == FILTERS["area"]:
        return np.asarray(picture.resize((width, height), method))
    matrix = (image.shape[1] / width, 0, 0, 0, image.shape[0] / height, 0)
    return np.asarray(picture.transform((width, height), Image.Transform.AFFINE, matrix, method))


def noise(image: np.ndarray, rng: Generator, sigma: tuple[float, float], gray: float = 0) -> np.ndarray:
    """Add Gaussian noise; sigma: the range of its strength, in levels of 255; gray: the share without colour."""
    strength = np.float32(rng.uniform(*sigma))
    channels = 1 if rng.random() < gray else 3
    return _to_uint8(image + strength * rng.standard_normal((*image.shape[:2], channels), dtype=np.float32))


def jpeg(image: np.ndarray, rng: Generator, quality: tuple[int, int], full_colour: float = 0) -> np.ndarray:
    """Save as JPEG and read again; quality: its range; full_colour: the share of 4:4:4, the others being 4:2:0."""
    level = int(rng.integers(*quality, endpoint=True))
    subsampling = "4:4:4" if rng.random() < full_colour else "4:2:0"
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=level, subsampling=subsampling)
    return np.asarray(Image.open(file))


def _to_uint8(image):
    return np.uint8(np.clip(np.rint(image), 0, 255))


STEPS = {"blur": blur, "resize": resize, "shrink": shrink, "noise": noise, "jpeg": jpeg}
