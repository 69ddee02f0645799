"""SRGAN: `python main.py` trains it, `python main.py --mode=evaluate` scores it and restores photos.

After Ledig et al., Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network,
https://arxiv.org/abs/1609.04802. Settings are in config.py.
"""
import argparse
import collections
import contextlib
import csv
import functools
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a second training on one checkpoint/ is not noticed
    fcntl = None

try:
    from config import (DIV2K_TRAIN_HR, DIV2K_TRAIN_LR, DIV2K_VALID_HR, DIV2K_VALID_LR, ConfigError, config, flatten,
                        log_config, override, resolve)
except ModuleNotFoundError as error:
    sys.exit(f"The package {error.name} is not installed; run: pip install -r requirements.txt")
except (SyntaxError, NameError) as error:
    sys.exit(f"config.py can't be read ({error}); undo the last edit.")

EXAMPLES = """examples:
  python main.py                                          train, or go on with the training in checkpoint/
  python main.py --set TRAIN.hr_img_path=my_photos/       ... on your own photos
  python main.py --restart                                ... from the beginning
  python main.py --mode=evaluate                          score the trained weights and draw the comparison
  python main.py --mode=evaluate --input photo.jpg        restore a photo of yours, or a folder of them, at 4x
  python main.py --mode=mos                               make a study in which people rate the evaluated pictures
  python main.py --mode=mos --input ratings/              analyse the files that the raters sent back
  python main.py --mode=download                          fetch DIV2K, 4.3 GB
"""


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description="SRGAN: single-image super-resolution by 4x.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", default="train", choices=("train", "srgan", "evaluate", "mos", "download"),
                        help="what to do; srgan is the original's name of train (default: %(default)s)")
    parser.add_argument("--input", metavar="PATH",
                        help="evaluate: a photo or a folder of photos to restore; mos: the folder of the raters' files")
    parser.add_argument("--output", metavar="DIR", help="evaluate: where the results go (default: samples/evaluate/)")
    parser.add_argument("--weights", metavar="FILE",
                        help="evaluate: this generator (.npz, .h5); train: the generator to start from")
    parser.add_argument("--restart", action="store_true",
                        help="train, mos: begin anew; the old checkpoint/ or study is moved aside, not deleted")
    parser.add_argument("--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[],
                        help="settings of config.py for this run, such as TRAIN.batch_size=8")
    arguments = parser.parse_args(argv)
    if arguments.mode in ("train", "srgan") and (arguments.input or arguments.output):
        parser.exit(2, "--input and --output do not go with training; to restore photos run: "
                       f"python main.py --mode=evaluate --input {arguments.input or 'photo.jpg'}\n")
    return arguments


