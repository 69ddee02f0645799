"""The networks, losses and optimizer of the article (Ledig et al., https://arxiv.org/abs/1609.04802). Knows no files.

Three architectures: `paper`, figure 4 of the article; `tensorlayer` and `pytorch`, for the weights of tensorlayer/srgan
and of Lornatang/SRGAN-PyTorch.
Networks map float32 NHWC to float32 NHWC; HR and SR are in [-1, 1]. Each carries what its weights rely on:
`.architecture` and `.bn_epsilon`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from utils import UserError

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from layers import PReLU, SubpixelConv, _relu, batch_norm, conv, kernel_initializer, leaky_relu

BN_EPSILON = 1e-5  # of weights that do not say otherwise


# -------------------------------------------------------------------------------------------------- architectures


@dataclass(frozen=True)
class Architecture:
    """What distinguishes one family of networks from another.

    discriminator: maps (x, architecture, bn_epsilon) to the features that the last dense layer sees.
    init_stddev: of the initial kernels and gammas; None: Glorot uniform, and residual blocks start as the identity.
    """

    name: str
    lr_range: tuple[float, float]  # of the generator's input
    head_size: int  # of the generator's first kernel
    tail_size: int  # of its last kernel: 1 or 9
    activation: str  # of the generator: "prelu" or "relu"
    init_stddev: float | None
    discriminator: Callable
    output: str = "tanh"  # of the generator, in [-1, 1]; "clip": in [0, 1], clipped
    n_blocks: int = 16  # residual blocks of the generator, B in figure 4

    @property
    def trunk_field(self) -> int:
        """How far an output of the trunk sees to each side, in LR pixels: the head, 2 a block and the trunk's end."""
        return self.head_size // 2 + 2 * self.n_blocks + 1

    @property
    def upsampling_field(self) -> int:
        """How far an SR pixel sees to each side in the trunk's output, in LR pixels.

        Going back from SR: the tail, then a 3x3 convolution at each of the two lower resolutions.
        """
        half = math.ceil(self.tail_size // 2 / 2) + 1
        return math.ceil(half / 2) + 1

    @property
    def field(self) -> int:
        """How far an SR pixel sees to each side, in LR pixels."""
        return self.trunk_field + self.upsampling_field


# --------------------------------------------------------------------------------------------------------- ranges


def normalize_lr(lr, architecture: Architecture) -> tf.Tensor:
    """uint8 or uint16 LR to float32 in the range of the architecture's input."""
    lr = tf.convert_to_tensor(lr)
    low, high = architecture.lr_range
    return low + (high - low) * (tf.cast(lr, tf.float32) / lr.dtype.max)


def normalize_hr(hr) -> tf.Tensor:
    """uint8 HR to float32 in [-1, 1] (article, section 4)."""
    return tf.cast(hr, tf.float32) / 127.5 - 1


def quantize(sr: tf.Tensor, dtype=tf.uint8) -> tf.Tensor:
    """SR in [-1, 1] to uint8 or uint16, rounded and clipped."""
    return tf.saturate_cast(tf.round((sr + 1) * (dtype.max / 2)), dtype)


def _network(inputs, outputs, name, architecture, bn_epsilon):
    network = keras.Model(inputs, outputs, name=name)
    network.architecture, network.bn_epsilon = architecture, bn_epsilon
    return network


# -------------------------------------------------------------------------------------------------- discriminator


def _paper_discriminator(x, architecture, bn_epsilon):
    """Figure 4 of the article, up to the last dense layer."""
    x = leaky_relu(conv(x, 64, 3, "conv_1", architecture), "act_1")
    plan = [(64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2)]
    for number, (filters, strides) in enumerate(plan, start=2):
        x = conv(x, filters, 3, f"conv_{number}", architecture, strides, use_bias=False)
        x = leaky_relu(batch_norm(x, f"bn_{number}", architecture, bn_epsilon), f"act_{number}")
    return leaky_relu(layers.Dense(1024, name="dense")(layers.Flatten(name="flatten")(x)), "dense_act")


def _tensorlayer_discriminator(x, architecture, bn_epsilon):
    """That of tensorlayer/srgan, up to the last dense layer."""

    def conv_norm(x, filters, size, number, strides=1):
        x = conv(x, filters, size, f"conv_{number}", architecture, strides, use_bias=False)
        return batch_norm(x, f"bn_{number}", architecture, bn_epsilon)

    x = leaky_relu(conv(x, 64, 4, "conv_1", architecture, strides=2), "act_1")
    plan = [(128, 4, 2), (256, 4, 2), (512, 4, 2), (1024, 4, 2), (2048, 4, 2), (1024, 1, 1)]
    for number, (filters, size, strides) in enumerate(plan, start=2):
        x = leaky_relu(conv_norm(x, filters, size, number, strides), f"act_{number}")
    x = y = conv_norm(x, 512, 1, 8)
    y = leaky_relu(conv_norm(y, 128, 1, 9), "act_9")
    y = leaky_relu(conv_norm(y, 128, 3, 10), "act_10")
    x = leaky_relu(layers.Add(name="sum")([x, conv_norm(y, 512, 3, 11)]), "act_11")
    return layers.Flatten(name="flatten")(x)


PAPER = Architecture("paper", (0, 1), 9, 9, "prelu", None, _paper_discriminator)  # [0, 1]: article, section 4
TENSORLAYER = Architecture("tensorlayer", (-1, 1), 3, 1, "relu", 0.02, _tensorlayer_discriminator)
PYTORCH = replace(PAPER, name="pytorch", output="clip")  # Lornatang/SRGAN-PyTorch
ARCHITECTURES = {architecture.name: architecture for architecture in (PAPER, TENSORLAYER, PYTORCH)}


def get_D(architecture: Architecture = PAPER, patch_size: int = 96, bn_epsilon: float = BN_EPSILON) -> keras.Model:
    """The discriminator (article, figure 4): HR or SR (N, patch_size, patch_size, 3) in [-1, 1] to logits (N, 1)."""
    hr = keras.Input((patch_size, patch_size, 3), name="hr")
    x = architecture.discriminator(hr, architecture, bn_epsilon)
    logits = layers.Dense(1, dtype="float32", name="logits", kernel_initializer=kernel_initializer(architecture))(x)
    return _network(hr, logits, "discriminator", architecture, bn_epsilon)


# ------------------------------------------------------------------------------------------------------ generator


def get_G(architecture: Architecture = PAPER, n_blocks: int | None = None, bn_epsilon: float = BN_EPSILON,
          folded: bool = False, dtype: str | None = None) -> keras.Model:
    """The generator, SRResNet (article, section 2.1 and figure 4).

    LR (N, H, W, 3) of any height and width, in the range of `normalize_lr`, to SR (N, 4 H, 4 W, 3) in [-1, 1].
    n_blocks: residual blocks, by default the architecture's. folded: leave the batch norms out and give their
    convolutions a bias instead, see `Folded`. dtype: a Keras dtype policy, by default the global one.
    """
    if n_blocks is not None:
        architecture = replace(architecture, n_blocks=n_blocks)

    def conv_norm(x, number, prefix, gamma="ones"):
        x = conv(x, 64, 3, f"{prefix}_conv_{number}", architecture, use_bias=folded, dtype=dtype)
        return x if folded else batch_norm(x, f"{prefix}_bn_{number}", architecture, bn_epsilon, gamma)

    def act(x, prefix):
        if architecture.activation == "relu":
            return layers.Activation(tf.nn.relu if folded else _relu, name=f"{prefix}_act", dtype=dtype)(x)
        return PReLU(64, f"{prefix}_act", "inference" if folded else "training", dtype)(x)

    def add(x, y, name):
        return layers.Add(name=name, dtype=dtype)([x, y])

    def shuffle(x, name):
        return layers.Lambda(tf.nn.depth_to_space, arguments={"block_size": 2}, name=name, dtype=dtype)(x)

    def residual_block(x, prefix):
        y = act(conv_norm(x, 1, prefix), prefix)
        # Gamma 0 makes a block start as the identity: 2.5 dB after 500 steps.
        return add(x, conv_norm(y, 2, prefix, gamma="zeros"), f"{prefix}_sum")

    lr = keras.Input((None, None, 3), name="lr")
    x = head = act(conv(lr, 64, architecture.head_size, "head_conv", architecture, dtype=dtype), "head")
    for block in range(1, architecture.n_blocks + 1):
        x = residual_block(x, f"block_{block}")
    x = add(conv_norm(x, 1, "trunk"), head, "trunk_sum")

    # The activations commute with depth_to_space; before it, the second one can be left to the tail.
    x = act(conv(x, 256, 3, "upsample_1_conv", architecture, dtype=dtype), "upsample_1")
    x = shuffle(x, "upsample_1_shuffle")
    x = act(conv(x, 256, 3, "upsample_2_conv", architecture, dtype=dtype), "upsample_2")
    if architecture.tail_size == 1:  # there was a shuffle here, and states of trainings number the layers
        x = layers.Identity(name="upsample_2_shuffle", dtype=dtype)(x)
    x = SubpixelConv(3, architecture.tail_size, architecture, "tail_conv", dtype)(x)
    # SR in [-1, 1] whatever the range that the weights were made for.
    output = "tanh" if architecture.output == "tanh" else lambda x: tf.clip_by_value(2 * x - 1, -1, 1)
    sr = layers.Activation(output, dtype="float32", name="sr")(x)
    return _network(lr, sr, "generator", architecture, bn_epsilon)


def weight_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Shapes of a generator's weights by name, in the order of weights files: by layer, a batch norm's beta first."""

    def conv(name, size, channels, filters):
        return {f"{name}/kernel": (size, size, channels, filters), f"{name}/bias": (filters,)}

    def act(prefix):
        return {f"{prefix}_act/alpha": (64,)} if architecture.activation == "prelu" else {}

    def conv_norm(prefix, number):
        norm = {f"{prefix}_bn_{number}/{name}": (64,) for name in ("beta", "gamma", "moving_mean", "moving_variance")}
        return {f"{prefix}_conv_{number}/kernel": (3, 3, 64, 64), **norm}

    shapes = conv("head_conv", architecture.head_size, 3, 64) | act("head")
    for block in (f"block_{number}" for number in range(1, architecture.n_blocks + 1)):
        shapes |= conv_norm(block, 1) | act(block) | conv_norm(block, 2)
    shapes |= conv_norm("trunk", 1)
    for upsample in ("upsample_1", "upsample_2"):
        shapes |= conv(f"{upsample}_conv", 3, 64, 256) | act(upsample)
    return shapes | conv("tail_conv", architecture.tail_size, 64, 3)


@dataclass(frozen=True)
class Folded:
    """A generator's weights for inference: each batch norm folded into its convolution."""

    architecture: Architecture
    arrays: dict[str, np.ndarray]  # by the names of `get_G(..., folded=True)`

    def network(self, dtype: str | None = None) -> keras.Model:
        """The folded generator with these weights. dtype: a Keras dtype policy, by default the global one."""
        network = get_G(self.architecture, folded=True, dtype=dtype)
        self.assign(network)
        return network

    def assign(self, network: keras.Model) -> None:
        """Give a folded generator these weights."""
        for variable in network.weights:
            variable.assign(self.arrays[variable.path])


def fold(arrays: dict[str, np.ndarray], architecture: Architecture, bn_epsilon: float) -> Folded:
    """Fold the batch norms of a generator. arrays: its weights, by the names of `weight_shapes`."""
    folded = {name: array for name, array in arrays.items() if "_bn_" not in name}
    for name in arrays:
        if name.endswith("/gamma"):
            norm = name.removesuffix("/gamma")
            conv = norm.replace("_bn_", "_conv_")
            factor = arrays[name] / np.sqrt(arrays[f"{norm}/moving_variance"] + np.float32(bn_epsilon))
            folded[f"{conv}/kernel"] = arrays[f"{conv}/kernel"] * factor
            folded[f"{conv}/bias"] = arrays[f"{norm}/beta"] - arrays[f"{norm}/moving_mean"] * factor
    return Folded(architecture, folded)


def fold_network(generator: keras.Model) -> Folded:
    """Fold the batch norms of a generator, with its current weights."""
    arrays = {weight.path: weight.numpy() for weight in generator.weights}
    return fold(arrays, generator.architecture, generator.bn_epsilon)


def blend(a: Folded, b: Folded, share: float) -> Folded:
    """Interpolate two generators' weights, `b` with a share from 0 to 1 (ESRGAN, arXiv 1809.00219, section 3.4)."""
    if a.architecture != b.architecture:
        raise UserError(f"A blend needs two generators of one kind; these are {a.architecture.name} with "
                        f"{a.architecture.n_blocks} blocks and {b.architecture.name} with {b.architecture.n_blocks}; "
                        "set it to 1.")
    arrays = {name: (1 - share) * array + share * b.arrays[name] for name, array in a.arrays.items()}
    return Folded(a.architecture, arrays)


# ---------------------------------------------------------------------------------------------------------- VGG19


def get_VGG(layer: str = "pool4", weights: str | None = None) -> keras.Model:
    """Feature maps of VGG19 (article, section 2.2.1): RGB (N, H, W, 3) in [-1, 1] to the output of `layer`.

    layer: `pool4`, `conv5_4` (after its ReLU) and the like. weights: as keras.applications.VGG19 takes them.
    Raises UserError for a layer that does not exist.
    """
    names = {f"pool{block}": f"block{block}_pool" for block in range(1, 6)} | {
        f"conv{block}_{number}": f"block{block}_conv{number}"
        for block in range(1, 6) for number in range(1, 3 if block < 3 else 5)}
    if layer not in names:
        raise UserError(f"vgg_layer in config.LOSS is {layer!r}, which VGG19 does not have; name one of pool1 to "
                        "pool5 or conv1_1 to conv5_4.")
    vgg = keras.applications.VGG19(include_top=False, weights=weights, input_shape=(None, None, 3))
    hr = keras.Input((None, None, 3), name="hr")
    # The weights come from Caffe: BGR, with the mean of ImageNet subtracted, in that order.
    bgr = (hr[..., ::-1] + 1) * 127.5 - np.array([103.939, 116.779, 123.68], "float32")
    features = keras.Model(vgg.input, vgg.get_layer(names[layer]).output)(bgr)
    extractor = keras.Model(hr, features, name="vgg19")
    extractor.trainable = False
    return extractor
