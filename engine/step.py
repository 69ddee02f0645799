"""The networks of a training run; a step of it, from a batch of patches to new weights; and a phase of such steps."""
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from utils import UserError

import keras
import numpy as np
import tensorflow as tf
from easydict import EasyDict

import losses
import model
import weights


class Networks(NamedTuple):
    """The networks of a training run; `averaged` is the moving average of the generator, which is what it saves."""

    generator: keras.Model
    averaged: keras.Model
    discriminator: keras.Model


def make_networks(settings: EasyDict, source: str | None, preset: dict | None = None, n_blocks: int | None = None,
                  bn_epsilon: float = model.BN_EPSILON) -> tuple[Networks, bool]:
    """The networks, from the weights `source`, if any, or random; and whether the discriminator is new.

    settings: `config.TRAIN`.
    preset: `config.NEW_DISCRIMINATOR`, where there is a source.
    n_blocks, bn_epsilon: of random networks.
    Says what was taken. Raises UserError.
    """
    generator = (weights.load_generator(source, settings.scale) if source else
                 model.get_G(model.ARCHITECTURES[settings.architecture], n_blocks, bn_epsilon, settings.scale))
    architecture, bn_epsilon = generator.architecture, generator.bn_epsilon
    if architecture.name != settings.architecture:
        raise UserError(f"{source} is for the architecture {architecture.name}; train it with "
                        f"--set TRAIN.architecture={architecture.name}.")
    averaged = model.get_G(architecture, bn_epsilon=bn_epsilon)
    averaged.set_weights(generator.get_weights())
    if source:  # in this order, as a run that is resumed makes them: several processes make variables together
        try:
            discriminator = weights.load_discriminator(source, settings.hr_patch_size)
            if (discriminator.architecture.name, discriminator.bn_epsilon) != (architecture.name, bn_epsilon):
                raise UserError("The discriminator beside it is of another network.")
            beside = model.discriminator_kind(discriminator.architecture)
            if "discriminator" not in preset and beside != settings.discriminator:
                raise UserError(f"TRAIN.discriminator is {settings.discriminator}, and that beside it is {beside}.")
            print(f"Starting from the generator and the discriminator of {source}.")
            return Networks(generator, averaged, discriminator), False
        except UserError as error:
            print(f"Starting from the generator of {source}, with a fresh discriminator. ({error})")
    kind = (preset or {}).get("discriminator", settings.discriminator)
    discriminator = model.get_D(model.with_discriminator(architecture, kind), settings.hr_patch_size, bn_epsilon)
    return Networks(generator, averaged, discriminator), True


