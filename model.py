"""The networks and the losses of the article (Ledig et al., https://arxiv.org/abs/1609.04802). Knows no files.

Two architectures: `paper`, figure 4 of the article, and `tensorlayer`, whose weights tensorlayer/srgan published.
Networks take and give float32 NHWC; HR and SR are in [-1, 1].
"""

import itertools

import keras
import numpy as np
import tensorflow as tf
from keras import layers

N_BLOCKS = 16  # residual blocks of the generator, B in figure 4

# The batch norm of both architectures' authors; Keras's own defaults would break loaded weights.
BN_MOMENTUM, BN_EPSILON = 0.9, 1e-5

# How far an output pixel sees to each side, in LR pixels. The trunk's: the head (9x9: 4; 3x3: 1), 32 times 3x3 in the
# residual blocks and 3x3 at its end, 1 each. The upsampling's, going back from an SR pixel: the tail (9x9: 4 SR pixels,
# so 2 of half the resolution; 1x1: none) and 3x3 there, 3 or 1 of half the resolution, which lie in 2 or 1 LR pixels, and
# 3x3 there.
TRUNK_FIELD = {"paper": 4 + 2 * N_BLOCKS + 1, "tensorlayer": 1 + 2 * N_BLOCKS + 1}
UPSAMPLING_FIELD = {"paper": 2 + 1, "tensorlayer": 1 + 1}


# --------------------------------------------------------------------------------------------------------- ranges


def normalize_lr(lr, architecture):
    """uint8 or uint16 LR to float32 in the range the generator was made for: [0, 1] `paper`, [-1, 1] `tensorlayer`."""
    lr = tf.convert_to_tensor(lr)
    lr = tf.cast(lr, tf.float32) / lr.dtype.max
    return lr if architecture == "paper" else 2 * lr - 1


def normalize_hr(hr):
    """uint8 HR to float32 in [-1, 1] (article, section 4)."""
    return tf.cast(hr, tf.float32) / 127.5 - 1


def quantize(sr, dtype=tf.uint8):
    """SR in [-1, 1] to uint8 or uint16, rounded and clipped."""
    return tf.saturate_cast(tf.round((sr + 1) * (dtype.max / 2)), dtype)


# --------------------------------------------------------------------------------------------------------- blocks


