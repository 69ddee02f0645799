"""Measures of a result (article, section 3.1). To add one: a function, and its entry in METRICS.

Each takes SR, HR and LR, uint8 RGB (H, W, 3), and returns a number, or None where it is not defined.
"""
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import utils

import numpy as np
import scipy.ndimage
import tensorflow as tf
from scipy.special import gammaln

from degradations import shrink
from files import images

MAX_PSNR = 100.0  # dB, of equal images, so that means stay finite
BLOCK = 96  # pixels a side of what NIQE looks at, as its model of natural photos was made
SHAPES = np.arange(0.2, 10.001, 0.001)  # of generalized Gaussians, and their E[|x|]^2 / E[x^2]
MOMENTS = np.exp(2 * gammaln(2 / SHAPES) - gammaln(1 / SHAPES) - gammaln(3 / SHAPES))


def luminance(image: np.ndarray) -> np.ndarray:
    """Y of BT.601 in studio range, [16, 235], as float32 (H, W, 1), from uint8 RGB (H, W, 3)."""
    return np.float32(16 + image.astype(np.float64) @ np.array([[65.481], [128.553], [24.966]]) / 255)


def _inner_luminance(image, hr, lr):
    """Y without the border that does not count, as many pixels as HR has for one of LR."""
    border = hr.shape[0] // lr.shape[0]
    return luminance(image)[border:-border, border:-border]


def _limited_psnr(a, b):
    return min(MAX_PSNR, float(tf.image.psnr(a, b, max_val=255)))


def psnr(sr: np.ndarray, hr: np.ndarray, lr: np.ndarray) -> float:
    """PSNR on Y, as the article measures it (section 3.1)."""
    return _limited_psnr(_inner_luminance(sr, hr, lr), _inner_luminance(hr, hr, lr))


def ssim(sr: np.ndarray, hr: np.ndarray, lr: np.ndarray) -> float:
    """SSIM on Y, as the article measures it (section 3.1), with a Gaussian window of 11x11, sigma 1.5."""
    sr, hr = (tf.constant(_inner_luminance(image, hr, lr)) for image in (sr, hr))
    return float(tf.image.ssim(sr, hr, max_val=255))