class Step:
    """A step by a recipe: LR and HR patches, uint8, to the losses by name; with `adv` also `d`, the discriminator's.

    Each device of a tf.distribute.Strategy takes its share of a batch. Losses, gradients and batch norms are those of
    the whole batch, so that several devices train as one would.

    settings: `config.TRAIN`.
    optimizers: the generator's, and with `adv` the discriminator's.
    recipe: of `losses.read_recipe`.
    vgg: of `losses.get_vgg`, with the layers of the recipe; None if it has none.
    count: the steps of both phases so far.

    `adv_factor` multiplies the weight of `adv`.
    """

    def __init__(self, strategy: tf.distribute.Strategy, settings: EasyDict, networks: Networks,
                 optimizers: list[keras.Optimizer], recipe: dict[str, float], vgg: keras.Model | None,
                 count: tf.Variable):
        self.strategy, self.settings, self.networks, self.optimizers = strategy, settings, networks, optimizers
        self.recipe, self.vgg, self.count = recipe, vgg, count
        self.adversarial = "adv" in recipe
        with strategy.scope():
            self.adv_factor = tf.Variable(1.0, trainable=False)
        # The time of a step, in steps of the generator alone.
        self.relative_cost = 1.0 + 2.0 * self.adversarial + bool(losses.vgg_layers(recipe))

    # Not by XLA as a whole: no faster on a CPU, slower to compile, and it can't compile the all-reduce.
    @tf.function(autograph=False)
    def __call__(self, lr, hr):
        return self.on_devices(self.train_both, lr, hr)

    @tf.function(autograph=False)
    def discriminator_alone(self, lr, hr):
        """A step that leaves the generator's weights as they are, in a fraction of the time."""
        return self.on_devices(self.train_discriminator, lr, hr)

    def on_devices(self, train, lr, hr):
        """The batch's losses, summed over the shares of all devices, which `train` on theirs."""

        def on_device(lr, hr):
            values = train(model.normalize_lr(lr, self.networks.generator.architecture), model.normalize_hr(hr))
            self.update_average()
            return tf.distribute.get_replica_context().all_reduce("SUM", values)

        values = self.strategy.run(on_device, args=(lr, hr))
        return {name: self.strategy.experimental_local_results(value)[0] for name, value in values.items()}

    def train_discriminator(self, lr, hr):
        """Train the discriminator on SR as `train_both` makes it."""
        generator, _, discriminator = self.networks
        sr = generator(lr, training=True)
        with tf.GradientTape() as tape:
            loss = losses.discriminator_loss(discriminator(hr, training=True), discriminator(sr, training=True))
        self.apply_gradients(discriminator, loss, tape, self.optimizers[1])
        return {"d": loss}

    def train_both(self, lr, hr):
        """Train the generator and the discriminator, both on the same SR, as the original does."""
        generator, averaged, discriminator = self.networks
        with tf.GradientTape(persistent=True) as tape:
            sr = generator(lr, training=True)
            logits_hr = logits_sr = None
            if self.adversarial:
                logits_hr, logits_sr = discriminator(hr, training=True), discriminator(sr, training=True)
            values = losses.compute(self.recipe, losses.Batch(lr, hr, sr, logits_sr, self.vgg, averaged))
            total = sum(weight * (self.adv_factor if name == "adv" else 1) * values[name]
                        for name, weight in self.recipe.items())
            if self.adversarial:
                values["d"] = losses.discriminator_loss(logits_hr, logits_sr)
        self.apply_gradients(generator, total, tape, self.optimizers[0])
        if self.adversarial:
            self.apply_gradients(discriminator, values["d"], tape, self.optimizers[1])
        return values

    def apply_gradients(self, network, loss, tape, optimizer):
        """Apply one optimizer step. `loss` is this device's share; gradients are summed over devices."""
        variables = network.trainable_variables
        gradients = tape.gradient(loss, variables, output_gradients=tf.convert_to_tensor(optimizer.scale_loss(1.0)))
        if self.settings.precision == "float16" and self.strategy.num_replicas_in_sync > 1:
            # Loss scaling decides per device whether to skip; make every device see an overflow on any of them.
            bad = tf.reduce_any([tf.reduce_any(~tf.math.is_finite(gradient)) for gradient in gradients])
            n_bad = tf.distribute.get_replica_context().all_reduce("SUM", tf.cast(bad, tf.float32))
            gradients[0] += tf.where(n_bad > 0, np.nan, 0.0)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def update_average(self):
        """Update the moving average of the generator's weights, fast at first to forget the initial ones."""
        count = tf.cast(self.count.assign_add(1), tf.float32)
        decay = tf.minimum(self.settings.ema_decay, count / (count + 9))
        for mean, weight in zip(self.networks.averaged.weights, self.networks.generator.weights, strict=True):
            mean.assign(decay * mean + (1 - decay) * weight)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a training: how long it is, how it steps, and what it writes."""

    number: int
    title: str
    n_epochs: int
    step: Step
    learning_rates: Callable[[float], tuple]  # of the step's optimizers, by the epochs done, with a fraction
    rate_setting: str
    weights_file: str
    samples: str  # in TRAIN.sample_path; the epoch and .png are appended
    best_metric: str  # of metrics.METRICS, whose best weights are kept beside; "": none


def init_learning_rates(settings: EasyDict, epochs: float) -> tuple[float]:
    """The rate of phase 1 by its schedule; settings: `config.TRAIN`."""
    cosine = (1 + np.cos(np.pi * epochs / settings.n_epoch_init)) / 2
    return settings.learning_rate_init * (cosine if settings.schedule_init == "cosine" else 1),


def gan_learning_rates(settings: EasyDict, epochs: float) -> tuple[float, float]:
    """The rates of generator and discriminator in phase 2 by their schedule; settings: `config.TRAIN`."""
    decay = settings.lr_decay ** (int(epochs) // settings.decay_every)
    return settings.lr_init * decay, (settings.lr_init_d or settings.lr_init) * decay