class PReLU(layers.Layer):
    """PReLU with one slope per channel, 0.25 at first (https://arxiv.org/abs/1502.01852).

    Before a `depth_to_space` the slopes repeat for each of its four sub-pixels, so that the result is that of a
    PReLU of `channels` slopes behind it. Not keras.layers.PReLU, which is slower; `inference` saves two more passes over
    the memory where, as nearly always, no slope is above 1.
    """

    def __init__(self, channels, name, inference=False):
        super().__init__(name=name)
        self.channels, self.inference = channels, inference

    def build(self, input_shape):
        self.alpha = self.add_weight(
            shape=(self.channels,), initializer=keras.initializers.Constant(0.25), autocast=False, name="alpha")

    def call(self, x):
        alpha = tf.tile(tf.convert_to_tensor(self.alpha), [x.shape[-1] // self.channels])
        if self.inference:
            return tf.cond(tf.reduce_all(alpha <= 1), lambda: tf.maximum(x, alpha * x), lambda: _prelu(x, alpha))
        return _prelu(x, alpha)


@tf.custom_gradient
def _prelu(x, alpha):
    slope = tf.cast(alpha, x.dtype)

    def gradient(dy):  # in half the passes over the memory that TensorFlow's own makes; the sum not in float16
        return tf.where(x > 0, dy, slope * dy), tf.reduce_sum(tf.cast(dy * tf.minimum(x, 0), alpha.dtype), [0, 1, 2])

    return tf.maximum(x, 0) + slope * tf.minimum(x, 0), gradient


class BatchNorm(layers.BatchNormalization):
    """keras.layers.BatchNormalization; in training faster, and over the batches of all devices together.

    On one device by TensorFlow's fused kernel (https://www.tensorflow.org/api_docs/python/tf/compat/v1/nn/fused_batch_norm).
    On several the mean goes first: Keras's `synchronized=True`, E[x^2] - E[x]^2, loses digits where it is far from 0.
    """

    def call(self, x, training=None):
        if not training:
            return super().call(x)
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            context, exact = tf.distribute.get_replica_context(), tf.cast(x, tf.float32)
            mean = context.all_reduce("MEAN", tf.reduce_mean(exact, [0, 1, 2]))
            variance = context.all_reduce("MEAN", tf.reduce_mean((exact - mean) ** 2, [0, 1, 2]))
            y = tf.cast(tf.nn.batch_normalization(exact, mean, variance, beta, gamma, self.epsilon), x.dtype)
        else:
            y, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=self.epsilon)
            n_pixels = tf.cast(tf.size(x) / x.shape[-1], tf.float32)
            variance *= (n_pixels - 1) / n_pixels  # the kernel gives the unbiased one
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(self.momentum * moving + (1 - self.momentum) * now)
        return y


class SubpixelConv9x9(layers.Layer):
    """`conv9x9(depth_to_space(x, 2))`, computed as the equal `depth_to_space(conv5x5(x), 2)`.

    A 9x9 convolution to 3 channels at full resolution is the worst-shaped layer of the network; at half resolution it
    is a 5x5 convolution of 4 times the channels. The weight that is trained and stored stays the 9x9 one.
    (N, H, W, 4 C) to (N, 2 H, 2 W, filters).
    """

    def __init__(self, filters, name):
        super().__init__(name=name)
        self.filters = filters

    def build(self, input_shape):
        self.channels = input_shape[-1] // 4
        self.kernel = self.add_weight(
            shape=(9, 9, self.channels, self.filters), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, x):
        kernel = tf.convert_to_tensor(self.kernel)
        # Sub-pixel (a, b) of the output sees the 9x9 kernel shifted by a rows and b columns in a 10x10 window, which is
        # 5x5 pixels of half the resolution with 2x2 sub-pixels (c, d) each.
        shifted = tf.stack([tf.pad(kernel, [[a, 1 - a], [b, 1 - b], [0, 0], [0, 0]]) for a in (0, 1) for b in (0, 1)])
        shifted = tf.reshape(shifted, [4, 5, 2, 5, 2, self.channels, self.filters])  # ab, p, c, q, d, channel, filter
        half = tf.reshape(tf.transpose(shifted, [1, 3, 2, 4, 5, 0, 6]), [5, 5, 4 * self.channels, 4 * self.filters])
        y = tf.nn.conv2d(x, half, strides=1, padding="SAME")
        return tf.nn.depth_to_space(y, 2) + tf.convert_to_tensor(self.bias)


def conv(x, filters, size, name, architecture, strides=1, use_bias=True):
    kernel = keras.initializers.RandomNormal(stddev=0.02) if architecture == "tensorlayer" else "glorot_uniform"
    return layers.Conv2D(
        filters, size, strides, padding="same", use_bias=use_bias, kernel_initializer=kernel, name=name)(x)


def batch_norm(x, name, architecture, gamma="ones"):
    if architecture == "tensorlayer":
        gamma = keras.initializers.RandomNormal(1.0, 0.02)
    return BatchNorm(momentum=BN_MOMENTUM, epsilon=BN_EPSILON, gamma_initializer=gamma, name=name)(x)


def activation(x, name, architecture, inference):
    return PReLU(64, name, inference)(x) if architecture == "paper" else layers.ReLU(name=name)(x)


def leaky_relu(x, name):
    return layers.LeakyReLU(negative_slope=0.2, name=name)(x)


# ------------------------------------------------------------------------------------------------------ generator


def get_G(architecture="paper", folded=False):
    """The generator, SRResNet (article, section 2.1 and figure 4).

    LR (N, H, W, 3) of any height and width, in the range of `normalize_lr`, to SR (N, 4 H, 4 W, 3) in [-1, 1].
    `folded` leaves the batch norms out and gives their convolutions a bias instead, see `fold`.
    """

    def conv_norm(x, number, prefix, gamma="ones"):
        x = conv(x, 64, 3, f"{prefix}_conv_{number}", architecture, use_bias=folded)
        return x if folded else batch_norm(x, f"{prefix}_bn_{number}", architecture, gamma)

    def act(x, prefix):
        return activation(x, f"{prefix}_act", architecture, inference=folded)

    def residual_block(x, prefix):
        y = act(conv_norm(x, 1, prefix), prefix)
        # Gamma 0 makes a block start as the identity: 2.5 dB after 500 steps.
        return layers.Add(name=f"{prefix}_sum")([x, conv_norm(y, 2, prefix, gamma="zeros")])

    paper = architecture == "paper"
    lr = keras.Input((None, None, 3), name="lr")
    x = head = act(conv(lr, 64, 9 if paper else 3, "head_conv", architecture), "head")
    for block in range(1, N_BLOCKS + 1):
        x = residual_block(x, f"block_{block}")
    x = layers.Add(name="trunk_sum")([conv_norm(x, 1, "trunk"), head])

    # The activation commutes with depth_to_space; before it, the second one can be left to the tail.
    x = act(conv(x, 256, 3, "upsample_1_conv", architecture), "upsample_1")
    x = layers.Lambda(tf.nn.depth_to_space, arguments={"block_size": 2}, name="upsample_1_shuffle")(x)
    x = act(conv(x, 256, 3, "upsample_2_conv", architecture), "upsample_2")
    if paper:
        x = SubpixelConv9x9(3, name="tail_conv")(x)
    else:
        x = layers.Lambda(tf.nn.depth_to_space, arguments={"block_size": 2}, name="upsample_2_shuffle")(x)
        x = conv(x, 3, 1, "tail_conv", architecture)
    sr = layers.Activation("tanh", dtype="float32", name="sr")(x)
    return keras.Model(lr, sr, name=f"{architecture}_generator")


def fold(generator, folded):
    """Give `folded`, of `get_G(..., folded=True)`, the weights of a generator: each batch norm goes into its convolution."""
    for layer in folded.layers:
        weights = generator.get_layer(layer.name).get_weights()
        if len(layer.weights) > len(weights):
            gamma, beta, mean, variance = generator.get_layer(layer.name.replace("conv", "bn")).get_weights()
            factor = gamma / np.sqrt(variance + BN_EPSILON)
            weights = [weights[0] * factor, beta - mean * factor]
        layer.set_weights(weights)


# -------------------------------------------------------------------------------------------------- discriminator


def get_D(architecture="paper", patch_size=96):
    """The discriminator (article, figure 4): HR or SR (N, patch_size, patch_size, 3) in [-1, 1] to logits (N, 1)."""
    hr = keras.Input((patch_size, patch_size, 3), name="hr")
    body = _paper_discriminator if architecture == "paper" else _tensorlayer_discriminator
    x = layers.Dense(1, dtype="float32", name="logits", **_dense_initializer(architecture))(body(hr, architecture))
    return keras.Model(hr, x, name=f"{architecture}_discriminator")


def _dense_initializer(architecture):
    if architecture == "tensorlayer":
        return {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.02)}
    return {}


