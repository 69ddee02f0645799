"""The networks of the article (Ledig et al., https://arxiv.org/abs/1609.04802). Knows no files.

Three architectures: `paper`, figure 4 of the article; `tensorlayer` and `pytorch`, for the weights of tensorlayer/srgan
and of Lornatang/SRGAN-PyTorch.
Networks map float32 NHWC to float32 NHWC; HR and SR are in [-1, 1]. Each carries what its weights rely on:
`.architecture` and `.bn_epsilon`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from utils import UserError

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from layers import BN_EPSILON, NORM_WEIGHTS, Kit, norm_of

UPSAMPLING = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}  # factors of the generator's steps, by its scale


@dataclass(frozen=True)
class Architecture:
    """A family of networks, and which one of it.

    generator: maps (lr, architecture, kit) to SR in [-1, 1] and the names of layers, in order, at which large images
    are cut into tiles; the last one is where upsampling begins. discriminator: maps (hr, kit) to logits.
    """

    name: str
    generator: Callable
    discriminator: Callable
    lr_range: tuple[float, float]  # of the generator's input
    scale: int = 4
    n_blocks: int = 16  # residual blocks of the generator, B in figure 4

    def __str__(self) -> str:
        return f"{self.name} with {self.n_blocks} blocks at scale {self.scale}"


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


# ------------------------------------------------------------------------------------------------------ generator


def _srresnet(lr, architecture, kit, act, head_size, tail_size, output="tanh"):
    """SRResNet (article, section 2.1 and figure 4). act: maps a tensor and a name to its activation."""
    x = head = act(kit.conv(lr, 64, head_size, "head_conv"), "head_act")
    for block in range(1, architecture.n_blocks + 1):
        x = _residual_block(x, kit, act, f"block_{block}")
    x = kit.add(kit.conv_norm(x, 64, 3, "trunk_conv_1"), head, "trunk_sum")

    # Activations commute with shuffles; before it, the last shuffle can be left to the tail.
    factors = UPSAMPLING[architecture.scale]
    for step, factor in enumerate(factors, start=1):
        x = act(kit.conv(x, 64 * factor ** 2, 3, f"upsample_{step}_conv"), f"upsample_{step}_act")
        if step < len(factors):
            x = kit.shuffle(x, factor, f"upsample_{step}_shuffle")
    if architecture.name == "tensorlayer":  # states of its trainings number the layers; there was a shuffle once
        x = layers.Identity(name="last_shuffle", dtype=kit.dtype)(x)
    x = kit.subpixel_conv(x, 3, tail_size, factor, "tail_conv")
    sr = layers.Activation(output, dtype="float32", name="sr")(x)
    quarters = sorted({architecture.n_blocks * part // 4 for part in (1, 2, 3)} - {0})
    return sr, [*(f"block_{block}_sum" for block in quarters), "trunk_sum"]


def _residual_block(x, kit, act, prefix):
    y = act(kit.conv_norm(x, 64, 3, f"{prefix}_conv_1"), f"{prefix}_act")
    # Gamma 0 makes a block start as the identity: 2.5 dB after 500 steps.
    y = kit.conv_norm(y, 64, 3, f"{prefix}_conv_2", gamma="zeros")
    return kit.add(x, y, f"{prefix}_sum")


def _paper_generator(lr, architecture, kit):
    return _srresnet(lr, architecture, kit, kit.prelu, head_size=9, tail_size=9)


def _tensorlayer_generator(lr, architecture, kit):
    kit = replace(kit, stddev=0.02)
    return _srresnet(lr, architecture, kit, kit.relu, head_size=3, tail_size=1)


def _pytorch_generator(lr, architecture, kit):
    def clip(x):  # its weights are made for SR in [0, 1]
        return tf.clip_by_value(2 * x - 1, -1, 1)

    return _srresnet(lr, architecture, kit, kit.prelu, head_size=9, tail_size=9, output=clip)


# -------------------------------------------------------------------------------------------------- discriminator


def _paper_discriminator(hr, kit):
    """Figure 4 of the article."""
    x = kit.leaky_relu(kit.conv(hr, 64, 3, "conv_1"), "act_1")
    plan = [(64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2)]
    for number, (filters, strides) in enumerate(plan, start=2):
        x = kit.leaky_relu(kit.conv_norm(x, filters, 3, f"conv_{number}", strides), f"act_{number}")
    x = layers.Dense(1024, name="dense")(layers.Flatten(name="flatten")(x))
    return kit.logits(kit.leaky_relu(x, "dense_act"))


def _tensorlayer_discriminator(hr, kit):
    """That of tensorlayer/srgan."""
    kit = replace(kit, stddev=0.02)
    x = kit.leaky_relu(kit.conv(hr, 64, 4, "conv_1", strides=2), "act_1")
    plan = [(128, 4, 2), (256, 4, 2), (512, 4, 2), (1024, 4, 2), (2048, 4, 2), (1024, 1, 1)]
    for number, (filters, size, strides) in enumerate(plan, start=2):
        x = kit.leaky_relu(kit.conv_norm(x, filters, size, f"conv_{number}", strides), f"act_{number}")
    x = y = kit.conv_norm(x, 512, 1, "conv_8")
    y = kit.leaky_relu(kit.conv_norm(y, 128, 1, "conv_9"), "act_9")
    y = kit.leaky_relu(kit.conv_norm(y, 128, 3, "conv_10"), "act_10")
    x = kit.leaky_relu(kit.add(x, kit.conv_norm(y, 512, 3, "conv_11"), "sum"), "act_11")
    return kit.logits(layers.Flatten(name="flatten")(x))


def _unet_discriminator(hr, kit):
    """Real-ESRGAN's (https://arxiv.org/abs/2107.10833, section 3.3) with half its channels; a logit for each pixel."""
    x = kit.leaky_relu(kit.conv(hr, 32, 3, "conv_1"), "act_1")
    skipped = []
    for number, filters in enumerate((64, 128, 256), start=2):
        skipped.append(x)
        x = kit.spectral_conv(x, filters, 4, f"conv_{number}", strides=2)
    for number, filters in enumerate((128, 64, 32), start=5):
        skip = skipped.pop()
        x = kit.spectral_conv(kit.resize(x, *skip.shape[1:3], f"resize_{number}"), filters, 3, f"conv_{number}")
        x = kit.add(x, skip, f"sum_{number}")
    x = kit.spectral_conv(kit.spectral_conv(x, 32, 3, "conv_8"), 32, 3, "conv_9")
    return replace(kit, dtype="float32").conv(x, 1, 3, "logits")


