"""Upscaling of whole images by the generator, tile by tile."""
import math
from collections import Counter
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from engine import graph
from layers import PReLU, compiles
from model import Folded, fold_network, inference_generator, normalize_lr, quantize

COMPILE_AFTER = 100_000  # LR pixels of one size, beyond which it pays to compile the activations, 35 ms each
N_COMPILED = 50  # most sizes of stages that are compiled, each of which keeps about 1 MB
Rectangle = tuple[int, int, int, int]  # y, y_stop, x, x_stop


def cut(rectangle: Rectangle, n_rows: int, n_columns: int) -> list[Rectangle]:
    """Cut a rectangle into a grid of equal ones, the last of which may overlap those before them."""

    def parts(start, stop, n):
        size = math.ceil((stop - start) / n)
        return [(each, each + size) for each in sorted({min(start + part * size, stop - size) for part in range(n)})]

    y, y_stop, x, x_stop = rectangle
    return [rows + columns for rows in parts(y, y_stop, n_rows) for columns in parts(x, x_stop, n_columns)]


def grid(height: int, width: int, margin: int, n_pixels: int, least: int = 64) -> tuple[int, int]:
    """Into how many rows and columns to cut an image so that tiles with their margins compute the fewest pixels.

    n_pixels: the most that a tile may have, margins included. least: below this side tiles are not cut further.
    """

    def side(length, n):  # of the largest tile; at the image's edges there is no margin
        return math.ceil(length / n) + margin * min(n - 1, 2)

    sizes = {(n_rows, n_columns): side(height, n_rows) * side(width, n_columns)
             for n_rows in range(1, math.ceil(height / least) + 1)
             for n_columns in range(1, math.ceil(width / least) + 1)}
    fitting = [size for size in sizes if sizes[size] <= n_pixels] or [max(sizes)]
    return min(fitting, key=lambda n: (height + 2 * margin * (n[0] - 1)) * (width + 2 * margin * (n[1] - 1)))