def _paper_discriminator(x, architecture):
    x = leaky_relu(conv(x, 64, 3, "conv_1", architecture), "act_1")
    plan = [(64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2)]
    for number, (filters, strides) in enumerate(plan, start=2):
        x = conv(x, filters, 3, f"conv_{number}", architecture, strides, use_bias=False)
        x = leaky_relu(batch_norm(x, f"bn_{number}", architecture), f"act_{number}")
    return leaky_relu(layers.Dense(1024, name="dense")(layers.Flatten(name="flatten")(x)), "dense_act")


def _tensorlayer_discriminator(x, architecture):
    def conv_norm(x, filters, size, number, strides=1):
        x = conv(x, filters, size, f"conv_{number}", architecture, strides, use_bias=False)
        return batch_norm(x, f"bn_{number}", architecture)

    x = leaky_relu(conv(x, 64, 4, "conv_1", architecture, strides=2), "act_1")
    plan = [(128, 4, 2), (256, 4, 2), (512, 4, 2), (1024, 4, 2), (2048, 4, 2), (1024, 1, 1)]
    for number, (filters, size, strides) in enumerate(plan, start=2):
        x = leaky_relu(conv_norm(x, filters, size, number, strides), f"act_{number}")
    x = y = conv_norm(x, 512, 1, 8)
    y = leaky_relu(conv_norm(y, 128, 1, 9), "act_9")
    y = leaky_relu(conv_norm(y, 128, 3, 10), "act_10")
    x = leaky_relu(layers.Add(name="sum")([x, conv_norm(y, 512, 3, 11)]), "act_11")
    return layers.Flatten(name="flatten")(x)


# ---------------------------------------------------------------------------------------------------------- VGG19


# --------------------------------------------------------------------------------------------------------- losses

_mean_squared_error = keras.losses.MeanSquaredError()
_cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)


def content_loss(hr, sr):
    """Mean squared error of pixels or of feature maps, equations 4 and 5 of the article; a scalar."""
    return _mean_squared_error(hr, sr)


def adversarial_loss(logits_sr):
    """How far the discriminator is from taking SR for HR, equation 6 of the article; a scalar."""
    return _cross_entropy(tf.ones_like(logits_sr), logits_sr)