def lr_psnr(sr: np.ndarray, hr: np.ndarray, lr: np.ndarray) -> float:
    """PSNR of RGB between SR, shrunk again, and LR; low where colours drift."""
    return _limited_psnr(shrink(sr, hr.shape[0] // lr.shape[0]), lr)


def niqe(sr: np.ndarray, hr: np.ndarray, lr: np.ndarray) -> float | None:
    """Distance of the statistics of SR from those of natural photos; HR is not looked at. None for a small image.

    Mittal, Soundararajan, Bovik, "Making a Completely Blind Image Quality Analyzer", 2013: on Y, rounded, in blocks of
    96x96 at two scales.
    """
    found = naturalness(_inner_luminance(sr, hr, lr)[:, :, 0])
    if found is None:
        utils.say_once(f"NIQE looks at blocks of {BLOCK}x{BLOCK} pixels; images with fewer than two have none.")
    return found


def naturalness(y: np.ndarray) -> float | None:
    """NIQE of luminance (H, W), None where fewer than two of its blocks have statistics."""
    rows, columns = (side // BLOCK for side in y.shape)
    y = np.rint(y[:rows * BLOCK, :columns * BLOCK].astype(np.float64))
    if rows * columns < 2:
        return None
    features = np.hstack([_block_features(plane, rows, columns) for plane in (y, _halve(y))])
    complete = features[np.isfinite(features).all(axis=1)]
    if len(complete) < 2:
        return None
    mean, covariance = _pristine_model()
    difference = mean - np.nanmean(features, axis=0)
    return float(np.sqrt(difference @ np.linalg.pinv((covariance + np.cov(complete, rowvar=False)) / 2) @ difference))


@functools.cache
def _pristine_model():
    """Mean (36,) and covariance (36, 36) of the features of natural photos, LIVE's."""
    with np.load(Path(__file__).parent / "models" / "niqe.npz") as model:
        return model["mean"], model["covariance"]


def _halve(plane):
    """Half of (H, W) by antialiased bicubic, mirrored at the border as in MATLAB; TensorFlow leaves the border out."""
    taps = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    rows = scipy.ndimage.correlate1d(plane, taps, axis=0, origin=-1)[::2]
    return scipy.ndimage.correlate1d(rows, taps, axis=1, origin=-1)[:, ::2]


def _block_features(plane, rows, columns):
    """The 18 features of each block of a plane, (rows * columns, 18), equations 1 to 8 of the paper."""
    smooth = functools.partial(scipy.ndimage.gaussian_filter, sigma=7 / 6, radius=3, mode="nearest")
    mean = smooth(plane)
    plane = (plane - mean) / (np.sqrt(np.abs(smooth(plane ** 2) - mean ** 2)) + 1)
    height, width = plane.shape[0] // rows, plane.shape[1] // columns
    blocks = plane.reshape(rows, height, columns, width).swapaxes(1, 2).reshape(-1, height, width)
    shape, left, right = _fit_gaussian(blocks)
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):  # products of neighbours
        shape, left, right = _fit_gaussian(blocks * np.roll(blocks, shift, axis=(1, 2)))
        features += [shape, (right - left) * np.exp(gammaln(2 / shape) - gammaln(1 / shape)), left, right]
    return np.stack(features, axis=1)


def _fit_gaussian(blocks):
    """Shape, left and right scale of the asymmetric generalized Gaussian with the moments of each block (N, H, W)."""
    values = blocks.reshape(len(blocks), -1)
    squares = values ** 2
    with np.errstate(invalid="ignore", divide="ignore"):  # flat: no values on one side
        left, right = (np.sqrt((squares * side).sum(axis=1) / side.sum(axis=1)) for side in (values < 0, values > 0))
        ratio = left / right
        moments = np.abs(values).mean(axis=1) ** 2 / squares.mean(axis=1)
        moments *= (ratio ** 3 + 1) * (ratio + 1) / (ratio ** 2 + 1) ** 2
    shape = SHAPES[np.searchsorted((MOMENTS[1:] + MOMENTS[:-1]) / 2, moments)]  # the nearest
    scale = np.exp((gammaln(1 / shape) - gammaln(3 / shape)) / 2)
    return shape, left * scale, right * scale


def mesh(sr: np.ndarray, lr: np.ndarray) -> float | None:
    """Strength of the mesh that a generator may weave over each pixel of LR, in levels of Y; without one below 0.3.

    Where LR is smooth, Y of SR minus that of bicubic upscaling is averaged by its place within the pixel of LR; the
    measure is the standard deviation of these means. None where less than a hundred pixels of LR are smooth.

    sr, lr: uint8 RGB (H, W, 3), (h, w, 3).
    """
    y, (height, width) = luminance(lr)[..., 0], lr.shape[:2]
    smooth = scipy.ndimage.maximum_filter(y, 5) - scipy.ndimage.minimum_filter(y, 5) < 8
    if smooth.sum() < 100:
        return None
    difference = luminance(sr) - luminance(images.resize(lr.astype(np.float32), *sr.shape[:2]))
    return float(difference.reshape(height, len(sr) // height, width, -1).swapaxes(1, 2)[smooth].mean(axis=0).std())


class Metric(NamedTuple):
    title: str
    unit: str
    digits: int  # shown behind the point
    higher_is_better: bool
    function: Callable[[np.ndarray, np.ndarray, np.ndarray], float | None]

    def format(self, value: float | None) -> str:
        # 100.0 dB of equal images is as wide as all others.
        return "-" if value is None else f"{value:.{self.digits}f}"[:self.digits + 3]

    def describe(self, value: float | None) -> str:
        """A value with its title and its unit."""
        return f"{self.title} {self.format(value)} {self.unit}".rstrip()


METRICS = {
    "psnr": Metric("PSNR", "dB", 2, True, psnr),
    "ssim": Metric("SSIM", "", 4, True, ssim),
    "lr_psnr": Metric("LR-PSNR", "dB", 2, True, lr_psnr),
    "niqe": Metric("NIQE", "", 2, False, niqe),
}
SHOWN = ("psnr", "ssim")  # in captions, and of each image in the printed table; of the others that has the means


def measure(sr: np.ndarray, hr: np.ndarray, lr: np.ndarray) -> dict[str, float | None]:
    """All METRICS of uint8 RGB images, by name."""
    return {name: metric.function(sr, hr, lr) for name, metric in METRICS.items()}


def mean(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """The mean of each metric over the images for which it is defined, None if there are none."""
    values = {name: [row[name] for row in rows if row[name] is not None] for name in METRICS}
    return {name: float(np.mean(found)) if found else None for name, found in values.items()}
