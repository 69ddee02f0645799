"""Training: both phases, their state and how it is resumed (article, section 3.2)."""
import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import time
import zlib
from datetime import timedelta
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

try:
    import fcntl
except ImportError:  # Windows, where a second training on one checkpoint/ is not noticed
    fcntl = None

import utils
from utils import UserError

import data
import devices
import images
import model
import weights
from config import config, flatten, is_div2k, log_config, use_demo


class Trainer:
    """Both phases of the training and their state: networks, optimizers and how far they are.

    Each device of a tf.distribute.Strategy takes its share of a batch, and the losses, their gradients and the batch norms
    are those of the whole batch, so that several devices train as one would.
    """

    def __init__(self, strategy, photos, recipe, vgg, weights_file):
        """photos: of `data.cache_photos`; recipe, vgg: of `load_loss`; weights_file: to start from, or None."""
        train = config.TRAIN
        self.strategy, self.is_chief = strategy, devices.is_chief(strategy)
        self.patches = data.Patches(photos, train.seed, train.batch_size, train.hr_patch_size, train.patches_per_image)
        self.recipe, self.vgg, self.steps = recipe, vgg, self.patches.steps_per_epoch
        self.folder = Path(train.checkpoint_path)
        with strategy.scope(), devices.precision():
            architecture = model.ARCHITECTURES[train.architecture]
            self.generator = weights.load_generator(weights_file) if weights_file else model.get_G(architecture)
            if self.generator.architecture.name != train.architecture:
                raise UserError(f"{weights_file} is for the architecture {self.generator.architecture.name}; "
                                f"train it with --set TRAIN.architecture={self.generator.architecture.name}.")
            self.architecture, bn_epsilon = self.generator.architecture, self.generator.bn_epsilon
            self.averaged = model.get_G(self.architecture, bn_epsilon=bn_epsilon)
            self.averaged.set_weights(self.generator.get_weights())
            self.discriminator = model.get_D(self.architecture, train.hr_patch_size, bn_epsilon)
            # With loss scaling in any case, so that a training can go on with or without mixed precision.
            scaled = [keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(beta_1=train.beta1)) for _ in range(3)]
            for optimizer, network in zip(scaled, (self.generator, self.generator, self.discriminator), strict=True):
                optimizer.build(network.trainable_variables)
            self.total_step = tf.Variable(0, dtype=tf.int64)
        self.optimizers = scaled if train.mixed_precision else [optimizer.inner_optimizer for optimizer in scaled]
        self.init_optimizer, self.g_optimizer, self.d_optimizer = self.optimizers
        self.phase, self.epoch, self.step = (tf.Variable(n, dtype=tf.int64) for n in (1, 0, 0))  # step: of the epoch
        self.best_psnr = tf.Variable(0.0)
        self.checkpoint = tf.train.Checkpoint(
            generator=self.generator, averaged=self.averaged, discriminator=self.discriminator,
            init_optimizer=scaled[0], g_optimizer=scaled[1], d_optimizer=scaled[2],
            phase=self.phase, epoch=self.epoch, step=self.step, total_step=self.total_step, best_psnr=self.best_psnr)
        self.manager = tf.train.CheckpointManager(self.checkpoint, self.folder, max_to_keep=2, checkpoint_name="state")
        self.stopped_by = None
        self.init_step, self.gan_step = self.on_all_devices(self.init_step), self.on_all_devices(self.gan_step)

    # -- steps

    def on_all_devices(self, step):
        """The tf.function that runs a step on each device, with its share of the batch, and gives the batch's losses."""

        # Not by XLA: it is no faster on a CPU, compiles for longer, and can't compile what devices tell each other.
        @tf.function
        def run(lr, hr):
            losses = self.strategy.run(step, args=(lr, hr))
            return {name: self.strategy.experimental_local_results(loss)[0] for name, loss in losses.items()}

        return run

    def init_step(self, lr, hr):
        """A step of phase 1: the generator by mean squared error."""
        lr, hr = model.normalize_lr(lr, self.architecture), model.normalize_hr(hr)
        with tf.GradientTape() as tape:
            loss = model.content_loss(hr, self.generator(lr, training=True))
        self.descend(self.generator, loss, tape, self.init_optimizer)
        self.average()
        return self.of_all_devices({"mse": loss})

    def gan_step(self, lr, hr):
        """A step of phase 2: discriminator and generator, both from the same SR, as the original does."""
        lr, hr = model.normalize_lr(lr, self.architecture), model.normalize_hr(hr)
        with tf.GradientTape(persistent=True) as tape:
            sr = self.generator(lr, training=True)
            logits_hr, logits_sr = self.discriminator(hr, training=True), self.discriminator(sr, training=True)
            mse, adversarial = model.content_loss(hr, sr), model.adversarial_loss(logits_sr)
            g_loss = self.recipe.w_mse * mse + self.recipe.w_adv * adversarial
            losses = {"mse": mse, "adv": adversarial}
            if self.vgg:
                losses["vgg"] = model.content_loss(self.vgg(hr), self.vgg(sr))
                g_loss += self.recipe.w_vgg * losses["vgg"]
            losses["d"] = d_loss = model.discriminator_loss(logits_hr, logits_sr)
        self.descend(self.generator, g_loss, tape, self.g_optimizer)
        self.descend(self.discriminator, d_loss, tape, self.d_optimizer)
        self.average()
        return self.of_all_devices(losses)

    def descend(self, network, loss, tape, optimizer):
        """Let `optimizer` make a step by the gradients of a loss, a device's part of the batch's, which it sums up."""
        variables = network.trainable_variables
        gradients = tape.gradient(loss, variables, output_gradients=tf.convert_to_tensor(optimizer.scale_loss(1.0)))
        if config.TRAIN.mixed_precision and self.strategy.num_replicas_in_sync > 1:
            # Each device looks at its own gradients alone to tell whether all skip the step.
            bad = tf.reduce_any([tf.reduce_any(~tf.math.is_finite(gradient)) for gradient in gradients])
            n_bad = tf.distribute.get_replica_context().all_reduce("SUM", tf.cast(bad, tf.float32))
            gradients[0] += tf.where(n_bad > 0, np.nan, 0.0)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    @staticmethod
    def of_all_devices(losses):
        """The batch's losses, from a device's: Keras divides its losses by the number of devices."""
        return tf.distribute.get_replica_context().all_reduce("SUM", losses)

    def average(self):
        """Move the averaged weights towards the generator's; fast at first, so that they forget the beginning."""
        count = tf.cast(self.total_step.assign_add(1), tf.float32)
        decay = tf.minimum(config.TRAIN.ema_decay, count / (count + 9))
        for mean, weight in zip(self.averaged.weights, self.generator.weights, strict=True):
            mean.assign(decay * mean + (1 - decay) * weight)

    def learning_rate(self):
        """Of the step to come, by the schedule of its phase."""
        train, epoch = config.TRAIN, int(self.epoch)
        if int(self.phase) == 2:
            return train.lr_init * train.lr_decay ** (epoch // train.decay_every)
        if train.schedule_init == "constant":
            return train.learning_rate_init
        done = (epoch + int(self.step) / self.steps) / train.n_epoch_init
        return train.learning_rate_init * (1 + np.cos(np.pi * done)) / 2

    # -- the run

    def is_done(self):
        return int(self.phase) == 2 and int(self.epoch) >= config.TRAIN.n_epoch

    def run(self):
        """Train from where the state is to the end of phase 2, saving on the way."""
        if self.is_chief:
            self.pairs = [(hr, lr) for _, hr, lr in data.read_pairs(data.validation_pairs(config)[:config.VALID.n_quick])]
            self.bicubic = None
            self.upscaler = model.Upscaler(self.averaged)
            self.writer = tf.summary.create_file_writer(str(self.folder / "logs"))
        with catch_signals(self), self.patches.user_errors():
            if int(self.phase) == 1:
                self.run_phase(1, config.TRAIN.n_epoch_init, self.init_step, [self.init_optimizer])
                if not self.stopped_by:  # phase 2 begins with the weights that phase 1 wrote
                    self.generator.set_weights(self.averaged.get_weights())
                    self.phase.assign(2)
                    self.epoch.assign(0)
            if int(self.phase) == 2:
                self.run_phase(2, config.TRAIN.n_epoch, self.gan_step, [self.g_optimizer, self.d_optimizer])
            self.sum_of_all(0)  # the chief has saved

    def run_phase(self, phase, n_epoch, train_step, optimizers):
        train = config.TRAIN
        start = int(self.epoch) * self.steps + min(int(self.step), self.steps - 1)
        total = n_epoch * self.steps
        if start >= total:
            return
        batches = iter(self.batches(phase, start, total))
        print(f"Phase {phase} of 2, {'the generator alone' if phase == 1 else 'adversarial'}: "
              f"{n_epoch} epochs of {self.steps} steps of {train.batch_size} patches. The first step takes longer, to compile.")
        with utils.progress(f"Phase {phase}, step", total, start) as bar:
            times, history = [], []
            for done in range(start + 1, total + 1):
                rate = self.learning_rate()
                for optimizer in optimizers:
                    optimizer.learning_rate.assign(rate)
                began = time.perf_counter()
                losses = {name: float(loss) for name, loss in train_step(*next(batches)).items()}  # waits for the device
                times.append(time.perf_counter() - began)
                history.append(losses)
                bad = [name for name in losses if not np.isfinite(losses[name])]
                if bad:
                    raise self.diverged(done, f"the loss {bad[0]} is {losses[bad[0]]}")
                bar.update(done, **losses)
                self.epoch.assign(done // self.steps)
                self.step.assign(done % self.steps)
                if done % self.steps == 0:
                    if self.is_chief:
                        self.end_epoch(phase, n_epoch, rate, times, history, total - done)
                    times, history = [], []
                if self.must_stop():
                    if self.is_chief:
                        self.save()
                    break

    def batches(self, phase, start, stop):
        """The batches of a phase's steps from `start` to before `stop`, of each the shares of this process's devices."""
        def shares_of_a_process(context):
            n_devices = context.num_replicas_in_sync // context.num_input_pipelines
            first = context.input_pipeline_id * n_devices
            return self.patches.dataset(phase, start, stop, range(first, first + n_devices), context.num_replicas_in_sync)

        return self.strategy.distribute_datasets_from_function(shares_of_a_process)

    def must_stop(self):
        """Whether this process was told to stop, or another one, so that all of them stop after the same step."""
        if self.sum_of_all(self.stopped_by or 0):
            self.stopped_by = self.stopped_by or signal.SIGTERM
        return self.stopped_by

    def sum_of_all(self, number):
        """The sum over all devices of a number of their process, for which all processes wait for each other."""
        if not self.strategy.cluster_resolver:
            return number
        return int(self._sum(tf.constant(number, tf.int64)))

    @tf.function
    def _sum(self, number):
        return self.strategy.reduce("SUM", self.strategy.run(tf.identity, args=(number,)), axis=None)

    def join(self):
        """Make sure that all processes train the same, from the state of the chief, which alone reads the checkpoints.

        Raises UserError.
        """
        settings = {key: value for key, value in flatten(config).items()
                    if key.startswith("TRAIN.") and not key.endswith(("path", "devices"))}
        sizes = [(photo.height, photo.width) for photo in self.patches.photos]
        numbers = {key: zlib.crc32(json.dumps(value).encode())
                   for key, value in {**settings, "config.LOSS": self.recipe, "the photos": sizes}.items()}
        different = [key for key, number in numbers.items()
                     if self.sum_of_all(number) != number * self.strategy.num_replicas_in_sync]
        if different:
            raise UserError(f"The processes do not train the same: {', '.join(different)} differ; give all the same config.py, --set, "
                            "photos and VGG19.")

        state = self.checkpoint
        variables = [state.phase, state.epoch, state.step, state.total_step, state.best_psnr]
        for part in (state.generator, state.averaged, state.discriminator,
                     state.init_optimizer, state.g_optimizer, state.d_optimizer):
            variables += part.variables

        @tf.function
        def take_chiefs_state():
            context = tf.distribute.get_replica_context()
            for variable in variables:
                value = tf.convert_to_tensor(variable)
                chiefs = tf.where(context.replica_id_in_sync_group == 0, value, tf.zeros_like(value))
                variable.assign(context.all_reduce("SUM", chiefs))

        self.strategy.run(take_chiefs_state)

    def end_epoch(self, phase, n_epoch, rate, times, history, steps_left):
        epoch = int(self.epoch)
        means = {name: np.mean([losses[name] for losses in history]) for name in history[0]}
        seconds = float(np.median(times))
        line = (f"Phase {phase}, epoch {epoch}/{n_epoch}: " + ", ".join(f"{k} {v:.4g}" for k, v in means.items())
                + f", {seconds:.2f} s a step, {timedelta(seconds=round(seconds * steps_left))} left")
        self.write_events({**means, "learning_rate": rate})
        if epoch % config.TRAIN.save_every == 0 or epoch == n_epoch:
            psnr = self.measure(phase)
            self.write_samples(phase)
            self.save()
            line += f"; PSNR {psnr:.2f} dB, bicubic {self.bicubic:.2f} dB"
        print(line)

    def write_events(self, scalars, image=None):
        """Write to TensorBoard; by its own messages, as tf.summary.scalar and .image want tensorboard installed."""
        summary = tf.compat.v1.Summary()
        for name, value in scalars.items():
            summary.value.add(tag=f"phase_{int(self.phase)}/{name}", simple_value=value)
        if image is not None:
            encoded = tf.compat.v1.Summary.Image(
                height=image.shape[0], width=image.shape[1], colorspace=3,
                encoded_image_string=tf.io.encode_png(image).numpy())
            summary.value.add(tag=f"phase_{int(self.phase)}/samples", image=encoded)
        with self.writer.as_default():
            tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=self.total_step)
        self.writer.flush()

    def measure(self, phase):
        """Mean PSNR of the averaged weights on the first validation images; of phase 1 the best are kept."""
        self.upscaler.refresh(self.averaged)
        if self.bicubic is None:
            self.bicubic = np.mean([images.psnr_ssim(images.resize(lr, *hr.shape[:2]), hr)[0] for hr, lr in self.pairs])
        psnr = np.mean([images.psnr_ssim(self.upscaler(lr), hr)[0] for hr, lr in self.pairs])
        self.write_events({"psnr": psnr})
        if phase == 1 and psnr > float(self.best_psnr):
            self.best_psnr.assign(psnr)
            weights.save_network(self.folder / "g_srgan_init_best.npz", self.averaged)
        return psnr

    def write_samples(self, phase):
        """The same training patches each time: a column a patch, from above bicubic, SR and HR."""
        train = config.TRAIN
        lrs, hrs = data.Patches(self.patches.photos, train.seed, 8, train.hr_patch_size, 1).batch(0, 0)
        grid = np.hstack([np.vstack([images.resize(lr, *hr.shape[:2]), self.upscaler(lr), hr]) for lr, hr in zip(lrs, hrs, strict=True)])
        folder = Path(train.sample_path) / ("srgan_ginit" if phase == 1 else "srgan_gan")
        images.write_image(folder / f"train_{'g_init' if phase == 1 else 'g'}_{int(self.epoch)}.png", grid)
        self.write_events({}, grid)

    def diverged(self, step, what):
        return UserError(f"Phase {int(self.phase)}, step {step}: {what}; the state of the last save is intact in "
                         f"{self.folder}/, go on from it with a lower "
                         f"{'TRAIN.learning_rate_init' if int(self.phase) == 1 else 'TRAIN.lr_init'}.")

    def save(self):
        """Weights first, then the state: a run killed in between repeats the steps and writes the weights again."""
        for part in (self.generator, self.discriminator, *self.optimizers):
            for variable in part.variables:  # the step of a finite loss may still spoil them
                if not np.isfinite(variable).all():
                    step = int(self.epoch) * self.steps + int(self.step)
                    raise self.diverged(step, f"{variable.path} holds a value that is not a finite number")
        weights.save_network(self.folder / ("g_srgan_init.npz" if int(self.phase) == 1 else "g_srgan.npz"), self.averaged)
        weights.save_network(self.folder / "d_srgan.npz", self.discriminator)
        try:
            self.manager.save()
        except tf.errors.OpError as error:
            self.remove_half_states()
            raise UserError(f"The state can't be saved in {self.folder}/ ({error.message}); the one before it is intact: free "
                            "space, then run the same command again.") from error

    def resume(self):
        """Go on from the newest state that can be read, if there is any; returns whether. Raises UserError if none can."""
        states = sorted(self.folder.glob("state-*.index"), key=utils.natural_key, reverse=True)
        if states or not (self.folder / "checkpoint").exists():  # TensorFlow's list of states, from the first whole one on
            self.remove_half_states()
        for state in states:
            try:
                self.checkpoint.restore(str(state.with_suffix(""))).assert_consumed()
            except Exception as error:  # TensorFlow raises what the damaged bytes happen to lead to
                print(f"{state.with_suffix('')} is damaged ({devices._first_line(error)}); trying the one before it.")
                continue
            print(f"Going on with the training in {self.folder}/: phase {int(self.phase)}, {int(self.epoch)} epochs "
                  f"and {int(self.step)} steps are done. (--restart begins anew.)")
            return True
        if states or (self.folder / "checkpoint").exists():
            raise UserError(f"None of the states in {self.folder}/ can be read; --restart begins anew and moves the folder "
                            "aside.")
        return False

    def remove_half_states(self):
        """What a run left that was killed or had no space left while saving: TensorFlow writes the index last."""
        for path in [*self.folder.glob("state-*"), *self.folder.glob(".*.partial.*")]:
            if path.name.endswith("_temp"):
                shutil.rmtree(path)
            elif path.name.startswith("."):
                path.unlink()
            elif path.suffix != ".index" and not path.with_suffix(".index").exists():
                print(f"{path} has no index, as its save was cut off or the index is lost; it is removed.")
                path.unlink()


@contextlib.contextmanager
def catch_signals(trainer):
    """Ctrl-C and SIGTERM let the step end and the state be saved; the second one leaves at once.

    In a thread: Python calls a handler only when TensorFlow has returned, and then once, however many signals came.
    """

    def watch():
        for number in iter(lambda: receiver.recv(1), b""):
            if trainer.stopped_by:
                os._exit(128 + number[0])
            trainer.stopped_by = number[0]
            print("Stopping after this step; once more to leave at once, without saving.")

    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.set_wakeup_fd(sender.fileno())
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        sender.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def load_loss(demo):
    """The recipe of the losses and the VGG19 that it needs, None if it needs none; raises UserError if it can't be had."""
    recipe, path = config.LOSS[config.TRAIN.loss], config.VGG.path
    if not (recipe.w_vgg and config.TRAIN.n_epoch):
        return recipe, None
    try:
        return recipe, weights.load_vgg(recipe.vgg_layer, path)
    except weights.DownloadError:
        if not demo:
            raise
        print("VGG19 is not here and can't be downloaded; this demonstration trains SRGAN-MSE, without it.")
        return config.LOSS.srgan_mse, None


@contextlib.contextmanager
def locked(folder):
    """Hold a training's folder for this process alone; the lock of a killed one is free. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "a+")  # noqa: SIM115 (entered below, outside of this try)
    except OSError as error:
        raise UserError(f"{folder}/ (TRAIN.checkpoint_path) can't be written: {error.strerror}; name another folder.") from error
    with file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise UserError(f"{folder}/ is in use by the training of process {file.read()}; stop it first, or set "
                            "TRAIN.checkpoint_path to another folder.") from None
        with contextlib.suppress(OSError):  # the disk is full, which saving will say
            os.truncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


def compare_with_last_run(folder, demo):
    """Say which settings changed since the run whose state is in `folder`; raises UserError for one that can't."""
    try:
        last = dict(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, TypeError):
        return
    if last.pop("demonstration", False) and not demo:
        print(f"{folder}/ holds the demonstration; your training begins anew.")
        return utils.move_aside(folder, "training")
    before, now = flatten(last), flatten(config)
    for key in ("TRAIN.architecture", "TRAIN.hr_patch_size"):
        if before.get(key, now[key]) != now[key]:
            raise UserError(f"The training in {folder}/ has {key}={before[key]}, now it is {now[key]}; set it back, or begin "
                            "anew with --restart.")
    photos = before.get("TRAIN.hr_img_path", now["TRAIN.hr_img_path"])
    if demo and not is_div2k(photos):
        raise UserError(f"{folder}/ holds a training on {photos}; to go on with it give the same --set as then "
                        f"(TRAIN.hr_img_path={photos} ...), or begin anew with --restart.")
    changed = [f"{key} {before[key]} -> {now[key]}" for key in now if before.get(key, now[key]) != now[key]]
    if changed:
        print(f"Changed since the last run: {', '.join(changed)}.")


def make_trainer(strategy, arguments, pairs, name, demo):
    """A `Trainer` of a strategy's devices, in the state of its last save; raises UserError."""
    folder = Path(config.TRAIN.checkpoint_path)
    with strategy.scope(), devices.precision():
        recipe, vgg = load_loss(demo)
    photos = data.cache_photos(pairs, name, config.TRAIN.cache_path, config.TRAIN.hr_patch_size)
    keras.utils.set_random_seed(config.TRAIN.seed)
    trainer = Trainer(strategy, photos, recipe, vgg, arguments.weights)
    if not demo and trainer.steps < 25:  # half of DIV2K's
        print(f"{len(photos)} photos make epochs of only {trainer.steps} steps, where DIV2K's have 50: for as long a training "
              f"set TRAIN.patches_per_image to about {-(-50 * config.TRAIN.batch_size // len(photos))}.")
    if trainer.is_chief and trainer.resume() and arguments.weights:
        print(f"--weights {arguments.weights} is not used, as a training is gone on with.")
    if strategy.cluster_resolver:
        trainer.join()
    if trainer.is_chief:
        with utils.atomic_write(folder / "config.json") as partial:
            log_config(partial, {**config, "demonstration": demo})
    if trainer.is_done():
        print("Nothing is left to train; a larger TRAIN.n_epoch goes on.")
    return trainer


def train(arguments, config):
    """Train, or go on with the training in the checkpoint folder. Returns the exit code."""
    demo = data.is_demo(config)
    if demo:
        use_demo(config, arguments.given)
    pairs, name = data.training_photos(config)
    if config.TRAIN.deterministic:
        tf.config.experimental.enable_op_determinism()
        # TensorFlow's graph optimizer would sum the gradients of three losses in the order in which they happen to be ready.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    strategy = devices.make_strategy()
    n_devices = strategy.num_replicas_in_sync
    if config.TRAIN.batch_size % n_devices:
        smaller = config.TRAIN.batch_size // n_devices * n_devices
        raise UserError(f"TRAIN.batch_size is {config.TRAIN.batch_size}, which {n_devices} devices can't share evenly; set it to "
                        f"{f'{smaller} or ' if smaller else ''}{smaller + n_devices}, or any multiple of {n_devices}.")
    folder = Path(config.TRAIN.checkpoint_path)
    with contextlib.ExitStack() as stack:
        if devices.is_chief(strategy):
            stack.enter_context(locked(folder))
            if any(folder.glob("state-*")) or (folder / "checkpoint").exists():
                utils.move_aside(folder, "training") if arguments.restart else compare_with_last_run(folder, demo)
            if demo:
                print(f"{config.TRAIN.hr_img_path} is not there: a demonstration of some minutes on the photos that scikit-image and "
                      "scikit-learn ship. For real training: python main.py --mode=download fetches DIV2K; for your own photos "
                      "set config.TRAIN.hr_img_path.")
            if n_devices > 1:
                print(f"{n_devices} devices train together, each with {config.TRAIN.batch_size // n_devices} of the "
                      f"{config.TRAIN.batch_size} patches of a batch.")
        else:
            stack.enter_context(devices.silent())
        try:
            trainer = make_trainer(strategy, arguments, pairs, name, demo)
            trainer.run()
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError,
                tf.errors.FailedPreconditionError, tf.errors.DeadlineExceededError, tf.errors.UnknownError) as error:
            if not strategy.cluster_resolver:
                raise
            raise UserError("Another process of this training is gone, which says why if it could; then start all of them again, the "
                            "training goes on from the last save.") from error
    if trainer.stopped_by:
        print(f"Stopped and saved in {folder}/{'' if trainer.is_chief else ' of the chief'}; the same command goes on from here.")
        return 128 + trainer.stopped_by
    if trainer.is_chief:
        print(f"Done: weights in {folder}/, samples in {config.TRAIN.sample_path}. python main.py --mode=evaluate scores them.")
    return 0
