"""Restoring a photo, as an array."""
import functools
import math
from collections.abc import Callable, Hashable
from pathlib import Path

import utils
from utils import UserError

import keras
import numpy as np
import scipy.ndimage
import tensorflow as tf
from easydict import EasyDict
from PIL import Image

import model
from degradations import shrink
from engine import devices, upscaling
from files import arrays, images
from files.shipped import LARGEST_SCALE, NAMES, find_scales, is_for_photos, plan
from weights import load_blended

BAND = 128  # rows of LR that are finished at once, as that takes several copies
BICUBIC_REACH = 2  # LR pixels to each side that the kernel sees, down to LR as well as up to SR
COLOUR_SIGMA = 4  # LR pixels: a Gaussian that leaves nothing of the blocks of JPEG, which have 8


class Restorer:
    """Upscales photos of any size by `scale`: gray stays gray, and alpha stays alpha.

    restorer = Restorer()  # or Restorer("checkpoint/g_srgan.npz")
    sr = restorer(lr)
    """

    def __init__(self, weights: str | Path | model.Folded | keras.Model = "photo", *, scale: float | None = None,
                 blend: float = 1, back_project: bool | str = True, self_ensemble: bool = False, memory_mb: int = 500,
                 precision: str = "auto", device: str | None = None):
        """weights: a file, a name as in `load_generator`, or a generator that is loaded already.

        scale: from 1 to 16, by default that of the weights, 4 of those with a name. The network of the next larger
        scale is used, or several one after another, and the result is shrunk by bicubic.
        blend: as in `load_blended`. back_project: make the result equal LR when it is shrunk; "colours": only in its
        colours and brightness, without JPEG's blocks; for "photo" and "photo-srresnet" True means that.
        self_ensemble: average over eight flips and turns. memory_mb: what the feature maps of a tile may take.
        precision: as RESTORE.precision. device: TensorFlow's name of one, None for its choice. Raises UserError.
        """
        if not 0 <= blend <= 1:
            raise UserError(f"The blend is {blend}; give the share of SRGAN, from 0 to 1.")
        if not (scale is None or 1 <= scale <= LARGEST_SCALE):
            raise UserError(f"The scale is {scale}; give a number from 1 to {LARGEST_SCALE}.")
        self.weights, self.blend, self.self_ensemble = weights, blend, self_ensemble
        self.back_project = bool(back_project)
        self.sigma = COLOUR_SIGMA if back_project == "colours" or (back_project and is_for_photos(weights)) else 0
        self.upscalers = {}  # by scale
        with utils.quiet():
            self._upscaler = functools.partial(upscaling.Upscaler, memory_mb=memory_mb, device=device,
                                               precision=devices.precision(precision))
            if weights in NAMES:
                self.scales = find_scales(weights, blend)
            else:
                generator = load_blended(weights, blend) if isinstance(weights, str | Path) else weights
                self.scales = [generator.architecture.scale]
                self.upscalers[self.scales[0]] = self._upscaler(generator)
            self.scale = scale or self.scales[0]
            for number in plan(self.scale, self.scales):
                self._load(number)

    def _load(self, scale):
        """The upscaler of a scale."""
        if scale not in self.upscalers:
            self.upscalers[scale] = self._upscaler(load_blended(self.weights, self.blend, scale))
        return self.upscalers[scale]

    def _steps(self, height, width, size):
        """By which networks an image grows to `size`: of each the upscaler, the size that it takes and that asked."""
        size = size or enlarged(height, width, self.scale)
        factors = size[0] / height, size[1] / width
        if not 1 <= min(factors) <= max(factors) <= LARGEST_SCALE:
            raise UserError(f"{width}x{height} pixels can't become {size[1]}x{size[0]}; ask for 1 to {LARGEST_SCALE} "
                            "times as many a side.")
        scales = plan(max(factors), self.scales)
        sizes = [enlarged(height, width, math.prod(scales[:number])) for number in range(len(scales))]
        return list(zip(map(self._load, scales), sizes, [*sizes[1:], size], strict=True))

    def n_tiles(self, height: int, width: int, size: tuple[int, int] | None = None) -> int:
        """The number of tiles in which an LR of that size goes through the networks; `size` as in calling."""
        return sum(len(upscaler.tiles(*taken)) for upscaler, taken, _ in self._steps(height, width, size))

    def __call__(self, lr: np.ndarray | Image.Image, report: Callable[[float], object] = lambda share: None,
                 size: tuple[int, int] | None = None) -> np.ndarray:
        """Upscale LR (H, W, C) to SR (scale H, scale W, C) of the same type: uint8, uint16, bool, or floats in [0, 1].

        C: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha; gray may be (H, W). 16 bits and floats may use a small part
        of their range. report: called with the share that is done, from 0 to 1. size: height and width of SR, if not
        those of LR times `scale`, rounded. Raises UserError for other arrays and sizes.
        """
        sr, given = arrays.to_pixels(lr), np.asarray(lr)
        steps = self._steps(*sr.shape[:2], size)
        pixels, done = sum(math.prod(taken) for _, taken, _ in steps), 0
        for upscaler, taken, asked in steps:
            part = math.prod(taken) / pixels
            sr = self._upscale(sr, upscaler, asked, lambda share, done=done, part=part: report(done + share * part))
            done += part
        if given.dtype.kind == "f":
            sr = (sr / np.float32(65535)).astype(given.dtype)
        elif given.dtype.kind == "b":
            sr = sr > 127
        return sr[:, :, 0] if given.ndim == 2 and sr.shape[2] == 1 else sr

    def _upscale(self, lr, upscaler, size, report):
        """LR (H, W, C), uint8 or uint16, to SR (*size, C) of the same type, through one network."""
        n_colours = 1 if lr.shape[2] < 3 else 3
        colours, alpha = lr[:, :, :n_colours], lr[:, :, n_colours:]
        if alpha.size:
            colours = arrays.spread_colours(colours, alpha, upscaler.field + 3 * BICUBIC_REACH)
        colours, limits = arrays.stretch(colours)
        gray = not (colours != colours[:, :, :1]).any()
        if n_colours == 1:
            colours = np.broadcast_to(colours, (*colours.shape[:2], 3))
        scale, (height, width, channels) = upscaler.scale, lr.shape
        zoom = size[0] / height, size[1] / width
        shrinks = size != (scale * height, scale * width)
        margin = (2 + shrinks) * BICUBIC_REACH + 3 * self.sigma  # to project back is down and up
        sr, image = np.empty((*size, channels), lr.dtype), (0, height, 0, width)
        tiles = upscaler.tiles(height, width)
        for number, tile in enumerate(tiles):
            top, _, left, right = seen = upscaling.around(tile, margin, image)
            part = self._average(upscaler, colours, seen,
                                 lambda share, number=number: report((number + share) / len(tiles)))
            for band in upscaling.cut(tile, math.ceil((tile[1] - tile[0]) / BAND), 1):
                first, last, *_ = upscaling.around(band, margin, image)
                lr_band, sr_band = colours[first:last, left:right], part[scale * (first - top):scale * (last - top)]
                if gray:
                    lr_band, sr_band = lr_band[:, :, :1], sr_band.mean(axis=2, keepdims=True)
                if self.back_project:
                    sr_band = back_project(sr_band, lr_band, self.sigma)
                y, y_stop, x, x_stop = place = [math.floor(edge * zoom[n // 2] + 0.5) for n, edge in enumerate(band)]
                target = sr[y:y_stop, x:x_stop]
                if shrinks:
                    sr_band = images.resize_part(
                        sr_band, (scale * first, scale * left), (zoom[0] / scale, zoom[1] / scale), place)
                else:
                    sr_band = sr_band[y - scale * first:y_stop - scale * first, x - scale * left:x_stop - scale * left]
                sr_band = model.quantize(sr_band, tf.as_dtype(sr.dtype)).numpy()
                target[:, :, :n_colours] = arrays.undo_stretch(sr_band, *limits) if limits else sr_band
                if alpha.size:
                    target[:, :, n_colours:] = images.resize_part(
                        alpha[first:last, left:right], (first, left), zoom, place)
        return sr

    def _average(self, upscaler, lr, tile, report):
        """SR of a tile, float32 in [-1, 1]; with `self_ensemble` the mean over eight flips and turns of all of LR."""
        if not self.self_ensemble:
            return upscaler.upscale(lr, *tile, report)
        total = 0
        for number in range(8):
            flip, turns = number % 2, number // 2
            turned, (y, y_stop, x, x_stop) = lr, tile
            if flip:
                turned, (x, x_stop) = lr[:, ::-1], (lr.shape[1] - x_stop, lr.shape[1] - x)
            for _ in range(turns):
                y, y_stop, x, x_stop = turned.shape[1] - x_stop, turned.shape[1] - x, y, y_stop
                turned = np.rot90(turned)
            sr = upscaler.upscale(turned, y, y_stop, x, x_stop,
                                  lambda share, number=number: report((number + share) / 8))
            total = total + (np.rot90(sr, -turns)[:, ::-1] if flip else np.rot90(sr, -turns)) / 8
        return total


def enlarged(height: int, width: int, factor: float) -> tuple[int, int]:
    """Height and width times `factor`, rounded."""
    return math.floor(height * factor + 0.5), math.floor(width * factor + 0.5)


def back_project(sr: np.ndarray, lr: np.ndarray, sigma: int = 0) -> np.ndarray:
    """SR, float32 in [-1, 1], plus the upscaled difference between LR, uint8 or uint16, and SR shrunk to it.

    One step of iterative back-projection (Irani and Peleg, 1991), by the bicubic that LR is made with. sigma: of the
    Gaussian, in pixels of LR, that smooths the difference.
    """
    lr = lr * np.float32(2 / np.iinfo(lr.dtype).max) - 1
    difference = lr - shrink(sr, sr.shape[0] // lr.shape[0])
    if sigma:
        difference = scipy.ndimage.gaussian_filter(difference, sigma, axes=(0, 1), mode="nearest", radius=3 * sigma)
    return sr + images.resize(difference, *sr.shape[:2])


def make_restorers(generators: dict[Hashable, tuple[str | Path, float, bool]], options: EasyDict, config: EasyDict,
                   scale: float | None = None) -> list[dict[Hashable, Restorer]]:
    """For each device, a Restorer of each generator, by the same keys.

    generators: weights, blend, and whether to project back. options: config.RESTORE, or config.VALID to score. scale:
    by default that of the weights.
    """
    with utils.quiet():
        names = [device.name for device in devices.list_devices()]
    return [{key: Restorer(weights, scale=scale, blend=blend, back_project=back_project, device=name,
                           self_ensemble=options.self_ensemble, memory_mb=config.RESTORE.memory_mb,
                           precision=options.precision)
             for key, (weights, blend, back_project) in generators.items()} for name in names]
