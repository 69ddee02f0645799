"""The layers that the networks are built of, and their optimizer. Like `model.py`, knows no files."""
import functools
import math
from dataclasses import dataclass

import keras
import tensorflow as tf
from keras import layers
from tensorflow.python.util import _pywrap_util_port

keras.config.set_floatx("float32")  # whatever the user's keras.json says
keras.config.set_image_data_format("channels_last")

BN_MOMENTUM = 0.9  # as in both reference implementations, as is the epsilon; Keras's defaults differ
BN_EPSILON = 1e-5  # where the weights' file stores none
NORM_WEIGHTS = ("beta", "gamma", "moving_mean", "moving_variance")  # of a batch norm, in the order of weights files


class PReLU(layers.Layer):
    """PReLU with one slope per channel, 0.25 at first (https://arxiv.org/abs/1502.01852).

    Before a `depth_to_space` the slopes repeat for each of its sub-pixels, which equals a PReLU of `channels` slopes
    after it. Faster than keras.layers.PReLU.

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
            return y + tf.cast(1 - slope, x.dtype) * tf.nn.relu(x)
        return tf.cond(tf.reduce_all(slope <= 1), lambda: tf.maximum(x, y), lambda: tf.where(x > 0, x, y))


def compiles() -> bool:
    """Whether XLA compiles the activations."""
    return tf.test.is_built_with_xla() and not tf.config.list_physical_devices("GPU")


def _fused(function):
    """On the CPU, have XLA compile a function of whole maps, which then takes one pass over the memory.

    On a GPU TensorFlow's own kernels are as good, and XLA needs parts of CUDA that are often not installed. Not
    every TensorFlow is built with XLA.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)
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
def leaky_relu(x):
    return _leaky_relu_forward(x), functools.partial(_leaky_relu_backward, x)


@_fused
def _relu_backward(y, dy):
    return tf.where(y > 0, dy, 0)


@tf.custom_gradient
def relu(x):
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


def _convolves_by_eigen():
    """Whether TensorFlow convolves by Eigen instead of oneDNN, as on a Mac or with TF_ENABLE_ONEDNN_OPTS=0."""
    return not (_pywrap_util_port.IsMklEnabled() or tf.config.list_physical_devices("GPU"))


