"""How close an image is to the original (article, section 3.1). To add a measure: a function, and its entry in METRICS.

Each takes SR, HR and LR, uint8 RGB (H, W, 3), and returns a number, or None where it is not defined.
"""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from degradations import shrink

MAX_PSNR = 100.0  # dB, of equal images, so that means stay finite


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
}
SHOWN = ("psnr", "ssim")  # in captions, and of each image in the printed table; of the others that has the means


def measure(sr: np.ndarray, hr: np.ndarray, lr: np.ndarray) -> dict[str, float | None]:
    """All METRICS of uint8 RGB images, by name."""
    return {name: metric.function(sr, hr, lr) for name, metric in METRICS.items()}


def mean(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """The mean of each metric over the images for which it is defined, None if there are none."""
    values = {name: [row[name] for row in rows if row[name] is not None] for name in METRICS}
    return {name: float(np.mean(found)) if found else None for name, found in values.items()}
