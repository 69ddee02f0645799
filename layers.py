"""The layers that the networks are built of, and their optimizer. Like `model.py`, knows no files."""
import functools

import keras
import tensorflow as tf
from keras import layers

keras.config.set_floatx("float32")  # whatever the user's keras.json says
keras.config.set_image_data_format("channels_last")

BN_MOMENTUM = 0.9  # of both architectures' authors, as is the epsilon; Keras's defaults differ


class PReLU(layers.Layer):
    """PReLU with one slope per channel, 0.25 at first (https://arxiv.org/abs/1502.01852).

    Before a `depth_to_space` the slopes repeat for each of its four sub-pixels, which equals a PReLU of `channels`
    slopes after it. Faster than keras.layers.PReLU.

    form: "training"; "inference", quicker where, as nearly always, no slope is above 1; or "portable", for other
    runtimes, which know neither XLA nor conditions.
    """

    def __init__(self, channels, name, form="training", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.channels, self.form = channels, form

    def build(self, input_shape):
        self.alpha = self.add_weight(
            shape=(self.channels,), initializer=keras.initializers.Constant(0.25), autocast=False, name="alpha")

    def compute_output_shape(self, input_shape):  # or Keras would trace `call`, which takes longer
        return input_shape

    def call(self, x):
        slope = tf.tile(tf.convert_to_tensor(self.alpha), [x.shape[-1] // self.channels])
        if self.form == "training":
            return _prelu(x, slope)
        y = tf.cast(slope, x.dtype) * x
        if self.form == "portable":
            return tf.where(x > 0, x, y)
        return tf.cond(tf.reduce_all(slope <= 1), lambda: tf.maximum(x, y), lambda: tf.where(x > 0, x, y))


def compiles() -> bool:
    """Whether XLA compiles the activations."""
    return tf.test.is_built_with_xla() and not tf.config.list_physical_devices("GPU")


def _fused(function):
    """On the CPU, have XLA compile a function of whole maps, which then takes one pass over the memory.

    On a GPU TensorFlow's own kernels are as good, and XLA needs parts of CUDA that are often not installed. Not
    every TensorFlow is built with XLA.
    """
    compiled = tf.function(function, jit_compile=True)
    return lambda *maps: (compiled if compiles() else function)(*maps)


@_fused
def _prelu_forward(x, slope):
    return tf.where(x > 0, x, tf.cast(slope, x.dtype) * x)


@_fused
def _prelu_backward(x, slope, dy):
    # XLA sums slowly over all pixels, so that only rows are summed here.
    rows = tf.reduce_sum(tf.cast(dy, slope.dtype) * tf.cast(tf.minimum(x, 0), slope.dtype), 2)
    return tf.where(x > 0, dy, tf.cast(slope, x.dtype) * dy), rows


@tf.custom_gradient
def _prelu(x, slope):
    def gradient(dy):
        dx, rows = _prelu_backward(x, slope, dy)
        return dx, tf.reduce_sum(rows, [0, 1])

    # The reshape tells TensorFlow the size, so that it fuses the sum at the end of a block with its convolution.
    return tf.reshape(_prelu_forward(x, slope), tf.shape(x)), gradient


@_fused
def _leaky_relu_forward(x):
    return tf.maximum(x, 0.2 * x)


@_fused
def _leaky_relu_backward(x, dy):
    return tf.where(x > 0, dy, 0.2 * dy)


@tf.custom_gradient
def _leaky_relu(x):
    return _leaky_relu_forward(x), functools.partial(_leaky_relu_backward, x)


@_fused
def _relu_backward(y, dy):
    return tf.where(y > 0, dy, 0)


@tf.custom_gradient
def _relu(x):
    y = tf.nn.relu(x)  # which TensorFlow fuses with the layer before it
    return y, functools.partial(_relu_backward, y)


class BatchNorm(layers.BatchNormalization):
    """keras.layers.BatchNormalization, faster in training and synchronized over all devices.

    One device uses TensorFlow's fused kernel,
    https://www.tensorflow.org/api_docs/python/tf/compat/v1/nn/fused_batch_norm.
    Several subtract the mean first: Keras's `synchronized=True`, E[x^2] - E[x]^2, loses digits where it is far from 0.
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


class SubpixelConv(layers.Layer):
    """`conv(depth_to_space(x, 2))`, computed as an equal convolution before the `depth_to_space`.

    A convolution to 3 channels at full resolution is the worst-shaped layer of the network; at half resolution it has
    4 times the channels, and of a 9x9 kernel 5x5 are left. The weight that is trained and stored stays the kernel at
    full resolution, of 1x1, 5x5, 9x9, ... pixels. (N, H, W, 4 C) to (N, 2 H, 2 W, filters).
    """

    def __init__(self, filters, size, architecture, name, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.filters, self.size, self.architecture = filters, size, architecture

    def build(self, input_shape):
        self.channels = input_shape[-1] // 4
        self.kernel = self.add_weight(shape=(self.size, self.size, self.channels, self.filters),
                                      initializer=kernel_initializer(self.architecture), name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        if self.size == 1:
            self._kernel = self.kernel  # states of trainings know it by this name, of the keras.layers.Conv2D it was

    def call(self, x):
        kernel, n = tf.convert_to_tensor(self.kernel), (self.size + 1) // 2
        # Sub-pixel (a, b) of the output sees the kernel shifted by a rows and b columns in a window that is one row and
        # column larger: n x n pixels of half the resolution with 2x2 sub-pixels (c, d) each.
        shifted = tf.stack([tf.pad(kernel, [[a, 1 - a], [b, 1 - b], [0, 0], [0, 0]]) for a in (0, 1) for b in (0, 1)])
        shifted = tf.reshape(shifted, [4, n, 2, n, 2, self.channels, self.filters])  # ab, p, c, q, d, channel, filter
        half = tf.reshape(tf.transpose(shifted, [1, 3, 2, 4, 5, 0, 6]), [n, n, 4 * self.channels, 4 * self.filters])
        y = tf.nn.conv2d(x, half, strides=1, padding="SAME")
        return tf.nn.depth_to_space(tf.nn.bias_add(y, tf.tile(tf.convert_to_tensor(self.bias), [4])), 2)


def conv(x, filters, size, name, architecture, strides=1, use_bias=True, dtype=None):
    return layers.Conv2D(filters, size, strides, padding="same", use_bias=use_bias,
                         kernel_initializer=kernel_initializer(architecture), name=name, dtype=dtype)(x)


def kernel_initializer(architecture):
    if architecture.init_stddev is None:
        return "glorot_uniform"
    return keras.initializers.RandomNormal(stddev=architecture.init_stddev)


def batch_norm(x, name, architecture, epsilon, gamma="ones"):
    if architecture.init_stddev is not None:
        gamma = keras.initializers.RandomNormal(1.0, architecture.init_stddev)
    return BatchNorm(momentum=BN_MOMENTUM, epsilon=epsilon, gamma_initializer=gamma, name=name)(x)


def leaky_relu(x, name):
    return layers.Activation(_leaky_relu, name=name)(x)


class Adam(keras.optimizers.Adam):
    """keras.optimizers.Adam, without amsgrad, by TensorFlow's kernel, which takes one pass over the memory."""

    def update_step(self, gradient, variable, learning_rate):
        index, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=self._momentums[index].value.handle, v=self._velocities[index].value.handle,
            beta1_power=self.beta_1 ** step, beta2_power=self.beta_2 ** step, lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1, beta2=self.beta_2, epsilon=self.epsilon, grad=gradient)
