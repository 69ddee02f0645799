"""The losses of the article (Ledig et al., https://arxiv.org/abs/1609.04802, section 2.2)."""
import keras
import tensorflow as tf

Tensor = keras.KerasTensor | tf.Tensor

_mean_squared_error = keras.losses.MeanSquaredError()
_cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)


def content_loss(hr: Tensor, sr: Tensor) -> Tensor:
    """Mean squared error of pixels or of feature maps, equations 4 and 5 of the article; a scalar."""
    return _mean_squared_error(hr, sr)


def adversarial_loss(logits_sr: Tensor) -> Tensor:
    """How far the discriminator is from taking SR for HR, equation 6 of the article; a scalar."""
    return _cross_entropy(tf.ones_like(logits_sr), logits_sr)


def discriminator_loss(logits_hr: Tensor, logits_sr: Tensor) -> Tensor:
    """How far the discriminator is from telling HR from SR, equation 2 of the article; a scalar."""
    return _cross_entropy(tf.ones_like(logits_hr), logits_hr) + _cross_entropy(tf.zeros_like(logits_sr), logits_sr)