# ------------------------------------------------------------------------------------------------------- networks


PAPER = Architecture("paper", _paper_generator, _paper_discriminator, (0, 1))  # [0, 1]: article, section 4
TENSORLAYER = Architecture("tensorlayer", _tensorlayer_generator, _tensorlayer_discriminator, (-1, 1))
PYTORCH = Architecture("pytorch", _pytorch_generator, _paper_discriminator, (0, 1))  # Lornatang/SRGAN-PyTorch
ARCHITECTURES = {architecture.name: architecture for architecture in (PAPER, TENSORLAYER, PYTORCH)}
DISCRIMINATORS = {"unet": _unet_discriminator}  # that may take the place of an architecture's own


def with_discriminator(architecture: Architecture, kind: str) -> Architecture:
    """The architecture with its own discriminator, or one of `DISCRIMINATORS`."""
    return architecture if kind == "own" else replace(architecture, discriminator=DISCRIMINATORS[kind])


def discriminator_kind(architecture: Architecture) -> str:
    """What `with_discriminator` was given."""
    return next((kind for kind, build in DISCRIMINATORS.items() if build is architecture.discriminator), "own")


def get_G(architecture: Architecture = PAPER, n_blocks: int | None = None, bn_epsilon: float = BN_EPSILON,
          scale: int | None = None) -> keras.Model:
    """The generator: LR (N, H, W, 3) of any size, in the range of `normalize_lr`, to SR (N, scale H, scale W, 3).

    n_blocks, scale: by default the architecture's.
    """
    architecture = replace(architecture, n_blocks=n_blocks or architecture.n_blocks, scale=scale or architecture.scale)
    lr = keras.Input((None, None, 3), name="lr")
    sr, _ = architecture.generator(lr, architecture, Kit(bn_epsilon))
    generator = keras.Model(lr, sr, name="generator")
    generator.architecture, generator.bn_epsilon = architecture, bn_epsilon
    return generator


