"""How close an image is to the original (article, section 3.1)."""
from utils import SCALE

import numpy as np
import tensorflow as tf

MAX_PSNR = 100.0  # dB


def luminance(image: np.ndarray) -> np.ndarray:
    """Y of BT.601 in studio range, [16, 235], as float32 (H, W, 1), from uint8 RGB (H, W, 3)."""
    return np.float32(16 + image.astype(np.float64) @ np.array([[65.481], [128.553], [24.966]]) / 255)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR in dB of two images with values up to 255; at most MAX_PSNR, so that equal images leave means finite."""
    return min(MAX_PSNR, float(tf.image.psnr(a, b, max_val=255)))


def psnr_ssim(sr: np.ndarray, hr: np.ndarray) -> tuple[float, float]:
    """PSNR in dB and SSIM of two uint8 RGB images (H, W, 3) as the article measures them (section 3.1).

    On Y, with 4 border pixels cut; SSIM with a Gaussian window of 11x11, sigma 1.5. Returns two floats.
    """
    sr, hr = (luminance(image)[SCALE:-SCALE, SCALE:-SCALE] for image in (sr, hr))
    return psnr(sr, hr), float(tf.image.ssim(tf.constant(sr), tf.constant(hr), max_val=255))