def configure(settings):
    """Apply `--set` to config and check all of it; a mistake ends the program with exit code 2."""
    try:
        override(config, settings)
        resolve(config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def quiet():
    """Keep the start-up notes of TensorFlow's libraries off stderr; anything else that was written there follows."""
    # Of several processes that end together TensorFlow says the same thing many times over.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if {"TF_CONFIG", "SLURM_STEP_NUM_TASKS"} & set(os.environ) else "2")
    noise = re.compile(rb"[IW]\d{4} |\d{4}-\d\d-\d\d .*: [IW] |WARNING: All log messages|To enable the following"
                       rb"|.*cuInit.*303|\s*StreamExecutor")
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            kept.seek(0)
            for line in kept:
                if line.strip() and not noise.match(line):
                    os.write(2, line)


if __name__ == "__main__":
    # A file name may hold what the screen can't show; in a log file lines are to appear as they are printed.
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in the middle of the imports
    # Before TensorFlow is imported, so that --help and a mistaken setting answer at once.
    arguments = parse_arguments()
    configure(arguments.set)

with quiet():
    sys.modules.setdefault("sklearn", None)  # or Keras imports it, and SciPy, for wrappers not used here: 1 s of 4
    import keras
    if sys.modules["sklearn"] is None:
        del sys.modules["sklearn"]
    import numpy as np
    import tensorflow as tf
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    import model
    import utils
    from utils import UserError


# ----------------------------------------------------------------------------------------------------------- data

PACKAGED = {  # photos that scikit-image and scikit-learn ship
    "train": ("skimage/data/astronaut.png", "skimage/data/coffee.png", "skimage/data/rocket.jpg",
              "skimage/data/motorcycle_left.png", "skimage/data/hubble_deep_field.jpg", "skimage/data/grass.png",
              "skimage/data/gravel.png", "skimage/data/brick.png", "sklearn/datasets/images/flower.jpg"),
    "valid": ("skimage/data/chelsea.png", "sklearn/datasets/images/china.jpg"),
}


def packaged_photos(which):
    return [Path(importlib.util.find_spec(name.split("/")[0]).origin).parent.parent / name for name in PACKAGED[which]]


def is_demo():
    """Whether training has to do with the photos that come with the packages, as nothing was downloaded or set."""
    return (config.TRAIN.dataset == "folder" and config.TRAIN.hr_img_path == DIV2K_TRAIN_HR
            and not Path(DIV2K_TRAIN_HR).is_dir())


def find_images(folder, setting):
    """The image files of a folder that a setting names; raises UserError where it does not exist or holds none."""
    if not os.path.isdir(folder):
        raise UserError(f"{setting} is {folder}, which is not a folder; set it to a folder of photos.")
    try:
        files = utils.list_images(folder)
    except OSError as error:
        raise UserError(f"{folder} ({setting}) can't be read: {error.strerror}; set it to another folder.") from error
    if not files:
        raise UserError(f"{folder} ({setting}) holds no image; PNG, JPEG, WebP, BMP, TIFF and GIF files are read.")
    return files


def training_photos():
    """Image files and the folder of their LR partners, as `config.TRAIN` says."""
    if is_demo():
        return packaged_photos("train"), ""
    if config.TRAIN.dataset == "flickr25k":
        return find_images(utils.flickr25k(), "TRAIN.dataset flickr25k"), ""
    if config.TRAIN.lr_img_path not in ("", DIV2K_TRAIN_LR):
        find_images(config.TRAIN.lr_img_path, "TRAIN.lr_img_path")
    return find_images(config.TRAIN.hr_img_path, "TRAIN.hr_img_path"), config.TRAIN.lr_img_path


def validation_pairs():
    """HR files and their LR files, None where the LR is to be made, as `config.VALID` says."""
    if config.VALID.hr_img_path == DIV2K_VALID_HR and not Path(DIV2K_VALID_HR).is_dir():
        print(f"{DIV2K_VALID_HR} is not there; measuring on two photos that scikit-image and scikit-learn ship. "
              "For DIV2K: python main.py --mode=download; for your own: config.VALID.hr_img_path.")
        files, lr_folder = packaged_photos("valid"), ""
    else:
        files, lr_folder = find_images(config.VALID.hr_img_path, "VALID.hr_img_path"), config.VALID.lr_img_path
        if lr_folder not in ("", DIV2K_VALID_LR):
            find_images(lr_folder, "VALID.lr_img_path")
    return list(zip(files, utils.find_partners(files, lr_folder)))


def load_generator(path):
    """The generator in a weights file of ours or of TensorLayer; raises UserError."""
    try:
        return model.generator_from(utils.load_arrays(path))
    except model.WeightsError as error:
        raise UserError(f"{path} {error}.") from error


# -------------------------------------------------------------------------------------------------------- devices


def choose_devices():
    """Make the devices that `config.TRAIN.devices` admits the ones that TensorFlow sees; raises UserError.

    Without a GPU, several devices are parts of the CPU: no faster, but the same training as on as many GPUs.
    """
    wanted, gpus = config.TRAIN.devices, tf.config.list_physical_devices("GPU")
    if wanted > len(gpus) > 0:
        raise UserError(f"TRAIN.devices is {wanted}, but TensorFlow sees {len(gpus)} GPUs; set it to that, or to 0 for all.")
    if wanted > 1 and not gpus:
        cpu, = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * wanted)
    elif wanted and gpus:
        tf.config.set_visible_devices(gpus[:wanted], "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)


def list_devices():
    return tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")


def cluster():
    """This process's place among several machines, {"cluster": ..., "task": ...} of TF_CONFIG or of Slurm, or None.

    https://www.tensorflow.org/api_docs/python/tf/distribute/cluster_resolver/TFConfigClusterResolver. Raises UserError.
    """
    try:
        if "TF_CONFIG" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            # The GPUs are those that Slurm lets the task see; the resolver's own division of them fails where there is none.
            slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(gpus_per_node=1000, gpus_per_task=1, auto_set_gpu=False)
            os.environ["TF_CONFIG"] = json.dumps(
                {"cluster": slurm.cluster_spec().as_dict(), "task": {"type": slurm.task_type, "index": slurm.task_id}})
        place = json.loads(os.environ.get("TF_CONFIG") or "{}")
        if not place.get("cluster"):
            return None
        workers, task = place["cluster"], place["task"]
        if not set(workers) <= {"chief", "worker"} or not 0 <= int(task["index"]) < len(workers[task["type"]]):
            raise ValueError("its jobs are chief and worker, whose indices begin with 0")
        return place
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise UserError(f"TF_CONFIG, or what Slurm has set, is not what tf.distribute takes ({error!r}); write it as in the README, "
                        "or unset it.") from error


def _first_line(error):
    return str(error).partition("\n")[0]


def make_strategy():
    """The tf.distribute.Strategy of what this run has: several machines, several devices, or one. Raises UserError."""
    place = cluster()
    with quiet():
        choose_devices()
    if place:
        task, addresses = place["task"], sum(place["cluster"].values(), [])
        print(f"This is {task['type']} {task['index']}, one of {len(addresses)} processes; it waits until all are started, each with "
              f"an index of its own, from 0 on: {', '.join(addresses)}.", flush=True)
        handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # or Ctrl-C would have to wait too
        try:
            with quiet():
                return tf.distribute.MultiWorkerMirroredStrategy()
        except (tf.errors.OpError, RuntimeError) as error:
            raise UserError(f"The processes of TF_CONFIG could not be joined ({_first_line(error)}): the port may be taken, the index "
                            "given twice, or an address not reached from here; mend TF_CONFIG and start all of them again.") from error
        finally:
            signal.signal(signal.SIGINT, handler)
    with quiet():
        devices = list_devices()
        return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else tf.distribute.get_strategy()


def is_chief(strategy):
    """Whether this process is the one that writes; alone it is."""
    resolver = strategy.cluster_resolver
    return not resolver or resolver.task_type == "chief" or (
        resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs)


@contextlib.contextmanager
def silent():
    """Keep lines and progress bars off the screen: of several processes the chief's are enough."""
    utils.progress.visible = False
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


@contextlib.contextmanager
def precision():
    """Let networks that are made inside compute in float16 where `config.TRAIN.mixed_precision` says so."""
    keras.config.set_dtype_policy("mixed_float16" if config.TRAIN.mixed_precision else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


# ------------------------------------------------------------------------------------------------------- training


class Trainer:
    """Both phases of the training and their state: networks, optimizers and how far they are.

    Each device of a tf.distribute.Strategy takes its share of a batch, and the losses, their gradients and the batch norms
    are those of the whole batch, so that several devices train as one would.
    """

    def __init__(self, strategy, photos, recipe, vgg, weights):
        """photos: of `utils.cache_photos`; recipe, vgg: of `load_loss`; weights: file to start from, or None."""
        train = config.TRAIN
        self.strategy, self.is_chief = strategy, is_chief(strategy)
        self.photos, self.recipe, self.vgg = photos, recipe, vgg
        self.steps = utils.steps_per_epoch(photos, train.batch_size, train.patches_per_image)
        self.folder = Path(train.checkpoint_path)
        with strategy.scope(), precision():
            self.generator = load_generator(weights) if weights else model.get_G(train.architecture)
            if model.architecture_of(self.generator) != train.architecture:
                raise UserError(f"{weights} is for the architecture {model.architecture_of(self.generator)}; "
                                f"train it with --set TRAIN.architecture={model.architecture_of(self.generator)}.")
            self.averaged = model.get_G(train.architecture)
            self.averaged.set_weights(self.generator.get_weights())
            self.discriminator = model.get_D(train.architecture, train.hr_patch_size)
            # With loss scaling in any case, so that a training can go on with or without mixed precision.
            scaled = [keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(beta_1=train.beta1)) for _ in range(3)]
            for optimizer, network in zip(scaled, (self.generator, self.generator, self.discriminator)):
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
        lr, hr = model.normalize_lr(lr, config.TRAIN.architecture), model.normalize_hr(hr)
        with tf.GradientTape() as tape:
            loss = model.content_loss(hr, self.generator(lr, training=True))
        self.descend(self.generator, loss, tape, self.init_optimizer)
        self.average()
        return self.of_all_devices({"mse": loss})

    def gan_step(self, lr, hr):
        """A step of phase 2: discriminator and generator, both from the same SR, as the original does."""
        lr, hr = model.normalize_lr(lr, config.TRAIN.architecture), model.normalize_hr(hr)
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
        optimizer.apply_gradients(zip(gradients, variables))

    @staticmethod
    def of_all_devices(losses):
        """The batch's losses, from a device's: Keras divides its losses by the number of devices."""
        return tf.distribute.get_replica_context().all_reduce("SUM", losses)

    def average(self):
        """Move the averaged weights towards the generator's; fast at first, so that they forget the beginning."""
        count = tf.cast(self.total_step.assign_add(1), tf.float32)
        decay = tf.minimum(config.TRAIN.ema_decay, count / (count + 9))
        for mean, weight in zip(self.averaged.weights, self.generator.weights):
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
            self.pairs = [(hr, lr) for _, hr, lr in utils.read_pairs(validation_pairs()[:config.VALID.n_quick])]
            self.bicubic = None
            self.upscaler = model.Upscaler(self.averaged)
            self.writer = tf.summary.create_file_writer(str(self.folder / "logs"))
        with catch_signals(self), utils.user_errors():
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
        names = ["mse"] if phase == 1 else ["mse", "adv"] + ["vgg"] * bool(self.vgg) + ["d"]
        print(f"Phase {phase} of 2, {'the generator alone' if phase == 1 else 'adversarial'}: "
              f"{n_epoch} epochs of {self.steps} steps of {train.batch_size} patches. The first step takes longer, to compile.")
        with utils.progress(f"Phase {phase}, step", total, start, names) as bar:
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
                    bar.finish(dirty=True)  # or it would be shown at 100%
                    break

    def batches(self, phase, start, stop):
        """The batches of a phase's steps from `start` to before `stop`, of each the shares of this process's devices."""
        train = config.TRAIN

        def shares_of_a_process(context):
            n_devices = context.num_replicas_in_sync // context.num_input_pipelines
            first = context.input_pipeline_id * n_devices
            return utils.batches(self.photos, (train.seed, phase), start, stop, train.batch_size, train.hr_patch_size,
                                 train.patches_per_image, range(first, first + n_devices), context.num_replicas_in_sync)

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
        sizes = [(photo.height, photo.width) for photo in self.photos]
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
            self.bicubic = np.mean([utils.psnr_ssim(utils.resize(lr, *hr.shape[:2]), hr)[0] for hr, lr in self.pairs])
        psnr = np.mean([utils.psnr_ssim(self.upscaler(lr), hr)[0] for hr, lr in self.pairs])
        self.write_events({"psnr": psnr})
        if phase == 1 and psnr > float(self.best_psnr):
            self.best_psnr.assign(psnr)
            utils.save_arrays(self.folder / "g_srgan_init_best.npz", model.to_arrays(self.averaged))
        return psnr

    def write_samples(self, phase):
        """The same training patches each time: a column a patch, from above bicubic, SR and HR."""
        train = config.TRAIN
        lrs, hrs = utils.batch(self.photos, (train.seed, 0), 0, 8, train.hr_patch_size, 1)
        grid = np.hstack([np.vstack([utils.resize(lr, *hr.shape[:2]), self.upscaler(lr), hr]) for lr, hr in zip(lrs, hrs)])
        folder = Path(train.sample_path) / ("srgan_ginit" if phase == 1 else "srgan_gan")
        utils.write_image(folder / f"train_{'g_init' if phase == 1 else 'g'}_{int(self.epoch)}.png", grid)
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
        utils.save_arrays(self.folder / ("g_srgan_init.npz" if int(self.phase) == 1 else "g_srgan.npz"),
                          model.to_arrays(self.averaged))
        utils.save_arrays(self.folder / "d_srgan.npz", model.to_arrays(self.discriminator))
        try:
            self.manager.save()
        except tf.errors.OpError as error:
            self.remove_half_states()
            raise UserError(f"The state can't be saved in {self.folder}/ ({error.message}); the one before it is intact: free "
                            "space, then run the same command again.") from error

    def resume(self):
        """Go on from the newest state that can be read, if there is any; returns whether. Raises UserError if none can."""
        states = sorted(self.folder.glob("state-*.index"), key=utils.natural, reverse=True)
        if states or not (self.folder / "checkpoint").exists():  # TensorFlow's list of states, from the first whole one on
            self.remove_half_states()
        for state in states:
            try:
                self.checkpoint.restore(str(state.with_suffix(""))).assert_consumed()
            except Exception as error:  # TensorFlow raises what the damaged bytes happen to lead to
                print(f"{state.with_suffix('')} is damaged ({_first_line(error)}); trying the one before it.")
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


VGG_URL = "https://media.githubusercontent.com/media/tensorlayer/pretrained-models/master/models/vgg19.npy"


def load_loss(demo):
    """The recipe of the losses and the VGG19 that it needs, None if it needs none; raises UserError if it can't be had."""
    recipe, path = config.LOSS[config.TRAIN.loss], config.VGG.path
    if not (recipe.w_vgg and config.TRAIN.n_epoch):
        return recipe, None
    try:
        if Path(path).exists():
            return recipe, model.get_VGG(recipe.vgg_layer, utils.load_arrays(path))
        return recipe, model.get_VGG(recipe.vgg_layer)
    except model.WeightsError as error:
        raise UserError(f"{path} {error}.") from error
    except UserError:
        raise
    except Exception as error:  # keras.utils.get_file raises no narrower class where the download fails
        if demo:
            print("VGG19 is not here and can't be downloaded; this demonstration trains SRGAN-MSE, without it.")
            return config.LOSS.srgan_mse, None
        raise UserError(
            f"{path} (config.VGG.path) is not there, and Keras could not download its copy of VGG19: train without it by --set "
            f"TRAIN.loss=srgan_mse, or get the file from {VGG_URL} (more in vgg19.npy.md; the reason: {error}).") from error


@contextlib.contextmanager
def locked(folder):
    """Hold a training's folder for this process alone; the lock of a killed one is free. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "a+")
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
    photos = before.get("TRAIN.hr_img_path", DIV2K_TRAIN_HR)
    if demo and photos != DIV2K_TRAIN_HR:
        raise UserError(f"{folder}/ holds a training on {photos}; to go on with it give the same --set as then "
                        f"(TRAIN.hr_img_path={photos} ...), or begin anew with --restart.")
    changed = [f"{key} {before[key]} -> {now[key]}" for key in now if before.get(key, now[key]) != now[key]]
    if changed:
        print(f"Changed since the last run: {', '.join(changed)}.")


def make_trainer(strategy, arguments, files, lr_folder, demo):
    """A `Trainer` of a strategy's devices, in the state of its last save; raises UserError."""
    folder = Path(config.TRAIN.checkpoint_path)
    with strategy.scope(), precision():
        recipe, vgg = load_loss(demo)
    photos = utils.cache_photos(files, lr_folder, config.TRAIN.cache_path, config.TRAIN.hr_patch_size)
    keras.utils.set_random_seed(config.TRAIN.seed)
    trainer = Trainer(strategy, photos, recipe, vgg, arguments.weights)
    if not demo and trainer.steps < 25:  # half of DIV2K's
        print(f"{len(photos)} photos make epochs of only {trainer.steps} steps, where DIV2K's have 50: for as long a training "
              f"set TRAIN.patches_per_image to about {-(-50 * config.TRAIN.batch_size // len(photos))}.")
    if trainer.is_chief:
        if trainer.resume() and arguments.weights:
            print(f"--weights {arguments.weights} is not used, as a training is gone on with.")
    if strategy.cluster_resolver:
        trainer.join()
    if trainer.is_chief:
        with utils.whole_file(folder / "config.json") as partial:
            log_config(partial, {**config, "demonstration": demo})
    if trainer.is_done():
        print("Nothing is left to train; a larger TRAIN.n_epoch goes on.")
    return trainer


def train(arguments):
    """Train, or go on with the training in the checkpoint folder. Returns the exit code."""
    demo = is_demo()
    if demo:
        given = {setting.partition("=")[0] for setting in arguments.set}
        override(config, [f"TRAIN.{key}={value}" for key, value in config.DEMO.items() if f"TRAIN.{key}" not in given])
    files, lr_folder = training_photos()
    if config.TRAIN.deterministic:
        tf.config.experimental.enable_op_determinism()
        # TensorFlow's graph optimizer would sum the gradients of three losses in the order in which they happen to be ready.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    strategy = make_strategy()
    n_devices = strategy.num_replicas_in_sync
    if config.TRAIN.batch_size % n_devices:
        smaller = config.TRAIN.batch_size // n_devices * n_devices
        raise UserError(f"TRAIN.batch_size is {config.TRAIN.batch_size}, which {n_devices} devices can't share evenly; set it to "
                        f"{f'{smaller} or ' if smaller else ''}{smaller + n_devices}, or any multiple of {n_devices}.")
    folder = Path(config.TRAIN.checkpoint_path)
    with contextlib.ExitStack() as stack:
        if is_chief(strategy):
            stack.enter_context(locked(folder))
            if any(folder.glob("state-*")) or (folder / "checkpoint").exists():
                utils.move_aside(folder, "training") if arguments.restart else compare_with_last_run(folder, demo)
            if demo:
                print(f"{DIV2K_TRAIN_HR} is not there: a demonstration of some minutes on the photos that scikit-image and "
                      "scikit-learn ship. For real training: python main.py --mode=download fetches DIV2K; for your own photos "
                      "set config.TRAIN.hr_img_path.")
            if n_devices > 1:
                print(f"{n_devices} devices train together, each with {config.TRAIN.batch_size // n_devices} of the "
                      f"{config.TRAIN.batch_size} patches of a batch.")
        else:
            stack.enter_context(silent())
        try:
            trainer = make_trainer(strategy, arguments, files, lr_folder, demo)
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


# ----------------------------------------------------------------------------------------------------- evaluation


def find_generators(weights):
    """The weights files to evaluate, {method: path}; raises UserError where there is none."""
    if weights:
        return {Path(weights).stem: Path(weights)}
    trained = Path(config.TRAIN.checkpoint_path)
    shipped = Path(__file__).parent / "models"
    for candidates in ({"srresnet": trained / "g_srgan_init.npz", "srgan": trained / "g_srgan.npz"},
                       {"srresnet": shipped / "srresnet.npz", "srgan": shipped / "srgan.npz"}):
        found = {method: path for method, path in candidates.items() if path.exists()}
        if found:
            return found
    raise UserError(f"There are no trained weights in {trained}/ or models/; run python main.py first, or name a file "
                    "by --weights.")


def evaluate(arguments):
    output = Path(arguments.output or Path(config.TRAIN.sample_path) / "evaluate")
    paths = find_generators(arguments.weights)
    if arguments.input:  # looked at before some seconds go into the weights
        photos = photos_to_restore(Path(arguments.input), output)
        paths = dict([list(paths.items())[-1]])
    with quiet():
        choose_devices()
        devices = list_devices()
    upscalers = [{} for _ in devices]
    for method, path in paths.items():
        generator = load_generator(path)
        for device, of_device in zip(devices, upscalers):
            of_device[method] = model.Upscaler(generator, config.VALID.memory_mb, device.name)
        print(f"{method}: {path}")
    if not arguments.input:
        return score(output, upscalers)
    upscalers = [upscaler for of_device in upscalers for upscaler in of_device.values()]
    return restore(photos, output, upscalers if len(devices) > 1 else [functools.partial(upscale, *upscalers)])


def upscale(upscaler, lr):
    """`upscaler(lr)`, with a progress bar where it takes more than some seconds."""
    n_pixels = lr.shape[0] * lr.shape[1]
    if n_pixels < 250_000:
        return upscaler(lr)
    with utils.progress("Upscaling, pixel", n_pixels) as bar:
        return upscaler(lr, bar.update)


def share_out(work, items, workers):
    """Yield `work(worker, item)` of each item, in order; several workers, those of different devices, work at once."""
    if len(workers) == 1:
        yield from (work(workers[0], item) for item in items)
        return
    running = collections.deque()
    with ThreadPoolExecutor(len(workers)) as pool:
        for worker, item in zip(itertools.cycle(workers), items):
            if len(running) == len(workers):
                yield running.popleft().result()
            running.append(pool.submit(work, worker, item))
        yield from (result.result() for result in running)


def photos_to_restore(source, output):
    """The photo that is named, or those of a folder; raises UserError where there are none, or `output` can't be written."""
    if not os.path.exists(source):
        raise UserError(f"{source} (--input) is not there; name a photo or a folder of photos.")
    files = find_images(source, "--input") if source.is_dir() else [source]
    make_writable(output)
    if source.is_dir() and source.samefile(output):
        photos = [path for path in files if not path.name.endswith("_gen.png")]
        if len(photos) < len(files):
            print(f"Not restored again: {len(files) - len(photos)} results (*_gen.png) of an earlier run.")
        files = photos
    return files


def restore(files, output, upscalers):
    """Upscale photos to `<name>_gen.png` in the folder `output`; what fails does not stop the others.

    upscalers: of each device what maps LR (H, W, 3), uint8 or uint16, to SR. Returns the exit code.
    """

    def restore_one(upscaler, item):
        path, name = item
        target = output / f"{name}_gen.png"
        try:
            lr = utils.read_image(path, native=True)
            utils.write_image(target, upscale_photo(lr, upscaler))
        except UserError as error:
            return False, error
        except (MemoryError, tf.errors.OpError):
            return False, f"{path} is too large for the memory here; cut it into parts."
        return True, f"{path} {lr.shape[1]}x{lr.shape[0]} -> {target} {4 * lr.shape[1]}x{4 * lr.shape[0]}"

    n_failed = 0
    for restored, line in share_out(restore_one, zip(files, utils.output_names(files)), upscalers):
        print(line, file=sys.stdout if restored else sys.stderr)
        n_failed += not restored
    if n_failed:
        print(f"{n_failed} of {len(files)} failed.", file=sys.stderr)
    return 1 if n_failed else 0


def make_writable(folder):
    """Make a folder for results; raises UserError where nothing can be written to it, before hours went into them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder} (--output) can't be written: {error.strerror}; name another folder.") from error


def upscale_photo(photo, upscaler):
    """A photo (H, W, C) as `utils.read_image` gives it with `native`, at 4x: gray stays gray, alpha stays alpha."""
    n_colours = 1 if photo.shape[2] < 3 else 3
    colours, alpha = photo[:, :, :n_colours], photo[:, :, n_colours:]
    sr = upscaler(np.repeat(colours, 3, axis=2) if n_colours == 1 else colours)
    if n_colours == 1:
        sr = np.rint(sr.mean(axis=2, keepdims=True)).astype(sr.dtype)
    if alpha.size:
        sr = np.concatenate([sr, utils.resize(alpha, *sr.shape[:2])], axis=2)
    return sr


def score(output, upscalers):
    """PSNR and SSIM of every method on the validation images: a table, images, and the figure. Returns the exit code.

    upscalers: of each device {method: what maps LR to SR}.
    """
    make_writable(output)
    pairs = validation_pairs()
    names = dict(zip([hr for hr, _ in pairs], utils.output_names([hr for hr, _ in pairs])))
    generators = list(upscalers[0])
    methods = ["bicubic", "lanczos", *generators]
    print(" " * 20 + "".join(f"{method:>18}" for method in methods))
    images, shown = [], []

    def score_one(of_device, pair):
        hr_path, hr, lr = pair
        results = {"bicubic": utils.resize(lr, *hr.shape[:2]), "lanczos": utils.resize(lr, *hr.shape[:2], "lanczos3"),
                   **{method: upscaler(lr) for method, upscaler in of_device.items()}}
        kinds = {"lr": lr, "bicubic": results["bicubic"], "hr": hr, "gen": results[generators[-1]],
                 **{method: results[method] for method in generators[:-1]}}
        for kind, image in kinds.items():
            utils.write_image(output / f"{names[hr_path]}_{kind}.png", image)
        row = {method: dict(zip(("psnr", "ssim"), utils.psnr_ssim(sr, hr))) for method, sr in results.items()}
        return names[hr_path], {**results, "original": hr}, row

    with utils.progress("Image", len(pairs)) as bar:
        for done, result in enumerate(share_out(score_one, utils.read_pairs(pairs), upscalers), start=1):
            name, _, row = result
            print_row(name, row)
            images.append({"name": name, **row})
            if len(shown) < config.VALID.n_figures:
                shown.append(result)
            bar.update(done)
    mean = {method: {metric: float(np.mean([row[method][metric] for row in images])) for metric in ("psnr", "ssim")}
            for method in methods}
    print_row("mean", mean)
    write_metrics(output, mean, images)
    if shown:
        draw_comparison(output / "comparison.png", shown, ["bicubic", *generators, "original"])
    print(f"PSNR in dB / SSIM, on Y with 4 border pixels cut, of {len(images)} images; table, images and comparison.png "
          f"are in {output}/.")
    return 0


def print_row(name, row):
    print(f"{name[:20]:20}" + "".join(f"{value['psnr']:9.2f} / {value['ssim']:.4f}" for value in row.values()))


def write_metrics(output, mean, images):
    with utils.whole_file(output / "metrics.json") as partial:
        partial.write_text(json.dumps({"mean": mean, "images": images}, indent=2) + "\n")
    with utils.whole_file(output / "metrics.csv") as partial, open(
            partial, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        table = csv.writer(file)
        table.writerow(["name", *(f"{method}_{metric}" for method in mean for metric in ("psnr", "ssim"))])
        for row in [*images, {"name": "mean", **mean}]:
            table.writerow([row["name"], *(f"{row[method][metric]:.4f}" for method in mean for metric in ("psnr", "ssim"))])


TITLES = {"srresnet": "SRResNet", "srgan": "SRGAN"}


def draw_comparison(path, shown, methods):
    """The article's figure 2: for each image the methods side by side, a magnified detail below, PSNR and SSIM under it."""
    figure = Figure(figsize=(4 * len(methods), 6.2 * len(shown)), layout="constrained")
    axes = figure.subplots(2 * len(shown), len(methods), squeeze=False)
    for row, (name, results, metrics) in enumerate(shown):
        hr = results["original"]
        top, left, side = busiest_square(hr)
        for column, method in enumerate(methods):
            whole, detail = axes[2 * row][column], axes[2 * row + 1][column]
            whole.imshow(results[method])
            whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="red", linewidth=1.5))
            whole.set_title(TITLES.get(method, method) if row == 0 else "", parse_math=False)
            detail.imshow(results[method][top:top + side, left:left + side], interpolation="nearest")
            caption = f"({metrics[method]['psnr']:.2f} dB / {metrics[method]['ssim']:.4f})" if method in metrics else name
            detail.set_xlabel(caption.encode(errors="backslashreplace").decode(), fontsize=12, parse_math=False)
            for ax in (whole, detail):
                ax.set(xticks=[], yticks=[])
    with utils.whole_file(path) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a name in a script that the font lacks
        figure.savefig(partial, dpi=110)


def busiest_square(image):
    """Row, column and side of the square of a quarter of the shorter side in which luminance varies most."""
    y = utils.luminance(image)[:, :, 0]
    side = max(16, min(y.shape) // 4)
    corners = [(top, left) for top in range(0, max(1, y.shape[0] - side), side // 2)
               for left in range(0, max(1, y.shape[1] - side), side // 2)]
    return *max(corners, key=lambda c: y[c[0]:c[0] + side, c[1]:c[1] + side].std()), side


# ----------------------------------------------------------------------------------------------------------- main


def main(arguments):
    """Returns the exit code: 0, 1 where some photos failed, 2 for a mistake that the message explains."""
    try:
        if arguments.mode == "mos":
            import mos
            mos.analyse(config, arguments.input) if arguments.input else mos.build(config, arguments.restart)
            return 0
        if arguments.mode == "download":
            archives = {name: archive for name, archive in config.DOWNLOAD.items() if name != "url"}
            return utils.download(archives, config.DOWNLOAD.url) or 0
        return evaluate(arguments) if arguments.mode == "evaluate" else train(arguments)
    except (ConfigError, UserError) as error:  # ConfigError: of config.DEMO, which is applied in train
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(arguments))