def get_D(architecture: Architecture = PAPER, patch_size: int = 96, bn_epsilon: float = BN_EPSILON) -> keras.Model:
    """The discriminator: HR or SR (N, patch_size, patch_size, 3) in [-1, 1] to logits (N, 1).

    That of `unet` has a logit for every pixel: (N, patch_size, patch_size, 1).
    """
    hr = keras.Input((patch_size, patch_size, 3), name="hr")
    discriminator = keras.Model(hr, architecture.discriminator(hr, Kit(bn_epsilon)), name="discriminator")
    discriminator.architecture, discriminator.bn_epsilon = architecture, bn_epsilon
    return discriminator


# ------------------------------------------------------------------------------------------------------ inference


def inference_generator(architecture: Architecture, dtype: str | None = None) -> keras.Model:
    """A generator for the weights of `Folded`, which has no batch norms.

    dtype: a Keras dtype policy, by default the global one.
    """
    lr = keras.Input((None, None, 3), name="lr")
    sr, cuts = architecture.generator(lr, architecture, Kit(inference=True, dtype=dtype))
    generator = keras.Model(lr, sr, name="generator")
    generator.architecture, generator.cuts = architecture, cuts
    return generator


@dataclass(frozen=True)
class Folded:
    """A generator's weights for inference: each batch norm folded into its convolution."""

    architecture: Architecture
    arrays: dict[str, np.ndarray]  # by the names of `inference_generator`

    def network(self, dtype: str | None = None) -> keras.Model:
        """The `inference_generator` with these weights."""
        network = inference_generator(self.architecture, dtype)
        self.assign(network)
        return network

    def assign(self, network: keras.Model) -> None:
        """Give an `inference_generator` these weights."""
        for variable in network.weights:
            variable.assign(self.arrays[variable.path])


def fold(arrays: dict[str, np.ndarray], architecture: Architecture, bn_epsilon: float) -> Folded:
    """Fold the batch norms of a generator. arrays: its weights, by the names of `get_G`."""
    folded = dict(arrays)
    for conv in [name.removesuffix("/kernel") for name in arrays if name.endswith("/kernel")]:
        if f"{norm_of(conv)}/gamma" in arrays:
            beta, gamma, mean, variance = (folded.pop(f"{norm_of(conv)}/{name}") for name in NORM_WEIGHTS)
            factor = gamma / np.sqrt(variance + np.float32(bn_epsilon))
            folded |= {f"{conv}/kernel": arrays[f"{conv}/kernel"] * factor, f"{conv}/bias": beta - mean * factor}
    return Folded(architecture, folded)


def fold_network(generator: keras.Model) -> Folded:
    """Fold the batch norms of a generator, with its current weights."""
    arrays = {weight.path: weight.numpy() for weight in generator.weights}
    return fold(arrays, generator.architecture, generator.bn_epsilon)


def blend(a: Folded, b: Folded, share: float) -> Folded:
    """Interpolate two generators' weights, `b` with a share from 0 to 1 (ESRGAN, arXiv 1809.00219, section 3.4)."""
    if a.architecture != b.architecture:
        raise UserError(f"A blend needs two generators of one kind; these are {a.architecture} and {b.architecture}; "
                        "set it to 1.")
    arrays = {name: (1 - share) * array + share * b.arrays[name] for name, array in a.arrays.items()}
    return Folded(a.architecture, arrays)