def convolve(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """`tf.nn.conv2d` of stride 1 with padding; its gradients are quicker than TensorFlow's where Eigen convolves."""
    kernel = tf.convert_to_tensor(kernel)
    if _convolves_by_eigen() and kernel.shape[0] % 2:  # an even one would be padded on the other side
        return _convolve(x, kernel)
    return tf.nn.conv2d(x, kernel, 1, "SAME")


@tf.custom_gradient
def _convolve(x, kernel):
    def gradient(dy):
        size, _, channels, filters = kernel.shape
        if filters > 16:
            dk = tf.raw_ops.Conv2DBackpropFilter(input=x, filter_sizes=kernel.shape, out_backprop=dy, strides=[1] * 4,
                                                 padding="SAME")
        else:  # patches of dy are so few then that a product with them takes a sixth of the time
            patches = tf.image.extract_patches(dy, [1, size, size, 1], [1] * 4, [1] * 4, "SAME")
            dk = tf.tensordot(patches, x, [[0, 1, 2]] * 2)  # by place in the patch and filter, and by channel
            dk = tf.reverse(tf.transpose(tf.reshape(dk, [size, size, filters, channels]), [0, 1, 3, 2]), [0, 1])
        flipped = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
        return tf.nn.conv2d(dy, flipped, 1, "SAME"), dk

    return tf.nn.conv2d(x, kernel, 1, "SAME"), gradient


class Conv(layers.Conv2D):
    """keras.layers.Conv2D with padding, whose gradients are those of `convolve`."""

    def convolution_op(self, x, kernel):
        return convolve(x, kernel) if self.strides == (1, 1) else super().convolution_op(x, kernel)


class SpectralConv(Conv):
    """A convolution whose kernel is divided by its largest singular value (https://arxiv.org/abs/1802.05957).

    keras.layers.SpectralNormalization overwrites the kernel instead, which neither Adam nor several devices stand.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.left = self.add_weight(shape=(self.filters,), initializer="random_normal", trainable=False,
                                    autocast=False, name="left")

    def call(self, x, training=None):
        kernel = tf.cast(tf.convert_to_tensor(self.kernel), tf.float32)
        matrix = tf.reshape(kernel, [-1, self.filters])
        still = tf.stop_gradient(matrix)
        right = tf.math.l2_normalize(tf.linalg.matvec(still, tf.convert_to_tensor(self.left)))
        left = tf.math.l2_normalize(tf.linalg.matvec(still, right, transpose_a=True))
        if training:
            self.left.assign(left)
        largest = tf.tensordot(right, tf.linalg.matvec(matrix, left), 1)
        return self.convolution_op(x, tf.cast(kernel / largest, x.dtype))


class Shuffle(layers.Layer):
    """`tf.nn.depth_to_space`: (N, H, W, factor^2 C) to (N, factor H, factor W, C)."""

    def __init__(self, factor, name, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.factor = factor

    def compute_output_shape(self, input_shape):
        return _enlarge(input_shape, self.factor, input_shape[-1] // self.factor ** 2)

    def call(self, x):
        return tf.nn.depth_to_space(x, self.factor)


class Resize(layers.Layer):
    """Bilinear, (N, H, W, C) to (N, height, width, C). keras.layers.Resizing also clips, which takes its time."""

    def __init__(self, height, width, name, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.size = height, width

    def compute_output_shape(self, input_shape):
        return input_shape[0], *self.size, input_shape[-1]

    def call(self, x):
        return tf.cast(tf.image.resize(x, self.size), x.dtype)


class SubpixelConv(layers.Layer):
    """`conv(depth_to_space(x, factor))`, computed as an equal convolution before the `depth_to_space`.

    A convolution to 3 channels at full resolution is the worst-shaped layer of the network; at half resolution it has
    4 times the channels, and of a 9x9 kernel 5x5 are left. The weight that is trained and stored stays the kernel at
    full resolution, of an odd size. (N, H, W, factor^2 C) to (N, factor H, factor W, filters).
    """

    def __init__(self, filters, size, factor, initializer, name, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.filters, self.kernel_size, self.factor, self.initializer = filters, (size, size), factor, initializer

    def build(self, input_shape):
        self.channels = input_shape[-1] // self.factor ** 2
        self.kernel = self.add_weight(shape=(*self.kernel_size, self.channels, self.filters),
                                      initializer=self.initializer, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def compute_output_shape(self, input_shape):
        return _enlarge(input_shape, self.factor, self.filters)

    def lower_kernel(self):
        """The kernel of the equal convolution, (n, n, factor^2 C, factor^2 filters)."""
        kernel, factor, half = tf.convert_to_tensor(self.kernel), self.factor, self.kernel_size[0] // 2
        reach = math.ceil(half / factor)
        n = 2 * reach + 1
        # Sub-pixel (a, b) of the output sees the kernel shifted by a rows and b columns in a window of n x n pixels of
        # the lower resolution, with factor x factor sub-pixels (c, d) each.
        pads = [(start, n * factor - self.kernel_size[0] - start)
                for start in range(reach * factor - half, reach * factor - half + factor)]
        # Filter by filter, as a kernel that is constant is padded beforehand only where that gives less than 100 KB.
        shifted = tf.stack([tf.pad(plane, [rows, columns, (0, 0)])
                            for rows in pads for columns in pads for plane in tf.unstack(kernel, axis=-1)])
        shifted = tf.reshape(shifted, [factor ** 2, self.filters, n, factor, n, factor, self.channels])
        return tf.reshape(tf.transpose(shifted, [2, 4, 3, 5, 6, 0, 1]),  # from ab, filter, p, c, q, d, channel
                          [n, n, factor ** 2 * self.channels, factor ** 2 * self.filters])

    def call(self, x):
        y = convolve(x, self.lower_kernel())
        bias = tf.tile(tf.convert_to_tensor(self.bias), [self.factor ** 2])
        return tf.nn.depth_to_space(tf.nn.bias_add(y, bias), self.factor)


def _enlarge(shape, factor, channels):
    n, *sides, _ = shape
    return n, *(side and factor * side for side in sides), channels


class FoldedConv(Conv):
    """A convolution whose batch norm is folded into it, for inference."""


@dataclass(frozen=True)
class Kit:
    """Makes the layers of one network, each under a name.

    bn_epsilon: of the batch norms. stddev: of initial kernels and gammas; None: Glorot uniform, and gammas as asked.
    inference: leave each batch norm out and give its convolution a bias instead; weights are assigned later. dtype: a
    Keras dtype policy, by default the global one.
    """

    bn_epsilon: float = BN_EPSILON
    stddev: float | None = None
    inference: bool = False
    dtype: str | None = None

    @property
    def initializer(self):
        """Of kernels."""
        if self.inference:
            return "zeros"
        return "glorot_uniform" if self.stddev is None else keras.initializers.RandomNormal(stddev=self.stddev)

    def conv(self, x, filters, size, name, strides=1, use_bias=True, kind=Conv):
        return kind(filters, size, strides, padding="same", use_bias=use_bias, kernel_initializer=self.initializer,
                    name=name, dtype=self.dtype)(x)

    def conv_norm(self, x, filters, size, name, strides=1, gamma="ones"):
        """A convolution and its batch norm. name: of the convolution; the batch norm's follows by `norm_of`."""
        if self.inference:
            return self.conv(x, filters, size, name, strides, kind=FoldedConv)
        x = self.conv(x, filters, size, name, strides, use_bias=False)
        if self.stddev is not None:
            gamma = keras.initializers.RandomNormal(1.0, self.stddev)
        return BatchNorm(momentum=BN_MOMENTUM, epsilon=self.bn_epsilon, gamma_initializer=gamma, name=norm_of(name),
                         dtype=self.dtype)(x)

    def prelu(self, x, name, channels=64):
        return PReLU(channels, name, "inference" if self.inference else "training", self.dtype)(x)

    def relu(self, x, name):
        return layers.Activation(tf.nn.relu if self.inference else relu, name=name, dtype=self.dtype)(x)

    def leaky_relu(self, x, name):
        return layers.Activation(leaky_relu, name=name, dtype=self.dtype)(x)

    def add(self, x, y, name):
        return layers.Add(name=name, dtype=self.dtype)([x, y])

    def shuffle(self, x, factor, name):
        return Shuffle(factor, name, self.dtype)(x)

    def subpixel_conv(self, x, filters, size, factor, name):
        return SubpixelConv(filters, size, factor, self.initializer, name, self.dtype)(x)

    def spectral_conv(self, x, filters, size, name, strides=1):
        """A convolution with a limited slope, and its activation."""
        x = self.conv(x, filters, size, name, strides, use_bias=False, kind=SpectralConv)
        return self.leaky_relu(x, name.replace("conv", "act"))

    def resize(self, x, height, width, name):
        return Resize(height, width, name, self.dtype)(x)

    def logits(self, x):
        return layers.Dense(1, kernel_initializer=self.initializer, name="logits", dtype="float32")(x)


def norm_of(conv: str) -> str:
    """The name of a convolution's batch norm: block_1_bn_2 of block_1_conv_2."""
    return conv.replace("conv", "bn")


class Adam(keras.optimizers.Adam):
    """keras.optimizers.Adam, without amsgrad, by TensorFlow's kernel, which takes one pass over the memory."""

    def update_step(self, gradient, variable, learning_rate):
        index, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=self._momentums[index].value.handle, v=self._velocities[index].value.handle,
            beta1_power=self.beta_1 ** step, beta2_power=self.beta_2 ** step, lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1, beta2=self.beta_2, epsilon=self.epsilon, grad=gradient)
