"""From HR to LR: shrinking, and what cameras and messengers do besides, by the recipes in `config.DEGRADATION`.

To add a step, write a function and name it in `STEPS`; a recipe may then name it. A step takes an image, uint8 RGB
(H, W, 3), and a random generator, and returns a new image. None moves the picture, so that LR lies under its HR.
"""
import inspect
import io
import math
from collections.abc import Mapping

from utils import UserError, nearest

import numpy as np
import scipy.signal
from PIL import Image

from files import images

VERSION = 1  # of `shrink`; raise it when LR comes out differently, so that cached LR is made again

Range = tuple[float, float]  # a value is drawn from it evenly
Share = float  # from 0 to 1
Methods = tuple[str, ...]  # of METHODS

METHODS = {"area": Image.Resampling.BOX, "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
LIMITS = {"sigma": (0.01, 100), "by": (0.1, 10), "quality": (1, 100)}  # of each Range


def crop_to_scale(hr: np.ndarray, scale: int) -> np.ndarray:
    """Cut right and bottom so that both sides divide by `scale`."""
    return hr[:hr.shape[0] // scale * scale, :hr.shape[1] // scale * scale]


def shrink(hr: np.ndarray, scale: int) -> np.ndarray:
    """LR of HR (H, W, C), whose sides divide by `scale`: antialiased bicubic, as MATLAB's imresize; float32 is kept."""
    return images.resize(hr, hr.shape[0] // scale, hr.shape[1] // scale)


def degrade(hr: np.ndarray, scale: int, recipe: Mapping, rng: np.random.Generator) -> np.ndarray:
    """LR of HR (H, W, 3), whose sides divide by `scale`, by a recipe; uint8 RGB, a function of the arguments alone.

    recipe: parameters by step, in the order of application. A step's `probability` is 1 if it is not given. `clean` is
    the share of images that `shrink` alone makes. A recipe that does not name the step `shrink` begins with it.
    """
    steps = {} if rng.random() < recipe.get("clean", 0) else {name: recipe[name] for name in recipe if name != "clean"}
    image = hr if "shrink" in steps else shrink(hr, scale)
    size = {"size": (hr.shape[0] // scale, hr.shape[1] // scale)}
    for name, parameters in steps.items():
        parameters = dict(parameters)
        if rng.random() < parameters.pop("probability", 1):
            image = STEPS[name](image, rng, **parameters, **(size if name == "shrink" else {}))
    return image


def blur(image: np.ndarray, rng: np.random.Generator, sigma: Range, isotropic: Share = 1) -> np.ndarray:
    """Blur by a Gaussian.

    sigma: of its standard deviation, in pixels.
    isotropic: share of round ones; the others have another deviation across, and any angle.
    """
    along, across = rng.uniform(*sigma, size=2)
    if rng.random() < isotropic:
        across = along
    kernel = gaussian(along, across, rng.uniform(0, math.pi))
    reach = len(kernel) // 2
    padded = np.pad(image.astype(np.float32), ((reach, reach), (reach, reach), (0, 0)), "symmetric")
    return _to_uint8(scipy.signal.fftconvolve(padded, kernel[:, :, np.newaxis], mode="valid", axes=(0, 1)))


def gaussian(along: float, across: float, angle: float) -> np.ndarray:
    """A kernel (N, N) with sum 1, of these standard deviations, its long axis turned by `angle` radians."""
    reach = math.ceil(4 * max(along, across))
    y, x = np.mgrid[-reach:reach + 1, -reach:reach + 1]
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kernel = np.exp(-((u / along) ** 2 + (v / across) ** 2) / 2)
    return np.float32(kernel / kernel.sum())


def resize(image: np.ndarray, rng: np.random.Generator, by: Range, methods: Methods = ("bicubic",),
           antialiased: Share = 1) -> np.ndarray:
    """Resize on the way to LR, by a factor."""
    factor = rng.uniform(*by)
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return resample(image, rng, methods, antialiased, size=(height, width))


def resample(image: np.ndarray, rng: np.random.Generator, methods: Methods = ("bicubic",), antialiased: Share = 1, *,
             size: tuple[int, int]) -> np.ndarray:
    """Resize to `size`, (H, W): the step `shrink`.

    methods: one is drawn of them.
    antialiased: share that is; the others look at the nearest pixels alone, as quick programs do.
    """
    method = METHODS[str(rng.choice(list(methods)))]
    (height, width), picture = size, Image.fromarray(image)
    if rng.random() < antialiased or method == METHODS["area"]:
        return np.asarray(picture.resize((width, height), method))
    matrix = (image.shape[1] / width, 0, 0, 0, image.shape[0] / height, 0)
    return np.asarray(picture.transform((width, height), Image.Transform.AFFINE, matrix, method))


def noise(image: np.ndarray, rng: np.random.Generator, sigma: Range, gray: Share = 0) -> np.ndarray:
    """Add Gaussian noise.

    sigma: of its standard deviation, in levels of 255.
    gray: share without colour.
    """
    deviation = np.float32(rng.uniform(*sigma))
    channels = 1 if rng.random() < gray else 3
    return _to_uint8(image + deviation * rng.standard_normal((*image.shape[:2], channels), dtype=np.float32))


def jpeg(image: np.ndarray, rng: np.random.Generator, quality: Range, full_colour: Share = 0) -> np.ndarray:
    """Save as JPEG and read again.

    full_colour: share of 4:4:4; the others, 4:2:0, have half the resolution in colour, as phones save them.
    """
    level = int(rng.integers(*quality, endpoint=True))
    subsampling = "4:4:4" if rng.random() < full_colour else "4:2:0"
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=level, subsampling=subsampling)
    return np.asarray(Image.open(file))


def _to_uint8(image):
    return np.uint8(np.clip(np.rint(image), 0, 255))


STEPS = {"blur": blur, "resize": resize, "shrink": resample, "noise": noise, "jpeg": jpeg}


# -- recipes with mistakes


def find_recipe(recipes: Mapping, name: str) -> Mapping:
    """The recipe of that name in `config.DEGRADATION`.

    Raises UserError for a step or a parameter that does not exist, is missing, or has no possible value.
    """
    for step, parameters in recipes[name].items():
        title = f"config.DEGRADATION.{name}.{step}"
        if step == "clean":
            _check_value(parameters, Share, title)
        elif step not in STEPS:
            raise UserError(f"{title} is no step; the nearest is {nearest(step, STEPS)} (all of them are in "
                            "degradations.py).")
        elif not isinstance(parameters, Mapping):
            raise UserError(f"{title} is {parameters!r}; it must be the step's parameters by name, or {{}}.")
        else:
            _check_step(step, parameters, title)
    return recipes[name]


def _check_step(step, parameters, title):
    known = {name: parameter for name, parameter in inspect.signature(STEPS[step]).parameters.items()
             if parameter.annotation in (Range, Share, Methods)}
    kinds = {name: parameter.annotation for name, parameter in known.items()}
    if step != "shrink":  # without it LR is as large as HR
        kinds["probability"] = Share
    for name, value in parameters.items():
        if name not in kinds:
            raise UserError(f"{title} has no {name}; the nearest is {nearest(name, kinds)}.")
        _check_value(value, kinds[name], f"{title}.{name}")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in parameters:
            raise UserError(f"{title} lacks {name}; config.DEGRADATION.photo shows it.")


def _check_value(value, kind, title):
    if kind == Methods:
        if not (isinstance(value, list | tuple) and value and set(value) <= set(METHODS)):
            raise UserError(f"{title} is {value!r}; it must be a list of {', '.join(METHODS)}.")
        return
    low, high = LIMITS[title.rpartition(".")[2]] if kind == Range else (0, 1)
    numbers = value if isinstance(value, list | tuple) else [value]
    fits = len(numbers) == (2 if kind == Range else 1) and all(
        isinstance(number, int | float) and low <= number <= high for number in numbers)
    if not fits or numbers[0] > numbers[-1]:
        what = "two numbers, lowest and highest," if kind == Range else "a number"
        raise UserError(f"{title} is {value!r}; it must be {what} from {low} to {high}.")
