"""The losses (Ledig et al., https://arxiv.org/abs/1609.04802, section 2.2).

To add a loss, write a function of a `Batch` and name it in `LOSSES`; a recipe in `config.LOSS` may then weigh it.
"""
import dataclasses
import functools
from collections.abc import Iterable, Mapping

from utils import UserError, nearest

import keras
import numpy as np
import tensorflow as tf
from easydict import EasyDict

from layers import convolve

Tensor = keras.KerasTensor | tf.Tensor

# Within a tf.distribute.Strategy Keras divides these by the number of devices, so that their sum is the batch's loss.
_mean_squared_error = keras.losses.MeanSquaredError()
_mean_absolute_error = keras.losses.MeanAbsoluteError()
_cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)

VGG_LAYERS = [*(f"pool{block}" for block in range(1, 6)), *(
    f"conv{block}_{number}{end}" for end in ("", "-") for block in range(1, 6)
    for number in range(1, 3 if block < 3 else 5))]


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch of patches, as losses compare them.

    lr: (N, h, w, 3), in the range of the generator's input.
    hr, sr: (N, H, W, 3), in [-1, 1].
    logits_sr: (N, 1), the discriminator's answer to SR; None where a recipe has no `adv`.
    vgg: of `get_vgg`; None where a recipe names no layer of it.
    averaged: the moving average of the generator; None where a recipe has no `ldl`.
    """

    lr: Tensor
    hr: Tensor
    sr: Tensor
    logits_sr: Tensor | None = None
    vgg: keras.Model | None = None
    averaged: keras.Model | None = None

    @functools.cached_property
    def features(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The feature maps of HR and of SR, by layer."""
        return self.vgg(self.hr), self.vgg(self.sr)


def mse_loss(batch: Batch) -> Tensor:
    """Mean squared error of the pixels, equation 4 of the article."""
    return _mean_squared_error(batch.hr, batch.sr)


def l1_loss(batch: Batch) -> Tensor:
    """Mean absolute difference of the pixels."""
    return _mean_absolute_error(batch.hr, batch.sr)


def adversarial_loss(batch: Batch) -> Tensor:
    """Cross-entropy of the discriminator taking SR for HR, equation 6 of the article."""
    return _cross_entropy(tf.ones_like(batch.logits_sr), batch.logits_sr)


def vgg_loss(batch: Batch, layer: str) -> Tensor:
    """Mean squared error of the feature maps of a layer of VGG19, equation 5 of the article."""
    hr, sr = batch.features
    return _mean_squared_error(hr[layer], sr[layer])


def vgg_l1_loss(batch: Batch, layer: str) -> Tensor:
    """Mean absolute difference of the feature maps of a layer of VGG19, as ESRGAN's (arXiv 1809.00219, section 3.3)."""
    hr, sr = batch.features
    return _mean_absolute_error(hr[layer], sr[layer])


def vgg_rel_loss(batch: Batch, layer: str) -> Tensor:
    """That of `vgg_l1_loss` of each feature map in parts of its own mean absolute value in HR; then their mean.

    So a weight means the same whatever the scale of VGG19's features is, which differs from file to file.
    """
    hr, sr = (features[layer] for features in batch.features)
    size = tf.reduce_mean(tf.abs(tf.cast(hr, tf.float32)), [0, 1, 2])
    size = tf.cast(tf.distribute.get_replica_context().all_reduce("MEAN", size), hr.dtype)
    return _mean_absolute_error(tf.math.divide_no_nan(hr, size), tf.math.divide_no_nan(sr, size))


def colour_loss(batch: Batch) -> Tensor:
    """Mean absolute difference of HR and SR, each shrunk to LR: it holds colours and brightness."""
    return _mean_absolute_error(*(shrink(image, *batch.lr.shape[1:3]) for image in (batch.hr, batch.sr)))


def ldl_loss(batch: Batch) -> Tensor:
    """Mean of M |HR - SR|, which goes against invented grain and streaks: LDL, arXiv 2203.09195, section 3.

    M is the variance of R in the 7x7 window around a pixel, times the fifth root of R's variance in the patch, where R
    is |HR - SR| summed over the channels. It is 0 where R is below that of the averaged generator: details are kept.
    As in the authors' code, M has a gradient too. Images in [-1, 1] make it 10.6 times what it is in their [0, 1].
    """
    residual, averaged = (tf.reduce_sum(tf.abs(batch.hr - sr), -1, keepdims=True)
                          for sr in (batch.sr, tf.stop_gradient(batch.averaged(batch.lr, training=False))))
    patch = tf.math.reduce_variance(residual, [1, 2, 3], keepdims=True)
    # The root has no slope where a patch is all black in HR and SR.
    weight = (patch + 1e-12) ** 0.2 * _local_variance(residual, 7) * tf.cast(residual >= averaged, residual.dtype)
    return _mean_absolute_error(weight * batch.hr, weight * batch.sr)


def _local_variance(plane, size):
    """The unbiased variance in the window around each pixel of (N, H, W, 1), mirrored at the border."""
    border = size // 2
    padded = tf.pad(plane, [(0, 0), (border, border), (border, border), (0, 0)], "REFLECT")
    # Down and across, by convolutions: a sixth of the time of `tf.nn.avg_pool2d` of one channel.
    down, across = tf.fill([size, 1, 1, 1], 1 / size), tf.fill([1, size, 1, 1], 1 / size)
    mean, square = (tf.nn.conv2d(tf.nn.conv2d(values, down, 1, "VALID"), across, 1, "VALID")
                    for values in (padded, padded ** 2))
    return (square - mean ** 2) * (size ** 2 / (size ** 2 - 1))


