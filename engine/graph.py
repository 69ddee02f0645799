"""A generator as a graph: its parts, how far each sees, and what memory its maps take."""
import itertools
import math
from dataclasses import dataclass

import keras
import tensorflow as tf
from keras import layers

from layers import PReLU, Shuffle, SubpixelConv

PIXELWISE = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.BatchNormalization, layers.Add,
             layers.Subtract, layers.Multiply, layers.Average, layers.Concatenate, layers.Identity, layers.Rescaling,
             PReLU)


@dataclass(frozen=True)
class Part:
    """Layers of a network, each behind those whose outputs it takes."""

    layers: list[keras.Layer]
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]

    def __call__(self, maps: list[tf.Tensor]) -> list[tf.Tensor]:
        """Compute the outputs for values of the inputs."""
        values = {id(x): value for x, value in zip(self.inputs, maps, strict=True)}
        for layer in self.layers:
            values[id(layer.output)] = layer(tf.nest.map_structure(lambda x: values[id(x)], layer.input))
        return [values[id(x)] for x in self.outputs]

    def field(self) -> int:
        """The reach of an output to each side, in pixels of the inputs."""
        seen = {id(x): 0 for x in self.outputs}
        for layer in reversed(self.layers):
            half, factor = _window(layer)
            for x in tf.nest.flatten(layer.input):
                seen[id(x)] = max(seen.get(id(x), 0), math.ceil((seen[id(layer.output)] + half) / factor))
        return max(seen[id(x)] for x in self.inputs)

    def widest(self) -> int:
        """The bytes of the largest map, for each pixel of the inputs."""
        zoom, sizes = {id(x): 1 for x in self.inputs}, []
        for layer in self.layers:
            y = layer.output
            zoom[id(y)] = _window(layer)[1] * max(zoom[id(x)] for x in tf.nest.flatten(layer.input))
            sizes.append(y.shape[-1] * zoom[id(y)] ** 2 * tf.as_dtype(y.dtype).size)
        return max(sizes)


def parts(network: keras.Model) -> list[Part]:
    """The parts of a `model.inference_generator` that end at the layers in its `cuts`, and the rest."""
    ordered = [layer for layer in network.operations if not isinstance(layer, layers.InputLayer)]
    ends = [1 + [layer.name for layer in ordered].index(name) for name in network.cuts]
    found, inputs = [], network.inputs
    for start, end in itertools.pairwise([0, *ends, len(ordered)]):
        needed = [*network.outputs, *(tf.nest.flatten([layer.input for layer in ordered[end:]]))]
        made = [*inputs, *(layer.output for layer in ordered[start:end])]
        outputs = [x for x in made if id(x) in set(map(id, needed))]
        found.append(Part(ordered[start:end], inputs, outputs))
        inputs = outputs
    return found


def fields(parts: list[Part]) -> list[int]:
    """The reach of an SR pixel to each side in the inputs of each part of a generator."""
    return [sum(part.field() for part in parts[number:]) for number in range(len(parts))]


def _window(layer):
    """Half of a layer's kernel, and the factor by which it enlarges behind it."""
    if isinstance(layer, PIXELWISE):
        return 0, 1
    if isinstance(layer, Shuffle | SubpixelConv):
        return getattr(layer, "kernel_size", [1])[0] // 2, layer.factor
    if isinstance(layer, layers.UpSampling2D) and layer.interpolation == "nearest":
        return 0, layer.size[0]
    if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D) and (layer.padding, *layer.strides) == ("same", 1, 1):
        return max(1 + (n - 1) * step for n, step in zip(layer.kernel_size, layer.dilation_rate, strict=True)) // 2, 1
    raise ValueError(f"{layer.name}, {type(layer).__name__}: how far it sees is not known, so that no tiles can be "
                     "cut; teach it to graph._window.")
