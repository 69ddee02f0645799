"""Restoring photos. From Python: `from restore import Restorer; sr = Restorer()(lr)`."""
import math
from collections.abc import Callable, Hashable
from pathlib import Path

import module_names  # noqa: F401
import utils
from utils import UserError

import numpy as np
import scipy.ndimage
from easydict import EasyDict
from PIL import Image

with utils.quiet():  # imported from Python, nobody else keeps TensorFlow's notes off the screen
    import keras
    import tensorflow as tf

    import model
    from degradations import shrink
    from engine import devices, upscaling
    from files import arrays, images
    from shipped import is_for_photos
    from weights import load_blended

BAND = 128  # rows of LR that are finished at once, as that takes several copies
BICUBIC_MARGIN = 4  # LR pixels: 2 to each side that the kernel reaches down, and 2 that it reaches up
COLOUR_SIGMA = 4  # LR pixels: a Gaussian that leaves nothing of the blocks of JPEG, which have 8


class Restorer:
    """Upscales photos of any size by `scale`, that of the weights: gray stays gray, and alpha stays alpha.

    restorer = Restorer()  # or Restorer("checkpoint/g_srgan.npz")
    sr = restorer(lr)
    """

    def __init__(self, weights: str | Path | model.Folded | keras.Model = "photo", *, blend: float = 1,
                 back_project: bool | str = True, self_ensemble: bool = False, memory_mb: int = 500,
                 precision: str = "auto", device: str | None = None):
        """weights: a file, a name as in `load_generator`, or a generator that is loaded already.

        blend: as in `load_blended`. back_project: make the result equal LR when it is shrunk; "colours": only in its
        colours and brightness, without JPEG's blocks; for "photo" and "photo-srresnet" True means that.
        self_ensemble: average over eight flips and turns. memory_mb: what the feature maps of a tile may take.
        precision: as RESTORE.precision. device: TensorFlow's name of one, None for its choice. Raises UserError.
        """
        if not 0 <= blend <= 1:
            raise UserError(f"The blend is {blend}; give the share of SRGAN, from 0 to 1.")
        with utils.quiet():
            generator = load_blended(weights, blend) if isinstance(weights, str | Path) else weights
            self.upscaler = upscaling.Upscaler(generator, memory_mb, device, devices.dtype_policy(precision))
        self.scale, self.back_project, self.self_ensemble = self.upscaler.scale, bool(back_project), self_ensemble
        self.sigma = COLOUR_SIGMA if back_project == "colours" or (back_project and is_for_photos(weights)) else 0

    def n_tiles(self, height: int, width: int) -> int:
        """The number of tiles in which an LR of that size goes through the network."""
        return len(self.upscaler.tiles(height, width))

    def __call__(self, lr: np.ndarray | Image.Image, report: Callable[[float], None] | None = None) -> np.ndarray:
        """Upscale LR (H, W, C) to SR (scale H, scale W, C) of the same type: uint8, uint16, bool, or floats in [0, 1].

        C: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha; gray may be (H, W). 16 bits and floats may use a small part
        of their range. report: called with the share that is done, from 0 to 1. Raises UserError for other arrays.
        """
        sr, given = self._upscale(arrays.to_pixels(lr), report), np.asarray(lr)
        if given.dtype.kind == "f":
            sr = (sr / np.float32(65535)).astype(given.dtype)
        elif given.dtype.kind == "b":
            sr = sr > 127
        return sr[:, :, 0] if given.ndim == 2 and sr.shape[2] == 1 else sr

    def _upscale(self, lr, report):
        """LR (H, W, C), uint8 or uint16, to SR (scale H, scale W, C) of the same type."""
        n_colours = 1 if lr.shape[2] < 3 else 3
        colours, alpha = lr[:, :, :n_colours], lr[:, :, n_colours:]
        if alpha.size:
            colours = arrays.spread_colours(colours, alpha, self.upscaler.field + BICUBIC_MARGIN)
        colours, limits = arrays.stretch(colours)
        gray = not (colours != colours[:, :, :1]).any()
        if n_colours == 1:
            colours = np.broadcast_to(colours, (*colours.shape[:2], 3))
        scale, (height, width, channels) = self.scale, lr.shape
        margin = BICUBIC_MARGIN + 3 * self.sigma
        sr = np.empty((scale * height, scale * width, channels), lr.dtype)
        image = (0, height, 0, width)
        tiles = self.upscaler.tiles(height, width)
        for number, (y, y_stop, x, x_stop) in enumerate(tiles):
            def report_tile(share, number=number):
                if report:
                    report((number + share) / len(tiles))

            top, _, left, right = seen = upscaling.around((y, y_stop, x, x_stop), margin, image)
            part = self._average(colours, seen, report_tile)
            for start, stop, *_ in upscaling.cut((y, y_stop, x, x_stop), math.ceil((y_stop - y) / BAND), 1):
                first, last, *_ = upscaling.around((start, stop, x, x_stop), margin, image)
                inside = np.s_[scale * (start - first):scale * (stop - first),
                               scale * (x - left):scale * (x_stop - left)]
                band = part[scale * (first - top):scale * (last - top)]
                if gray:
                    band = band.mean(axis=2, keepdims=True)
                if self.back_project:
                    band = back_project(band, colours[first:last, left:right, :band.shape[2]], self.sigma)
                target = sr[scale * start:scale * stop, scale * x:scale * x_stop]
                band = model.quantize(band[inside], tf.as_dtype(sr.dtype)).numpy()
                target[:, :, :n_colours] = arrays.undo_stretch(band, *limits) if limits else band
                if alpha.size:
                    size = scale * (last - first), scale * (right - left)
                    target[:, :, n_colours:] = images.resize(alpha[first:last, left:right], *size)[inside]
        return sr

    def _average(self, lr, tile, report):
        """SR of a tile, float32 in [-1, 1]; with `self_ensemble` the mean over eight flips and turns of all of LR."""
        if not self.self_ensemble:
            return self.upscaler.upscale(lr, *tile, report)
        total = 0
        for number in range(8):
            flip, turns = number % 2, number // 2
            turned, (y, y_stop, x, x_stop) = lr, tile
            if flip:
                turned, (x, x_stop) = lr[:, ::-1], (lr.shape[1] - x_stop, lr.shape[1] - x)
            for _ in range(turns):
                y, y_stop, x, x_stop = turned.shape[1] - x_stop, turned.shape[1] - x, y, y_stop
                turned = np.rot90(turned)
            sr = self.upscaler.upscale(turned, y, y_stop, x, x_stop,
                                       lambda share, number=number: report((number + share) / 8))
            total = total + (np.rot90(sr, -turns)[:, ::-1] if flip else np.rot90(sr, -turns)) / 8
        return total


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


def make_restorers(generators: dict[Hashable, tuple[model.Folded, bool | str]], options: EasyDict,
                   config: EasyDict) -> list[dict[Hashable, Restorer]]:
    """For each device, a Restorer of each generator, by the same keys.

    generators: the weights of each, and whether to project back. options: config.RESTORE, or config.VALID to score.
    """
    with utils.quiet():
        names = [device.name for device in devices.list_devices()]
    return [{key: Restorer(generator, back_project=back_project, self_ensemble=options.self_ensemble,
                           memory_mb=config.RESTORE.memory_mb, precision=options.precision, device=name)
             for key, (generator, back_project) in generators.items()} for name in names]