def weave_loss(batch: Batch) -> Tensor:
    """How far SR weaves a mesh over the pixels of LR, as beside contours; `metrics.mesh` measures it in smooth parts.

    SR - HR is averaged over 7x7 pixels of LR by its place within them, less the mean of all places; then the mean of
    the absolute values. What SR invents has no place of its own, and is left free.
    """
    _, height, width, _ = batch.lr.shape
    scale = batch.hr.shape[1] // height
    means = tf.nn.avg_pool2d(tf.nn.space_to_depth(batch.sr - batch.hr, scale), 7, 1, "SAME")
    by_place = tf.reshape(means, [-1, height, width, scale ** 2, 3])
    return _mean_absolute_error(tf.reduce_mean(by_place, 3, keepdims=True), by_place)


LOSSES = {"mse": mse_loss, "l1": l1_loss, "adv": adversarial_loss, "colour": colour_loss, "ldl": ldl_loss,
          "weave": weave_loss, "vgg": vgg_loss, "vgg_l1": vgg_l1_loss, "vgg_rel": vgg_rel_loss}
# As recipes name them, in the order in which they are added: sums in another order differ in the last bits.
NAMES = [name for loss in LOSSES
         for name in ([f"{loss}:{layer}" for layer in VGG_LAYERS] if loss.startswith("vgg") else [loss])]


def discriminator_loss(logits_hr: Tensor, logits_sr: Tensor) -> Tensor:
    """Cross-entropy of the discriminator telling HR from SR, equation 2 of the article."""
    return _cross_entropy(tf.ones_like(logits_hr), logits_hr) + _cross_entropy(tf.zeros_like(logits_sr), logits_sr)


def read_recipe(recipe: Mapping[str, float], title: str) -> dict[str, float]:
    """The weights of a recipe's losses, without those that are 0, in the order of `NAMES`.

    title: of the recipe, such as `config.LOSS.original`. Raises UserError for a loss or a layer that does not exist.
    """
    for name in recipe:
        if name not in NAMES:
            raise UserError(f"{title} names {name}, which is no loss; the nearest is {nearest(name, NAMES)} (all of "
                            "them are in losses.py; vgg:LAYER and vgg_l1:LAYER compare a layer of VGG19).")
    weights = {name: recipe[name] for name in NAMES if recipe.get(name)}
    if not weights:
        raise UserError(f"{title} weighs no loss; give one of {', '.join(NAMES[:4])} or vgg:conv2_2 a weight above 0.")
    return weights


def read_recipes(config: EasyDict) -> list[dict[str, float]]:
    """The recipes of both phases. Raises UserError for any recipe that names a loss which does not exist."""
    recipes = {name: read_recipe(recipe, f"config.LOSS.{name}") for name, recipe in config.LOSS.items()}
    if "adv" in recipes[config.TRAIN.loss_init]:
        raise UserError(f"TRAIN.loss_init is {config.TRAIN.loss_init}, which has the loss adv, but phase 1 has no "
                        "discriminator; set it to a recipe without it, such as mse.")
    return [recipes[config.TRAIN.loss_init], recipes[config.TRAIN.loss]]


def compute(recipe: Iterable[str], batch: Batch) -> dict[str, Tensor]:
    """The losses of a recipe, a scalar each."""
    return {name: LOSSES[loss](batch, *layer) for name in recipe for loss, *layer in [name.split(":")]}


def vgg_layers(*recipes: Iterable[str]) -> list[str]:
    """The layers of VGG19 that recipes name."""
    named = {name.partition(":")[2] for name in set().union(*recipes)}
    return [layer for layer in VGG_LAYERS if layer in named]


def shrink(images: Tensor, height: int, width: int) -> Tensor:
    """Resize (N, H, W, 3) by antialiased bicubic, as LR is made, on any device and with a gradient."""
    rows, columns = (_resize_matrix(*sizes) for sizes in ((images.shape[1], height), (images.shape[2], width)))
    return tf.einsum("yi,nijc,xj->nyxc", rows, images, columns)


@functools.cache
def _resize_matrix(size, target):
    """The matrix that resizes columns of pixels: resizing is linear, so it is what becomes of the unit matrix."""
    with tf.init_scope():
        return tf.image.resize(np.eye(size)[..., None], (target, size), "bicubic", antialias=True)[..., 0].numpy()


def get_vgg(layers: Iterable[str], weights: str | None = None) -> keras.Model:
    """Feature maps of VGG19 (article, section 2.2.1): RGB (N, H, W, 3) in [-1, 1] to the outputs of layers, by name.

    layers: of `VGG_LAYERS`; `conv5_4` is taken after its ReLU, `conv5_4-` before it. weights: as
    keras.applications.VGG19 takes them.
    """
    vgg = keras.applications.VGG19(include_top=False, weights=weights, input_shape=(None, None, 3))
    hr = keras.Input((None, None, 3), name="hr")
    # The weights come from Caffe: BGR, with the mean of ImageNet subtracted, in that order.
    x, features = (hr[..., ::-1] + 1) * 127.5 - np.array([103.939, 116.779, 123.68], "float32"), {}
    for layer in vgg.layers[1:]:
        block, kind = layer.name.removeprefix("block").split("_")  # "1", "conv2" or "pool"
        if kind == "pool":
            x = features[f"pool{block}"] = layer(x)
        else:
            name, layer.activation = f"conv{block}_{kind[-1]}", None
            layer.convolution_op = convolve
            x = features[f"{name}-"] = layer(x)
            x = features[name] = keras.ops.relu(x)
    extractor = keras.Model(hr, {layer: features[layer] for layer in layers}, name="vgg19")
    extractor.trainable = False
    return extractor