class Upscaler:
    """Upscales whole images with a generator, tile by tile, so that memory does not grow with the image.

    Tiles overlap by the receptive field, so that the result equals that of the whole image but for float32 rounding.
    The trunk sees far and needs little memory, the upsampling the reverse, so each trunk tile is upsampled in smaller
    ones. The trunk runs in stages, since the margin that is still needed shrinks from block to block.
    """

    def __init__(self, generator: keras.Model | Folded, memory_mb: int = 500, device: str | None = None,
                 precision: str = "float32"):
        """generator: a network, or its folded weights, quicker to load. memory_mb: what the maps of a tile may
        take. device: TensorFlow's name of one, None for its choice. precision: the type of maps and weights, such as
        "bfloat16"; the last activation is float32.
        """
        self.architecture, self.device = generator.architecture, device
        self.scale = self.architecture.scale
        with tf.device(device):
            self.network = inference_generator(self.architecture, precision)
        self._assign(generator)
        self._fixed = precision == "float32"  # whether weights are constants, see `_constants`
        self._computed = Counter()  # LR pixels by part, height and width
        self._compiled = set()  # part, height and width
        self._parts = parts = graph.parts(self.network)
        self._fields = graph.fields(parts)
        self.field = self._fields[0]  # how far a pixel sees, in LR pixels
        *self._stages, self._upsampling = map(self._compile, parts)
        # Maps that are alive at once, as measured: 4.2 of the widest besides SR, and 2.7 in the upsampling.
        # A quarter is enough for the upsampling: its margin is narrow, and larger tiles are hardly faster.
        trunk = max((part.widest() for part in parts[:-1]), default=0)
        self._trunk_pixels = 0.75 * memory_mb * 2 ** 20 / (4.5 * trunk + 3 * 4 * self.scale ** 2)
        self._upsampling_pixels = 0.25 * memory_mb * 2 ** 20 / (3 * parts[-1].widest())

    def _compile(self, part):
        """A part of the network as a function of its maps."""
        signature = [[tf.TensorSpec((1, *x.shape[1:]), x.dtype) for x in part.inputs]]
        prelus = [layer for layer in part.layers if isinstance(layer, PReLU)]

        def traced_with(form):  # once for all sizes
            def run(maps):
                for layer in prelus:
                    layer.form = form
                with keras.StatelessScope(self._constants(part)):
                    return part(maps)

            return tf.function(run, input_signature=signature, autograph=False)

        at_once, compiled = traced_with("inference"), traced_with("training")

        def run(maps):
            # XLA's activations are quicker, but compiled for each size and never forgotten. Nothing else by XLA: it is
            # slower here than TensorFlow's own kernels.
            key = (id(part), *maps[0].shape[1:3])
            self._computed[key] += math.prod(maps[0].shape[1:3])
            if prelus and compiles() and self._computed[key] > COMPILE_AFTER and len(self._compiled) < N_COMPILED:
                self._compiled.add(key)
            return (compiled if key in self._compiled else at_once)(maps)

        return run

    def _constants(self, part):
        """The weights of a part and what stands for them. Where `refresh` is called, nothing: TensorFlow never forgets
        constants. But float32 variables it takes in their order in memory to convolve a single image, for which oneDNN
        has nothing quick on processors with AVX2 alone.
        """
        with tf.init_scope():  # outside of the function that is traced, where weights have values
            values = [(weight, weight.numpy()) for layer in part.layers for weight in layer.weights if self._fixed]
        return [(weight, tf.constant(value)) for weight, value in values]

    def refresh(self, generator: keras.Model | Folded) -> None:
        """Take over the current weights of `generator`."""
        self._assign(generator)
        if self._fixed:
            self._fixed = False
            *self._stages, self._upsampling = map(self._compile, self._parts)

    def _assign(self, generator):
        folded = generator if isinstance(generator, Folded) else fold_network(generator)
        folded.assign(self.network)

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """LR (H, W, 3) of any size, uint8 or uint16, to SR (scale H, scale W, 3) of the same type."""
        height, width = lr.shape[:2]
        sr = np.empty((self.scale * height, self.scale * width, 3), lr.dtype)
        for tile in self.tiles(height, width):
            y, y_stop, x, x_stop = (self.scale * edge for edge in tile)
            sr[y:y_stop, x:x_stop] = quantize(self.upscale(lr, *tile), tf.as_dtype(lr.dtype))
        return sr

    def tiles(self, height: int, width: int) -> list[Rectangle]:
        """The rectangles of LR that fit into memory at once."""
        return cut((0, height, 0, width), *grid(height, width, self.field, self._trunk_pixels))

    def upscale(self, lr: np.ndarray, y: int, y_stop: int, x: int, x_stop: int,
                report: Callable[[float], object] = lambda share: None) -> np.ndarray:
        """SR of a rectangle of LR, float32 in [-1, 1], as it is in the SR of all of LR.

        report: called with the share that is done, from 0 to 1.
        """
        scale, tile, image = self.scale, (y, y_stop, x, x_stop), (0, lr.shape[0], 0, lr.shape[1])
        sr = np.empty((scale * (y_stop - y), scale * (x_stop - x), 3), np.float32)
        *stage_fields, margin = self._fields
        parts = cut(tile, *grid(y_stop - y, x_stop - x, margin, self._upsampling_pixels, least=32))
        with tf.device(self.device):
            seen = around(tile, self.field, image)
            maps = [normalize_lr(_crop(lr[np.newaxis], image, seen), self.architecture)]
            for done, (field, stage) in enumerate(zip(stage_fields, self._stages, strict=True), start=1):
                before, seen = seen, around(tile, field, image)
                maps = stage([_crop(each, before, seen) for each in maps])
                report(done / len(self._stages) / 2)  # the trunk takes about half of the time
            for done, part in enumerate(parts):
                report(0.5 + done / len(parts) / 2)
                wider = around(part, margin, image)
                result, = self._upsampling([_crop(each, seen, wider) for each in maps])
                sr[scale * (part[0] - y):scale * (part[1] - y), scale * (part[2] - x):scale * (part[3] - x)] = _crop(
                    result, wider, part, scale)[0]
        return sr


def around(rectangle: Rectangle, margin: int, image: Rectangle) -> Rectangle:
    """A rectangle with a margin; none at the edges of the image, which the network pads itself."""
    y, y_stop, x, x_stop = rectangle
    return max(0, y - margin), min(image[1], y_stop + margin), max(0, x - margin), min(image[3], x_stop + margin)


def _crop(maps, before, after, scale=1):
    """Maps (N, H, W, C) of the rectangle `before`, cropped to `after`. scale: their pixels for one of those."""
    y, y_stop, x, x_stop = (scale * (edge - before[n // 2 * 2]) for n, edge in enumerate(after))
    return maps[:, y:y_stop, x:x_stop]
