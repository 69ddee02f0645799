"""Training: both phases, their state and how it is resumed (article, section 3.2)."""
import contextlib
import dataclasses
import functools
import json
import math
import signal
import time
import zlib
from argparse import Namespace
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import utils
from utils import UserError

import keras
import numpy as np
import tensorflow as tf
from easydict import EasyDict

import data
import degradations
import layers
import metrics
import model
import weights
from config import DIV2K_TRAIN_HR, flatten, log_config
from engine import devices, runs, upscaling
from files import images
from losses import adversarial_loss, content_loss, discriminator_loss


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a training: how long it is, how it steps, and what it writes."""

    number: int
    title: str
    n_epochs: int
    step: Callable  # LR and HR patches, uint8 -> {name of the loss: value}
    optimizers: tuple
    learning_rates: Callable[[float], tuple]  # of the optimizers, by the epochs done, with a fraction
    rate_setting: str
    relative_cost: float  # time of a step, in steps of phase 1
    weights_file: str
    samples: str  # in TRAIN.sample_path; the epoch and .png are appended
    best_file: str = ""  # the weights of the highest PSNR so far


def init_learning_rates(settings: EasyDict, epochs: float) -> tuple[float]:
    """The rate of phase 1 by its schedule; settings: `config.TRAIN`."""
    cosine = (1 + np.cos(np.pi * epochs / settings.n_epoch_init)) / 2
    return settings.learning_rate_init * (cosine if settings.schedule_init == "cosine" else 1),


def gan_learning_rates(settings: EasyDict, epochs: float) -> tuple[float, float]:
    """The rates of generator and discriminator in phase 2 by their schedule; settings: `config.TRAIN`."""
    decay = settings.lr_decay ** (int(epochs) // settings.decay_every)
    return settings.lr_init * decay, (settings.lr_init_d or settings.lr_init) * decay


class Trainer:
    """Both phases of the training and their state: networks, optimizers and progress.

    Each device of a tf.distribute.Strategy takes its share of a batch. Losses, gradients and batch norms are those of
    the whole batch, so that several devices train as one would.
    """

    def __init__(self, strategy: tf.distribute.Strategy, settings: EasyDict, patches: data.Patches,
                 networks: tuple[keras.Model, keras.Model, keras.Model], recipe: EasyDict, vgg: keras.Model | None):
        """settings: `config.TRAIN`; networks: of `make_networks`; recipe, vgg: of `load_loss`."""
        self.strategy, self.is_chief = strategy, devices.is_chief(strategy)
        self.settings, self.patches, self.recipe, self.vgg = settings, patches, recipe, vgg
        self.generator, self.averaged, self.discriminator = networks
        self.sample_patches = data.Patches(patches.photos, settings.seed, 8, settings.hr_patch_size, 1, patches.recipe)
        self.folder = Path(settings.checkpoint_path)
        self.signals, self.stopped_by = [], 0  # signals that asked the run to end, and the one that did
        with strategy.scope():
            # Always built with loss scaling, so that a training can be resumed with or without float16.
            plain = [layers.Adam(beta_1=settings.beta1) for _ in range(3)]
            scaled = [keras.optimizers.LossScaleOptimizer(optimizer) for optimizer in plain]
            for optimizer, network in zip(scaled, (self.generator, self.generator, self.discriminator), strict=True):
                optimizer.build(network.trainable_variables)
            self.total_step = tf.Variable(0, dtype=tf.int64)
        self.phase_number, self.epoch, self.step = (tf.Variable(n, dtype=tf.int64) for n in (1, 0, 0))  # of the epoch
        self.best_psnr = tf.Variable(0.0)
        self.n_alone = tf.Variable(settings.n_steps_d_first, dtype=tf.int64)  # steps of the discriminator alone
        self.state = {  # all that is saved, and shared by several processes
            "generator": self.generator, "averaged": self.averaged, "discriminator": self.discriminator,
            "init_optimizer": scaled[0], "g_optimizer": scaled[1], "d_optimizer": scaled[2],
            "phase": self.phase_number, "epoch": self.epoch, "step": self.step, "total_step": self.total_step,
            "best_psnr": self.best_psnr}
        self.optimizers = scaled if settings.precision == "float16" else plain
        self.init_optimizer, self.g_optimizer, self.d_optimizer = self.optimizers
        self.init_step, self.gan_step = self.on_all_devices(self._init_step), self.on_all_devices(self._gan_step)
        self.phases = (
            Phase(1, "the generator alone", settings.n_epoch_init, self.init_step, (self.init_optimizer,),
                  functools.partial(init_learning_rates, settings), "TRAIN.learning_rate_init", 1.0,
                  "g_srgan_init.npz", "srgan_ginit/train_g_init", "g_srgan_init_best.npz"),
            Phase(2, "adversarial", settings.n_epoch, self.gan_step, (self.g_optimizer, self.d_optimizer),
                  functools.partial(gan_learning_rates, settings), "TRAIN.lr_init and TRAIN.lr_init_d",
                  4.0 if vgg else 3.0, "g_srgan.npz", "srgan_gan/train_g"))

    def on_all_devices(self, step: Callable) -> Callable:
        """A tf.function that runs a step on each device, with its share of the batch, and returns the losses."""

        # Not by XLA as a whole: no faster on a CPU, slower to compile, and it can't compile the all-reduce.
        @tf.function
        def run(lr, hr):
            losses = self.strategy.run(step, args=(lr, hr))
            return {name: self.strategy.experimental_local_results(loss)[0] for name, loss in losses.items()}

        return run

    def _init_step(self, lr, hr):
        """Train the generator by mean squared error."""
        lr, hr = model.normalize_lr(lr, self.generator.architecture), model.normalize_hr(hr)
        with tf.GradientTape() as tape:
            loss = content_loss(hr, self.generator(lr, training=True))
        self.apply_gradients(self.generator, loss, tape, self.init_optimizer)
        self.update_average()
        return self.sum_over_devices({"mse": loss})

    def _gan_step(self, lr, hr):
        """Train discriminator and generator, both on the same SR, as the original does."""
        lr, hr = model.normalize_lr(lr, self.generator.architecture), model.normalize_hr(hr)
        with tf.GradientTape(persistent=True) as tape:
            sr = self.generator(lr, training=True)
            logits_hr, logits_sr = self.discriminator(hr, training=True), self.discriminator(sr, training=True)
            mse, adversarial = content_loss(hr, sr), adversarial_loss(logits_sr)
            g_loss = self.recipe.w_mse * mse + self.recipe.w_adv * adversarial
            losses = {"mse": mse, "adv": adversarial}
            if self.vgg:
                losses["vgg"] = content_loss(self.vgg(hr), self.vgg(sr))
                g_loss += self.recipe.w_vgg * losses["vgg"]
            losses["d"] = d_loss = discriminator_loss(logits_hr, logits_sr)
        self.apply_gradients(self.generator, g_loss, tape, self.g_optimizer)
        self.apply_gradients(self.discriminator, d_loss, tape, self.d_optimizer)
        self.update_average()
        return self.sum_over_devices(losses)

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

    @staticmethod
    def sum_over_devices(losses):
        """The batch's losses, from each device's share: Keras divides its losses by the number of devices."""
        return tf.distribute.get_replica_context().all_reduce("SUM", losses)

    def update_average(self):
        """Update the moving average of the generator's weights, fast at first to forget the initial ones."""
        count = tf.cast(self.total_step.assign_add(1), tf.float32)
        decay = tf.minimum(self.settings.ema_decay, count / (count + 9))
        for mean, weight in zip(self.averaged.weights, self.generator.weights, strict=True):
            mean.assign(decay * mean + (1 - decay) * weight)

    @property
    def phase(self) -> Phase:
        return self.phases[int(self.phase_number) - 1]

    def steps_done(self) -> int:
        """Steps done in the current phase."""
        n = self.patches.steps_per_epoch
        return int(self.epoch) * n + min(int(self.step), n - 1)  # an epoch may have more steps than when it was saved

    def steps_left(self) -> dict[int, int]:
        """Steps left in each phase that is not complete, by its number."""
        left = {phase.number: phase.n_epochs * self.patches.steps_per_epoch for phase in self.phases}
        left[self.phase.number] -= self.steps_done()
        return {number: steps for number, steps in left.items() if steps > 0 and number >= self.phase.number}

    def time_left(self, seconds: float) -> str:
        """The time that all phases still take, as text, if a step of the current one takes so many seconds."""
        left = self.steps_left()
        cost = sum(steps * self.phases[number - 1].relative_cost for number, steps in left.items())
        duration = timedelta(seconds=round(seconds * cost / self.phase.relative_cost))
        ahead = max(left, default=0) > self.phase.number
        return f"about {duration} left for both phases" if ahead else f"{duration} left"

    # -- the run

    def watch(self, pairs: list[tuple[np.ndarray, np.ndarray]], memory_mb: int) -> None:
        """Measure, draw and log from now on; pairs: HR and LR to measure; memory_mb: what upscaling them may take."""
        self.pairs = pairs
        self.upscaler = upscaling.Upscaler(self.averaged, memory_mb)

    @functools.cached_property
    def bicubic_psnr(self) -> float:
        """Mean PSNR of bicubic upscaling on the same images."""
        return np.mean([metrics.psnr(images.resize(lr, *hr.shape[:2]), hr, lr) for hr, lr in self.pairs])

    def run(self) -> None:
        """Train from the current state to the end of the last phase, saving on the way."""
        print("To train: " + " and ".join(f"{steps:,} steps of phase {number}"
                                          for number, steps in self.steps_left().items()) + ".")
        with runs.catch_signals() as self.signals, self.patches.user_errors():
            for phase in self.phases[int(self.phase_number) - 1:]:
                if phase is not self.phase:  # it begins with the weights that the one before wrote
                    self.generator.set_weights(self.averaged.get_weights())
                    self.phase_number.assign(phase.number)
                    self.epoch.assign(0)
                    self.step.assign(0)
                self.run_phase(phase)
                if self.stopped_by:
                    break
            devices.sum_over(self.strategy, 0)  # wait until the chief has saved

    def run_phase(self, phase):
        n = self.patches.steps_per_epoch
        start, stop = self.steps_done(), phase.n_epochs * n
        if start >= stop:
            return
        batches = iter(self.batches(phase, start, stop))
        print(f"Phase {phase.number} of {len(self.phases)}, {phase.title}: {utils.plural(phase.n_epochs, 'epoch')} of "
              f"{utils.plural(n, 'step')} of {self.patches.batch_size} patches. The first step is slow, to compile.")
        n_alone = int(self.n_alone) if phase.number == 2 else 0
        if start < n_alone:
            print(f"Its first {n_alone} steps train the new discriminator alone (TRAIN.n_steps_d_first).")
        times, history = [], []
        with utils.progress(f"Phase {phase.number}, step", stop, start) as bar:
            for done in range(start + 1, stop + 1):
                since = max(0, done - 1 - n_alone)
                rates = phase.learning_rates(since // n + since % n / n)
                for optimizer, rate in zip(phase.optimizers, rates, strict=True):
                    optimizer.learning_rate.assign(rate)
                if done <= n_alone:  # a step of its own would be quicker, but one more graph to compile
                    self.g_optimizer.learning_rate.assign(0)
                began = time.perf_counter()
                losses = phase.step(*next(batches))
                losses = {name: float(loss) for name, loss in losses.items()}  # waits for the device
                times.append(time.perf_counter() - began)
                history.append(losses)
                for name in (name for name, loss in losses.items() if not np.isfinite(loss)):
                    raise self.diverged(done, f"the loss {name} is {losses[name]}")
                bar.update(done, **losses)
                self.epoch.assign(done // n)
                self.step.assign(done % n)
                if done % n == 0:
                    if self.is_chief:
                        self.end_epoch(phase, np.median(times), history)
                    times, history = [], []
                if self.must_stop():
                    if self.is_chief:
                        self.save()
                    return

    def batches(self, phase, start, stop):
        """This process's shares of the batches for steps [start, stop)."""

        def shares_of_process(context):
            n_shares = context.num_replicas_in_sync
            n = n_shares // context.num_input_pipelines
            shares = range(n * context.input_pipeline_id, n * (context.input_pipeline_id + 1))
            return self.patches.dataset(phase.number, start, stop, shares, n_shares)

        return self.strategy.distribute_datasets_from_function(shares_of_process)

    def must_stop(self):
        """Whether this process or another one got a signal, so that all of them stop after the same step."""
        if devices.sum_over(self.strategy, self.signals[0] if self.signals else 0):
            self.stopped_by = (self.signals or [signal.SIGTERM])[0]
        return self.stopped_by

    def share_state(self, settings: dict) -> None:
        """Give all processes the state of the chief, which alone reads the checkpoint.

        settings: what must be the same on all of them, by name; raises UserError for what is not.
        """
        checksums = {name: zlib.crc32(json.dumps(value).encode()) for name, value in settings.items()}
        different = [name for name, number in checksums.items()
                     if devices.sum_over(self.strategy, number) != number * self.strategy.num_replicas_in_sync]
        if different:
            raise UserError(f"The processes do not train the same: {', '.join(different)} differ; give all of them the "
                            "same config.py, --set, --weights, photos and VGG19.")
        devices.take_from_chief(self.strategy, [self.n_alone, *(variable for part in self.state.values()
                                                                for variable in getattr(part, "variables", [part]))])

    def end_epoch(self, phase, seconds, history):
        """Print and log the mean losses of an epoch; every `save_every` epochs measure, save and draw samples."""
        epoch = int(self.epoch)
        means = {name: np.mean([losses[name] for losses in history]) for name in history[0]}
        line = (f"Phase {phase.number}, epoch {epoch}/{phase.n_epochs}: "
                + ", ".join(f"{name} {loss:.4g}" for name, loss in means.items())
                + f", {seconds:.2f} s a step, {self.time_left(seconds)}")
        self.write_events(phase, {**means, "learning_rate": phase.optimizers[0].learning_rate})
        if epoch % self.settings.save_every == 0 or epoch == phase.n_epochs:
            if self.pairs:
                line += f"; PSNR {self.measure(phase):.2f} dB, bicubic {self.bicubic_psnr:.2f} dB"
            self.save()
            self.write_samples(phase)
        print(line)

    def write_events(self, phase, scalars, image=None):
        """Log for TensorBoard."""
        with self.writer.as_default(int(tf.convert_to_tensor(self.total_step))):
            for name, value in scalars.items():
                tf.summary.scalar(f"phase_{phase.number}/{name}", value)
            if image is not None:
                tf.summary.image(f"phase_{phase.number}/samples", image[np.newaxis])
        self.writer.flush()

    def measure(self, phase):
        """Mean PSNR of the averaged weights on the first validation images; a phase may keep its best weights."""
        self.upscaler.refresh(self.averaged)
        means = metrics.mean([metrics.measure(self.upscaler(lr), hr, lr) for hr, lr in self.pairs])
        self.write_events(phase, {name: value for name, value in means.items() if value is not None})
        psnr = means["psnr"]
        if phase.best_file and psnr > float(self.best_psnr):
            self.best_psnr.assign(psnr)
            weights.save_network(self.folder / phase.best_file, self.averaged)
        return psnr

    def write_samples(self, phase):
        """Draw the same training patches each time: a column a patch, from above bicubic, SR and HR."""
        lrs, hrs = self.sample_patches.batch(0, 0)
        grid = np.hstack([np.vstack([images.resize(lr, *hr.shape[:2]), self.upscaler(lr), hr])
                          for lr, hr in zip(lrs, hrs, strict=True)])
        images.write_image(Path(self.settings.sample_path) / f"{phase.samples}_{int(self.epoch)}.png", grid)
        self.write_events(phase, {}, grid)

    # -- the state on disk

    def diverged(self, step, what):
        return UserError(f"Phase {self.phase.number}, step {step}: {what}; the last saved state is intact in "
                         f"{self.folder}/, resume it with a lower {self.phase.rate_setting}.")

    def save(self) -> None:
        """Save the weights, then the state: a run killed in between repeats the steps and writes the weights again."""
        for part in (self.generator, self.discriminator, *self.optimizers):
            for variable in part.variables:  # the step of a finite loss may still spoil them
                if not np.isfinite(variable).all():
                    raise self.diverged(self.steps_done(), f"{variable.path} holds a value that is not a finite number")
        weights.save_network(self.folder / self.phase.weights_file, self.averaged)
        weights.save_network(self.folder / "d_srgan.npz", self.discriminator)
        try:
            self.manager.save()
        except tf.errors.OpError as error:
            runs.remove_partial_states(self.folder)
            raise UserError(f"The state can't be saved in {self.folder}/ ({error.message}); the one before it is "
                            "intact: free space, then run the same command again.") from error

    def resume(self) -> bool:
        """Restore the newest readable state. Returns True if one was restored; raises UserError if none can be read."""
        checkpoint, folder = tf.train.Checkpoint(**self.state), runs.tensorflow_path(self.folder)
        self.writer = tf.summary.create_file_writer(str(folder / "logs"))
        self.manager = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=2, checkpoint_name="state")
        states = sorted(self.folder.glob("state-*.index"), key=utils.natural_key, reverse=True)
        if states or not runs.holds_training(self.folder):
            runs.remove_partial_states(self.folder)
        for state in states:
            try:
                checkpoint.restore(str(folder / state.stem)).assert_consumed()
            except Exception as error:  # TensorFlow raises what the damaged bytes happen to lead to
                print(f"{state.with_suffix('')} is damaged ({devices.first_line(error)}); trying the one before it.")
                continue
            steps = f" and {utils.plural(int(self.step), 'step')}" if self.step else ""
            print(f"Resuming the training in {self.folder}/: phase {self.phase.number}, after "
                  f"{utils.plural(int(self.epoch), 'epoch')}{steps}. (--restart starts over.)")
            return True
        if runs.holds_training(self.folder):
            raise UserError(f"None of the states in {self.folder}/ can be read; start over with --restart, which moves "
                            "the folder aside.")
        return False


def load_loss(config: EasyDict, demo: bool) -> tuple[EasyDict, keras.Model | None]:
    """The recipe of phase 2's losses and the VGG19 it needs, None if it needs none. Raises UserError."""
    recipe = config.LOSS[config.TRAIN.loss]
    if not (recipe.w_vgg and config.TRAIN.n_epoch):
        return recipe, None
    try:
        return recipe, weights.load_vgg(recipe.vgg_layer, config.VGG.path)
    except weights.DownloadError:
        if not demo:
            raise
        print("VGG19 is not here and can't be downloaded; this demonstration trains SRGAN-MSE, without it.")
        return config.LOSS.srgan_mse, None


def make_networks(settings: EasyDict, source: str | None, n_blocks: int | None = None,
                  bn_epsilon: float = model.BN_EPSILON) -> tuple[keras.Model, keras.Model, keras.Model]:
    """The generator, its moving average and the discriminator, from the weights `source`, if any, or random.

    settings: `config.TRAIN`, whose n_steps_d_first becomes 0 where the discriminator is trained already; n_blocks,
    bn_epsilon: of random ones. Says what was taken. Raises UserError.
    """
    architecture, discriminator = model.ARCHITECTURES[settings.architecture], None
    generator = (weights.load_generator(source) if source else
                 model.get_G(architecture, n_blocks, bn_epsilon, settings.scale))
    theirs = generator.architecture
    if (theirs.name, theirs.scale) != (settings.architecture, settings.scale):
        raise UserError(f"{source} is for the architecture {theirs.name} at scale {theirs.scale}; train it with "
                        f"--set TRAIN.architecture={theirs.name} TRAIN.scale={theirs.scale}.")
    architecture, bn_epsilon = generator.architecture, generator.bn_epsilon
    averaged = model.get_G(architecture, bn_epsilon=bn_epsilon)
    averaged.set_weights(generator.get_weights())
    if source:  # in this order, as a run that is resumed makes them: several processes make variables together
        try:
            discriminator = weights.load_discriminator(source, settings.hr_patch_size)
            if (discriminator.architecture.name, discriminator.bn_epsilon) != (architecture.name, bn_epsilon):
                raise UserError("The discriminator beside it is of another network.")
            print(f"Starting from the generator and the discriminator of {source}.")
            settings.n_steps_d_first = 0
        except UserError as error:
            print(f"Starting from the generator of {source}, with a fresh discriminator. ({error})")
            discriminator = None
    return generator, averaged, discriminator or model.get_D(architecture, settings.hr_patch_size, bn_epsilon)


def prepare(strategy: tf.distribute.Strategy, arguments: Namespace, config: EasyDict, demo: bool) -> Trainer:
    """A `Trainer` in the state of its last save.

    Raises UserError; only when the first step can be made is an earlier training moved aside that is not resumed.
    """
    settings, folder, is_chief = config.TRAIN, Path(config.TRAIN.checkpoint_path), devices.is_chief(strategy)
    saved = is_chief and runs.holds_training(folder)
    last = runs.read_last_run(folder) if saved else {}
    replaced = saved and (arguments.restart or (last.get("demonstration", False) and not demo))
    resumed = saved and not replaced
    origin = last.get("origin", {}) if resumed else {"weights": arguments.weights}
    if origin.get("weights"):
        settings.update(config.FINE_TUNING)
    if resumed and "n_steps_d_first" in config.FINE_TUNING:  # the user left it as it is
        settings.n_steps_d_first = origin.get("n_steps_d_first", 0)
    settings.precision = devices.precision(settings.precision)
    recipe, valid_recipe = (degradations.find_recipe(config.DEGRADATION, part.degradation)
                            for part in (settings, config.VALID))
    found = data.training_photos(config)  # a wrong path is noticed first
    # Say which photos once; the demonstration has said so itself.
    pairs = []
    if is_chief:
        pairs = data.validation_pairs(config, settings.scale, announce=not (demo or resumed))[:config.VALID.n_quick]
    if resumed:
        runs.compare_settings(folder, last, config, demo, arguments.weights)
    with strategy.scope(), devices.compute_in(settings.precision):
        loss, vgg = load_loss(config, demo)
        photos = data.cache_photos(*found, settings.cache_path, settings.hr_patch_size, settings.scale)
        pairs = [(hr, lr) for _, hr, lr in data.read_pairs(pairs, settings.scale, valid_recipe)]
        keras.utils.set_random_seed(settings.seed)
        generator, *others = make_networks(settings, None if resumed else arguments.weights, origin.get("n_blocks"),
                                           origin.get("bn_epsilon", model.BN_EPSILON))
    origin = {**origin, "n_blocks": generator.architecture.n_blocks, "bn_epsilon": generator.bn_epsilon,
              "n_steps_d_first": settings.n_steps_d_first}
    patches = data.Patches(
        photos, settings.seed, settings.batch_size, settings.hr_patch_size, settings.patches_per_image, recipe)
    if settings.n_steps_d_first >= (n := settings.n_epoch * patches.steps_per_epoch) > 0:
        raise UserError(f"All {n} steps of phase 2 would train the new discriminator alone; raise TRAIN.n_epoch, or "
                        f"lower TRAIN.n_steps_d_first, which is {settings.n_steps_d_first}.")
    if not demo and patches.steps_per_epoch < 25:  # half of DIV2K's
        n = math.ceil(50 * settings.batch_size / len(photos))
        print(f"{len(photos)} photos make epochs of only {patches.steps_per_epoch} steps, where DIV2K's have 50: to "
              f"train as long, set TRAIN.patches_per_image to about {n}.")
    trainer = Trainer(strategy, settings, patches, (generator, *others), loss, vgg)
    if replaced:
        samples = [Path(settings.sample_path, phase.samples).parent for phase in trainer.phases]
        utils.move_aside(folder, "training", samples)
    if is_chief:
        trainer.resume()
        trainer.watch(pairs, config.RESTORE.memory_mb)
    if strategy.cluster_resolver:
        trainer.share_state({
            **{key: value for key, value in flatten(config).items()
               if key.startswith("TRAIN.") and not key.endswith(("path", "devices", "n_steps_d_first"))},
            "config.LOSS": loss, "config.DEGRADATION": recipe, "--weights": origin["bn_epsilon"],
            "the photos": [(photo.height, photo.width) for photo in photos]})
    if is_chief:
        with utils.atomic_write(folder / "config.json") as partial:
            log_config(partial, {**config, "demonstration": demo, "origin": origin})
    return trainer


def train(arguments: Namespace, config: EasyDict) -> int:
    """Train, or resume the training in the checkpoint folder. Returns the exit code."""
    images.limit_pixels(config.RESTORE.max_megapixels)
    settings, folder, demo = config.TRAIN, Path(config.TRAIN.checkpoint_path), data.is_demo(config)
    if demo:
        settings.update(config.DEMO)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
        # TensorFlow's graph optimizer sums the gradients of three losses in the order in which they are ready.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    strategy = devices.make_strategy(settings.devices)
    n_devices = strategy.num_replicas_in_sync
    if settings.batch_size % n_devices:
        larger = settings.batch_size // n_devices * n_devices + n_devices
        raise UserError(f"TRAIN.batch_size is {settings.batch_size}, which {n_devices} devices can't share evenly; set "
                        f"it to {larger} or another multiple of {n_devices}.")
    with contextlib.ExitStack() as stack:
        if devices.is_chief(strategy):
            utils.check_writable(folder, "TRAIN.checkpoint_path")
            utils.check_writable(Path(settings.sample_path), "TRAIN.sample_path")
            stack.enter_context(runs.locked(folder))
            if demo and (arguments.restart or not runs.holds_training(folder)):
                print(f"{DIV2K_TRAIN_HR} is not there: a short demonstration on bundled photos.\n"
                      "To train for real: python main.py --mode=download, or set TRAIN.hr_img_path.")
            shares = f", {settings.batch_size // n_devices} of the {settings.batch_size} patches of a batch on each"
            print(f"Training on {devices.describe()} in {devices.precision(settings.precision)}"
                  f"{shares if n_devices > 1 else ''}.")
        else:
            stack.enter_context(devices.silent())
        try:
            trainer = prepare(strategy, arguments, config, demo)
            if not trainer.steps_left():
                print(f"Nothing is left to train: phase 1 (TRAIN.n_epoch_init={settings.n_epoch_init}) and phase 2 "
                      f"(TRAIN.n_epoch={settings.n_epoch}) are done; raise these settings to train longer.")
                return 0
            trainer.run()
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError,
                tf.errors.FailedPreconditionError, tf.errors.DeadlineExceededError, tf.errors.UnknownError) as error:
            if not strategy.cluster_resolver:
                raise
            raise UserError("Another process of this run has died; see its output for the reason. Then start all of "
                            "them again: the training is resumed from the last save.") from error
    if trainer.is_chief:
        print(f"Stopped and saved in {folder.absolute()}/; run the same command to resume." if trainer.stopped_by else
              f"Done: weights in {folder.absolute()}/, samples in {Path(settings.sample_path).absolute()}/. "
              "python main.py --mode=evaluate scores them.")
    return 128 + trainer.stopped_by if trainer.stopped_by else 0
