"""Training: both phases, and how a run begins, ends and is resumed (article, section 3.2)."""
import contextlib
import dataclasses
import functools
import itertools
import math
import signal
import time
from argparse import Namespace
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
import losses
import metrics
import model
import weights
from config import DIV2K_TRAIN_HR, log_config
from engine import devices, monitor, runs
from engine.step import Networks, Phase, Step, gan_learning_rates, init_learning_rates, make_networks
from files import images


class Trainer:
    """The loop over both phases, and all that a run which resumes it must know.

    settings: `config.TRAIN`.
    networks: of `make_networks`.
    recipes, vgg: of `losses.read_recipes` and `load_vgg`.
    """

    def __init__(self, strategy: tf.distribute.Strategy, settings: EasyDict, patches: data.Patches, networks: Networks,
                 recipes: list[dict[str, float]], vgg: keras.Model | None):
        self.strategy, self.settings, self.patches, self.networks = strategy, settings, patches, networks
        self.folder = Path(settings.checkpoint_path)
        self.signals, self.stopped_by = [], 0  # signals that asked the run to end, and the one that did
        self.monitor = None  # the chief's
        with strategy.scope():
            # Always built with loss scaling, so that a training can be resumed with or without float16.
            plain = [layers.Adam(beta_1=settings.beta1) for _ in range(3)]
            scaled = [keras.optimizers.LossScaleOptimizer(optimizer) for optimizer in plain]
            generator, averaged, discriminator = networks
            for optimizer, network in zip(scaled, (generator, generator, discriminator), strict=True):
                optimizer.build(network.trainable_variables)
            self.total_step = tf.Variable(0, dtype=tf.int64)
        self.phase_number, self.epoch, self.step = (tf.Variable(n, dtype=tf.int64) for n in (1, 0, 0))  # of the epoch
        self.best_score = tf.Variable(-np.inf)  # of the phase
        self.n_alone = tf.Variable(settings.n_steps_d_first, dtype=tf.int64)  # steps of the discriminator alone
        self.state = {  # all that is saved, and shared by several processes
            "generator": generator, "averaged": averaged, "discriminator": discriminator,
            "init_optimizer": scaled[0], "g_optimizer": scaled[1], "d_optimizer": scaled[2],
            "phase": self.phase_number, "epoch": self.epoch, "step": self.step, "total_step": self.total_step,
            "best_psnr": self.best_score}
        self.optimizers = scaled if settings.precision == "float16" else plain
        init_step, gan_step = (
            Step(strategy, settings, networks, optimizers, recipe, vgg, self.total_step)
            for optimizers, recipe in zip((self.optimizers[:1], self.optimizers[1:]), recipes, strict=True))
        self.phases = (
            Phase(number=1, title="the generator alone", n_epochs=settings.n_epoch_init, step=init_step,
                  learning_rates=functools.partial(init_learning_rates, settings),
                  rate_setting="TRAIN.learning_rate_init", weights_file="g_srgan_init.npz",
                  samples="srgan_ginit/train_g_init", best_metric="psnr"),
            Phase(number=2, title="adversarial", n_epochs=settings.n_epoch, step=gan_step,
                  learning_rates=functools.partial(gan_learning_rates, settings),
                  rate_setting="TRAIN.lr_init and TRAIN.lr_init_d", weights_file="g_srgan.npz",
                  samples="srgan_gan/train_g", best_metric=settings.keep_best))

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
        cost = sum(steps * self.phases[number - 1].step.relative_cost for number, steps in left.items())
        duration = timedelta(seconds=round(seconds * cost / self.phase.step.relative_cost))
        ahead = max(left, default=0) > self.phase.number
        return f"about {duration} left for both phases" if ahead else f"{duration} left"

    def all_done(self) -> str:
        """All that was done, and the settings to raise, where nothing is left to train."""
        n = self.phase.n_epochs
        if self.phase.number == 2:
            return f"phase 1 is over, and phase 2 has done {int(self.epoch)} epochs; raise TRAIN.n_epoch, which is {n}"
        return f"phase 1 (TRAIN.n_epoch_init={n}) and phase 2 (TRAIN.n_epoch=0) are done; raise these settings"

    def run(self, signals: list[int]) -> None:
        """Train from the current state to the end of the last phase, or until `signals` holds one; saves on the way."""
        self.signals = signals
        print("To train: " + " and ".join(f"{steps:,} steps of phase {number}"
                                          for number, steps in self.steps_left().items()) + ".")
        with runs.catch_signals(signals), self.patches.user_errors():
            for phase in self.phases[int(self.phase_number) - 1:]:
                if phase is not self.phase:  # it begins with the weights that the one before wrote
                    self.networks.generator.set_weights(self.networks.averaged.get_weights())
                    self.phase_number.assign(phase.number)
                    self.epoch.assign(0)
                    self.step.assign(0)
                    self.best_score.assign(-np.inf)
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
        print(f"Phase {phase.number} of {len(self.phases)}, {phase.title}: {utils.plural(phase.n_epochs, 'epoch')} "
              f"(passes over the photos) of {utils.plural(n, 'step')} of {self.patches.batch_size} patches (crops). "
              "The first step is slow, to compile.")
        n_alone = int(self.n_alone) if phase.number == 2 else 0
        if start < n_alone:
            print(f"Its first {n_alone} steps train the new discriminator alone (TRAIN.n_steps_d_first).")
        times, history = [], []
        with utils.progress(f"Phase {phase.number}, step", stop, start) as bar:
            for done in range(start + 1, stop + 1):
                self.set_rates(phase, max(0, done - 1 - n_alone), stop - n_alone)
                step = phase.step.discriminator_alone if done <= n_alone else phase.step
                began = time.perf_counter()
                values = {name: float(value) for name, value in step(*next(batches)).items()}  # waits for it
                if done > n_alone:  # those before are quicker
                    times.append(time.perf_counter() - began)
                history.append(values)
                for name in (name for name, value in values.items() if not np.isfinite(value)):
                    raise self.diverged(done, f"the loss {name} is {values[name]}")
                bar.update(done, **values)
                self.epoch.assign(done // n)
                self.step.assign(done % n)
                if done % n == 0:
                    if self.monitor:
                        self.end_epoch(phase, times, history)
                    times, history = [], []
                if self.must_stop():
                    if self.monitor:
                        self.save()
                    return

    def set_rates(self, phase, done, n_steps):
        """Set what changes with each step, for the next one of a phase.

        done, n_steps: how many of its steps are done, and how many it has, not counting the discriminator's.
        """
        phase.step.adv_factor.assign(self.settings.adv_growth ** (done / n_steps))
        n = self.patches.steps_per_epoch
        rates = phase.learning_rates(done // n + done % n / n)
        for optimizer, rate in zip(phase.step.optimizers, rates, strict=True):
            optimizer.learning_rate.assign(rate)

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

    def share_state(self, more: dict) -> None:
        """Give all processes the state of the chief, which alone reads the checkpoint.

        more: what must be the same on all of them beside the settings, by name. Raises UserError for what is not.
        """
        settings = {f"TRAIN.{name}": value for name, value in self.settings.items()
                    if not name.endswith(("path", "devices", "n_steps_d_first"))}
        devices.require_same(self.strategy, settings | more)
        devices.take_from_chief(self.strategy, [self.n_alone, *(variable for part in self.state.values()
                                                                for variable in getattr(part, "variables", [part]))])

    def end_epoch(self, phase, times, history):
        """Print and log the mean losses of an epoch; every `save_every` epochs measure, save and draw samples."""
        epoch = int(self.epoch)
        means = {name: np.mean([values[name] for values in history if name in values]) for name in history[-1]}
        line = (f"Phase {phase.number}, epoch {epoch}/{phase.n_epochs}: "
                + ", ".join(f"{name} {loss:.4g}" for name, loss in means.items()))
        if times:
            line += f", {np.median(times):.2f} s a step, {self.time_left(np.median(times))}"
        self.monitor.log(phase.number, {**means, "learning_rate": phase.step.optimizers[0].learning_rate})
        if epoch % self.settings.save_every == 0 or epoch == phase.n_epochs:
            if self.monitor.pairs:
                found = self.monitor.measure(phase.number)
                line += f"; {self.monitor.describe(found)}"
                self.keep_best(phase, found)
            self.save()
            self.monitor.draw(phase.number, Path(self.settings.sample_path) / f"{phase.samples}_{epoch}.png")
        print(line)

    def keep_best(self, phase, found):
        """Write the weights if none of the phase were better; found: of `Monitor.measure`."""
        if phase.best_metric in found:
            sign = 1 if metrics.METRICS[phase.best_metric].higher_is_better else -1
            if (score := sign * found[phase.best_metric]) > float(self.best_score):
                self.best_score.assign(score)
                best_file = phase.weights_file.replace(".npz", "_best.npz")
                weights.save_network(self.folder / best_file, self.networks.averaged)

    def diverged(self, step, what):
        return UserError(f"Phase {self.phase.number}, step {step}: {what}; the last saved state is intact in "
                         f"{self.folder}/, resume it with a lower {self.phase.rate_setting}.")

    def save(self) -> None:
        """Save the weights, then the state: a run killed in between repeats the steps and writes the weights again."""
        for part in (self.networks.generator, self.networks.discriminator, *self.optimizers):
            for variable in part.variables:  # the step of a finite loss may still spoil them
                if not np.isfinite(variable).all():
                    raise self.diverged(self.steps_done(), f"{variable.path} holds a value that is not a finite number")
        weights.save_network(self.folder / self.phase.weights_file, self.networks.averaged)
        weights.save_network(self.folder / "d_srgan.npz", self.networks.discriminator)
        self.states.save()

    def resume(self) -> None:
        """Continue from the newest readable state, if there is any. Raises UserError if none can be read."""
        self.states = runs.States(self.folder, self.state)
        if self.states.restore():
            steps = f" and {utils.plural(int(self.step), 'step')}" if self.step else ""
            print(f"Resuming the training in {self.folder}/: phase {self.phase.number}, after "
                  f"{utils.plural(int(self.epoch), 'epoch')}{steps}. (--restart starts over.)")


def load_vgg(config: EasyDict, recipes: list[dict[str, float]],
             demo: bool) -> tuple[list[dict[str, float]], keras.Model | None]:
    """The recipes and the VGG19 that they need, None if they need none. Raises UserError."""
    lengths = config.TRAIN.n_epoch_init, config.TRAIN.n_epoch
    needed = losses.vgg_layers(*(recipe for recipe, n in zip(recipes, lengths, strict=True) if n))
    if not needed:
        return recipes, None
    try:
        return recipes, weights.load_vgg(needed, config.VGG.path)
    except weights.DownloadError:
        if not demo:
            raise
        print("VGG19 is not here and can't be downloaded; this demonstration trains SRGAN-MSE, without it.")
        return [config.LOSS.mse, config.LOSS.srgan_mse], None


def check_length(settings: EasyDict, patches: data.Patches, demo: bool) -> None:
    """Say how to train longer where epochs are short. Raises UserError if the generator would never be trained."""
    n = settings.n_epoch * patches.steps_per_epoch
    if settings.n_steps_d_first >= n > 0:
        raise UserError(f"All {n} steps of phase 2 would train the new discriminator alone; raise TRAIN.n_epoch, or "
                        f"lower TRAIN.n_steps_d_first, which is {settings.n_steps_d_first}.")
    if not demo and patches.steps_per_epoch < 25:  # half of DIV2K's
        n = math.ceil(50 * settings.batch_size / len(patches.photos))
        print(f"An epoch, a pass over the {len(patches.photos)} photos, is only {patches.steps_per_epoch} steps: to "
              f"take more crops of each, set TRAIN.patches_per_image to about {n}.")


def settle(config: EasyDict, origin: dict, resumed: bool) -> None:
    """Change settings of TRAIN, and the depth of the generator in `origin`, to what they mean for this run.

    origin: how the training began, as config.json keeps it.
    """
    settings = config.TRAIN
    if "n_blocks" not in origin:
        start = None if resumed else origin["weights"]
        architecture = (weights.load_folded(start, settings.scale).architecture if start else
                        dataclasses.replace(model.ARCHITECTURES[settings.architecture], scale=settings.scale))
        origin |= {"n_blocks": architecture.n_blocks, "scale": architecture.scale}
    if origin.get("weights"):
        usual_length = settings.n_epoch_init
        settings.update(config.FINE_TUNING)
        if origin.get("scale", settings.scale) != settings.scale:
            settings.n_epoch_init = usual_length  # the upsampling is new
    if resumed:
        if origin.get("new_discriminator"):
            settings.update(config.NEW_DISCRIMINATOR)
        for name, at_first in ("n_steps_d_first", 0), ("discriminator", "own"):
            if name in config.NEW_DISCRIMINATOR:  # the user left it as it is
                settings[name] = origin.get(name, at_first)
    settings.precision = devices.precision(settings.precision)


def beside_weights(origin: dict, resumed: bool, settings: EasyDict) -> str | None:
    """The kind of the discriminator beside the weights from which a run began, None if there is none."""
    if resumed or not origin["weights"]:
        return None if origin.get("new_discriminator") or not origin.get("weights") else settings.discriminator
    try:
        return model.discriminator_kind(
            weights.load_discriminator(origin["weights"], settings.hr_patch_size).architecture)
    except UserError:
        return None


def begin(config: EasyDict, origin: dict, source: str | None) -> Networks:
    """The networks, from the weights `source`, if any; changes what follows from their discriminator, as `settle` does.

    Raises UserError.
    """
    settings, preset = config.TRAIN, config.NEW_DISCRIMINATOR if source else {}
    keras.utils.set_random_seed(settings.seed)
    networks, is_new = make_networks(
        settings, source, preset, origin["n_blocks"], origin.get("bn_epsilon", model.BN_EPSILON))
    if source:
        origin["new_discriminator"] = is_new
        settings.update(preset if is_new else {
            "discriminator": model.discriminator_kind(networks.discriminator.architecture), "n_steps_d_first": 0})
    return networks


def prepare(strategy: tf.distribute.Strategy, arguments: Namespace, config: EasyDict, demo: bool) -> Trainer:
    """A `Trainer` in the state of its last save.

    Raises UserError; only when the first step can be made is an earlier training moved aside that is not resumed.
    """
    settings, folder, is_chief = config.TRAIN, Path(config.TRAIN.checkpoint_path), devices.is_chief(strategy)
    command = {name: value for name, value in vars(arguments).items() if name in ("mode", "weights", "restart", "set")}
    last, resumed, replaced = runs.read_last_run(folder, command, demo) if is_chief else ({}, False, False)
    origin = last.get("origin", {}) if resumed else {"weights": arguments.weights}
    settle(config, origin, resumed)
    recipe, valid_recipe = (degradations.find_recipe(config.DEGRADATION, part.degradation)
                            for part in (settings, config.VALID))
    found = data.training_photos(config)  # notice a wrong path first
    # Say which photos once; the demonstration has said so itself.
    pairs = data.validation_pairs(config, settings.scale, announce=not (demo or resumed)) if is_chief else []
    if resumed:
        runs.compare_settings(folder, last, config, demo, arguments.weights)
    if strategy.cluster_resolver:  # processes with different networks would wait for each other, or break down
        devices.require_same(strategy, {"--weights": origin["n_blocks"],
                                        "the d_srgan.npz of --weights": beside_weights(origin, resumed, settings)})
    with strategy.scope(), devices.compute_in(settings.precision):
        networks = begin(config, origin, None if resumed else arguments.weights)
        recipes, vgg = load_vgg(config, losses.read_recipes(config), demo)
        if "adv" not in recipes[1]:
            settings.n_steps_d_first = 0
        photos = data.cache_photos(*found, settings.cache_path, settings.hr_patch_size, settings.scale)
        readable = data.read_pairs(pairs, settings.scale, valid_recipe)
        pairs = [(hr, lr) for _, hr, lr in itertools.islice(readable, config.VALID.n_quick)]
    patches = data.Patches(
        photos, settings.seed, settings.batch_size, settings.hr_patch_size, settings.patches_per_image, recipe)
    check_length(settings, patches, demo)
    trainer = Trainer(strategy, settings, patches, networks, recipes, vgg)
    if replaced:
        runs.move_aside(folder, Path(settings.sample_path))
    if is_chief:
        trainer.resume()
        if trainer.phase.number == 2 and last.get("TRAIN", {}).get("keep_best", "") != settings.keep_best:
            trainer.best_score.assign(-np.inf)  # it was another metric's
        sample_patches = data.Patches(photos, settings.seed, 8, settings.hr_patch_size, 1, recipe).batch(0, 0)
        trainer.monitor = monitor.Monitor(networks.averaged, trainer.total_step, pairs, sample_patches, folder,
                                          config.RESTORE.memory_mb, origin, resumed)
    origin |= {"bn_epsilon": networks.generator.bn_epsilon, "n_steps_d_first": settings.n_steps_d_first,
               "discriminator": settings.discriminator}
    if strategy.cluster_resolver:
        trainer.share_state({"config.LOSS": recipes, "config.DEGRADATION": recipe, "--weights": origin["bn_epsilon"],
                             "the photos": [(photo.height, photo.width) for photo in photos]})
    if is_chief:
        with utils.atomic_write(folder / "config.json") as partial:
            log_config(partial, {**config, "demonstration": demo, "origin": origin, "command": command})
    return trainer


def say_end(trainer: Trainer, arguments: Namespace, demo: bool) -> None:
    """Say where things are, and what may follow."""
    folder, samples = trainer.folder.absolute(), Path(trainer.settings.sample_path).absolute()
    if trainer.stopped_by:
        without = " without --restart" if arguments.restart else ""
        print(f"Stopped and saved in {folder}/; run the same command{without} to resume.")
        return
    print(f"Done: weights in {folder}/, samples in {samples}/ (rows: bicubic, SR, HR). "
          "python main.py --mode=evaluate scores them.")
    if demo:
        print("A demonstration is too short to pass bicubic: that takes some thousand steps.")


def train(arguments: Namespace, config: EasyDict) -> int:
    """Train, or resume the training in the checkpoint folder. Returns the exit code."""
    losses.read_recipes(config)  # notice a mistake first
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
        signals = stack.enter_context(runs.outlive_screen())
        if devices.is_chief(strategy):
            utils.check_writable(folder, "TRAIN.checkpoint_path")
            utils.check_writable(Path(settings.sample_path), "TRAIN.sample_path")
            runs.check_files(folder, Path(settings.sample_path))
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
                print(f"Nothing is left to train: {trainer.all_done()} to train longer.")
                return 0
            trainer.run(signals)
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError,
                tf.errors.FailedPreconditionError, tf.errors.DeadlineExceededError, tf.errors.UnknownError) as error:
            if not strategy.cluster_resolver:
                raise
            raise UserError("Another process of this run has died; see its output for the reason. Then start all of "
                            "them again: the training is resumed from the last save.") from error
    if trainer.monitor:
        say_end(trainer, arguments, demo)
    return 128 + trainer.stopped_by if trainer.stopped_by else 0