def discriminator_loss(logits_hr, logits_sr):
    """How far the discriminator is from telling HR from SR, equation 2 of the article; a scalar."""
    return _cross_entropy(tf.ones_like(logits_hr), logits_hr) + _cross_entropy(tf.zeros_like(logits_sr), logits_sr)


# ------------------------------------------------------------------------------------------------ weights by name


def architecture_of(network):
    """`paper` or `tensorlayer`."""
    return network.name.split("_")[0]


# ------------------------------------------------------------------------------------------------------ upscaling


def tiles(y, y_stop, x, x_stop, size):
    """Cut a rectangle into equal ones of at most `size` to a side, each again as (y, y_stop, x, x_stop)."""

    def cut(start, stop):
        n_parts = -(-(stop - start) // size)
        edges = [start + (stop - start) * part // n_parts for part in range(n_parts + 1)]
        return list(itertools.pairwise(edges))

    return [rows + columns for rows in cut(y, y_stop) for columns in cut(x, x_stop)]


class Upscaler:
    """Upscales whole images by a generator, in tiles, so that memory does not grow with the image.

    Tiles overlap by all that their pixels see, so that the result is that of the whole image but for float32 rounding.
    The trunk sees far and needs little memory, the upsampling the reverse, so each trunk tile is upsampled in smaller ones.
    """

    def __init__(self, generator, memory_mb=500, device=None):
        """memory_mb: what the feature maps of a tile may take; device: a name as TensorFlow's, None where it likes."""
        self.architecture, self.device = architecture_of(generator), device
        with tf.device(device):
            self.network = get_G(self.architecture, folded=True)
        self.refresh(generator)
        features = self.network.get_layer("trunk_sum").output
        trunk, upsampling = keras.Model(self.network.input, features), keras.Model(features, self.network.output)
        # No XLA: it would compile for each size of image, and is slower here than TensorFlow's own kernels.
        self._trunk = tf.function(
            lambda lr: trunk(normalize_lr(lr, self.architecture)), reduce_retracing=True)
        self._upsampling = tf.function(
            lambda features, dtype: quantize(upsampling(features), tf.as_dtype(dtype)), reduce_retracing=True)
        # Bytes of a pixel in the maps that are alive at once: 5 of 64 channels; 3 of 256 at twice the resolution.
        margin = TRUNK_FIELD[self.architecture] + UPSAMPLING_FIELD[self.architecture]
        self.trunk_tile = max(64, int((memory_mb * 2 ** 20 / (5 * 64 * 4)) ** 0.5) - 2 * margin)
        # A quarter is enough for the upsampling: its margin is narrow, larger tiles are hardly faster.
        self.upsampling_tile = max(32, int((memory_mb / 4 * 2 ** 20 / (3 * 4 * 256 * 4)) ** 0.5))

    def refresh(self, generator):
        """Take the weights of `generator` as they are now."""
        fold(generator, self.network)

    def __call__(self, lr, report=None):
        """LR (H, W, 3) of any size, uint8 or uint16, to SR (4 H, 4 W, 3) of the same type.

        report: called with the number of LR pixels done, after each tile.
        """
        with tf.device(self.device):
            return self._upscale(lr, report)

    def _upscale(self, lr, report):
        inner = UPSAMPLING_FIELD[self.architecture]
        outer = TRUNK_FIELD[self.architecture] + inner
        height, width = lr.shape[:2]
        sr = np.empty((4 * height, 4 * width, 3), lr.dtype)
        done = 0
        for tile in tiles(0, height, 0, width, self.trunk_tile):
            y, y_stop, x, x_stop = tile
            top, left = max(0, y - outer), max(0, x - outer)
            features = self._trunk(tf.constant(lr[np.newaxis, top:y_stop + outer, left:x_stop + outer]))
            for v, v_stop, u, u_stop in tiles(*tile, self.upsampling_tile):
                above, before = min(inner, v), min(inner, u)  # no margin at the image's own edges, which the network pads
                part = self._upsampling(
                    features[:, v - above - top:v_stop + inner - top, u - before - left:u_stop + inner - left], sr.dtype)
                sr[4 * v:4 * v_stop, 4 * u:4 * u_stop] = part[
                    0, 4 * above:4 * (above + v_stop - v), 4 * before:4 * (before + u_stop - u)]
            done += (y_stop - y) * (x_stop - x)
            if report:
                report(done)
        return sr
