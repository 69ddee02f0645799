"""A training that is interrupted, however, ends as one that was not."""
import copy
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import small
import tensorflow as tf

import data
import layers
import train
from engine import command_line, devices

SMALL = Path(__file__).parent / "small.py"
SCHEDULE = ("--set", "TRAIN.hr_patch_size=16", "TRAIN.batch_size=4", "TRAIN.patches_per_image=3",
            "TRAIN.n_epoch_init=5", "TRAIN.n_epoch=22", "TRAIN.save_every=1", "TRAIN.loss=srgan_mse",
            "TRAIN.degradation=photo", "VALID.n_quick=1", "TRAIN.deterministic=true", "TRAIN.precision=float32")

PHASE_2 = ("TRAIN.n_steps_d_first=15", "TRAIN.keep_best=lr_psnr")


def start(folder, *more):
    return small.Training(folder, *SCHEDULE, *more)


def read_until(process, beginning):
    """What a training prints up to a line that begins so."""
    output = ""
    for line in process.stdout:
        output += line
        if line.startswith(beginning):
            break
    return output


def run(folder, *more):
    process = start(folder, *more)
    output, _ = process.communicate()
    return process.returncode, output


def newest_state(folder):
    states = sorted((folder / "checkpoint").glob("state-*.index"), key=lambda path: path.stat().st_mtime)
    return tf.train.load_checkpoint(states[-1].with_suffix(""))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    code, output = run(folder, *PHASE_2)
    assert code == 0, output
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The same training, killed at twenty random moments and stopped at two, and what was printed."""
    folder = tmp_path_factory.mktemp("interrupted")
    command = [sys.executable, SMALL.with_name("forked.py"), *SCHEDULE, *PHASE_2]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return folder, done.stdout + done.stderr


def assert_same_weights(folder, other):
    for name in ("g_srgan_init.npz", "g_srgan_init_best.npz", "g_srgan.npz", "g_srgan_best.npz",
                 "d_srgan.npz"):
        a, b = np.load(folder / "checkpoint" / name), np.load(other / "checkpoint" / name)
        assert a.files == b.files
        for key in a.files:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name} {key}")


def assert_same_state(folder, other):
    readers = [newest_state(folder) for folder in (folder, other)]
    names = [name for name in readers[0].get_variable_to_shape_map()
             if "save_counter" not in name and "GRAPH" not in name]
    assert sum("g_optimizer" in name for name in names) > 50
    for name in names:
        np.testing.assert_array_equal(readers[0].get_tensor(name), readers[1].get_tensor(name), err_msg=name)


def test_what_is_killed_at_twenty_random_moments_ends_with_the_same_weights_and_moments(uninterrupted, interrupted):
    folder, output = interrupted
    ends = re.findall(r"^Ended by (\w+): (.*)$", output, re.MULTILINE)
    expected = {("SIGKILL", "-9"): 20, ("SIGINT", "130"): 1, ("SIGTERM", "143"): 1, ("None", "0"): 1}
    assert Counter(ends) == expected, output
    runs = output.split("Ended by ")[:-1]
    assert sum("Phase 1 of 2" in run for run in runs) >= 5 and sum("Phase 2 of 2" in run for run in runs) >= 5
    stopped = [run for run, (number, _) in zip(runs, ends, strict=True) if number in ("SIGINT", "SIGTERM")]
    assert all("/checkpoint/; run the same command to resume." in run for run in stopped)
    assert "Traceback" not in output and "is damaged" not in output
    assert len(re.findall("^While saving: .*(partial|_temp)", output, re.MULTILINE)) >= 3
    assert not [name for name in os.listdir(folder / "checkpoint") if "partial" in name or "_temp" in name]
    places = re.findall(r"phase (\d), after (\d+) epochs?(?: and (\d+) steps?)?\. ", output)
    reached = [tuple(int(number or 0) for number in place) for place in places]
    assert reached == sorted(reached) and len(reached) >= 15  # nothing that was saved is trained twice
    assert_same_weights(uninterrupted, folder)
    assert_same_state(uninterrupted, folder)


def test_averaged_weights_are_written(uninterrupted):
    reader = newest_state(uninterrupted)
    written = np.load(uninterrupted / "checkpoint" / "g_srgan.npz")["head_conv/kernel"]
    kernels = [reader.get_tensor(name) for name, shape in reader.get_variable_to_shape_map().items()
               if shape == [9, 9, 3, 64] and "momentum" not in name and "velocity" not in name]
    distances = sorted(np.abs(kernel - written).max() for kernel in kernels)
    assert distances[0] == 0 < distances[1] < 0.01  # the average itself, and the generator close to it


def test_finished_training_says_so_at_once_and_restart_keeps_the_old(uninterrupted):
    before = (uninterrupted / "checkpoint" / "g_srgan.npz").read_bytes()
    code, output = run(uninterrupted)
    assert code == 0 and "Nothing is left to train" in output
    code, output = run(uninterrupted, "TRAIN.n_epoch_init=99")
    assert code == 0 and "phase 1 is over, and phase 2 has done 22 epochs; raise TRAIN.n_epoch, which is 22" in output
    assert (uninterrupted / "checkpoint" / "g_srgan.npz").read_bytes() == before
    code, output = run(uninterrupted, "--restart", "--set", "TRAIN.n_epoch_init=1", "TRAIN.n_epoch=0")
    assert code == 0, output
    aside, = uninterrupted.glob("checkpoint_*")
    assert (aside / "g_srgan.npz").read_bytes() == before
    assert not (uninterrupted / "checkpoint" / "g_srgan.npz").exists()


def contents(folder):
    """What was saved, and no half file beside it."""
    return {path.name: path.read_bytes() for path in (folder / "checkpoint").iterdir()
            if path.is_file() and path.name not in ("config.json", "lock", "lock.txt")}


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_ctrl_c_leaves_at_once_and_harms_nothing(interrupted, number, code):
    """Both while the first step is compiled, which takes seconds: what waits for Python comes after it."""
    folder, _ = interrupted
    before = contents(folder)
    process = start(folder, "--set", "TRAIN.n_epoch=24")
    output = read_until(process, "Phase 2 of 2")
    process.send_signal(number)
    output += read_until(process, "Stopping after this step; press Ctrl-C again")
    process.send_signal(number)
    output += process.communicate()[0]
    assert process.returncode == code and "Stopped and saved" not in output and "Traceback" not in output, output
    assert contents(folder) == before


# ------------------------------------------------------------------------------------------------------ in-process


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return data.cache_photos(data.packaged_pairs("train"), "photos", tmp_path_factory.mktemp("cache"), 32, 4)


@pytest.fixture
def make_trainer(photos, monkeypatch):
    """A trainer of small networks, by settings of TRAIN."""
    for replaced in small.REPLACED:
        monkeypatch.setitem(*replaced)

    def make(**changed):
        config = copy.deepcopy(command_line.config)
        command_line.resolve(config)
        config.TRAIN.update({"hr_patch_size": 32, "batch_size": 4, "decay_every": 1, **changed})
        settings = config.TRAIN
        tf.keras.utils.set_random_seed(0)
        with devices.compute_in(settings.precision):
            networks, _ = train.make_networks(settings, None)
        patches = data.Patches(photos, 0, 4, 32, 1)
        recipes = [config.LOSS.mse, config.LOSS.srgan_mse]
        return train.Trainer(tf.distribute.get_strategy(), settings, patches, networks, recipes, None)

    return make


def losses_of_five_steps(trainer):
    for optimizer in trainer.optimizers:
        optimizer.learning_rate.assign(1e-4)
    init_step, gan_step = (phase.step for phase in trainer.phases)
    steps = [init_step] * 2 + [gan_step] * 3
    return [float(loss) for number, step in enumerate(steps)
            for loss in step(*trainer.patches.batch(1, number)).values()]


def test_bfloat16_gives_the_losses_of_float32_and_keeps_weights_in_it(make_trainer):
    trainer = make_trainer(precision="bfloat16")
    assert trainer.networks.generator.get_layer("head_conv").compute_dtype == "bfloat16"
    np.testing.assert_allclose(
        losses_of_five_steps(trainer), losses_of_five_steps(make_trainer(precision="float32")), rtol=5e-3)
    for network in trainer.networks:
        assert {weight.dtype for weight in network.weights} == {"float32"}
    for network in trainer.networks:
        assert network.output.dtype == "float32"


def test_a_discriminator_alone_learns_what_it_would_beside_a_generator_of_rate_0(make_trainer):
    trainers = [make_trainer(precision="float32") for _ in range(2)]
    trainers[0].optimizers[1].learning_rate.assign(0)
    initial = [weight.numpy() for weight in trainers[1].networks.generator.trainable_variables]
    for number in range(4):
        batch = trainers[0].patches.batch(2, number)
        beside = trainers[0].phases[1].step(*batch)
        alone = trainers[1].phases[1].step.discriminator_alone(*batch)
        assert [*alone] == ["d"] and float(alone["d"]) == pytest.approx(float(beside["d"]), rel=1e-4)
    for before, after in zip(initial, trainers[1].networks.generator.trainable_variables, strict=True):
        np.testing.assert_array_equal(before, after)
    averages = (trainer.networks.averaged.get_weights() for trainer in trainers)  # also of the batch norms' statistics
    for a, b in zip(*averages, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric, values", [("niqe", [5, 6, 4, 4.5]), ("psnr", [25, 24, 26, 25.5])])
def test_the_best_weights_of_phase_2_are_kept(make_trainer, tmp_path, metric, values):
    trainer = make_trainer(precision="float32", keep_best=metric, checkpoint_path=str(tmp_path))
    kernel, kept = trainer.networks.averaged.get_layer("head_conv").bias, []
    for value in values:
        kernel.assign(tf.fill(kernel.shape, float(value)))
        trainer.keep_best(trainer.phases[1], {metric: value, "ssim": 0.5})
        kept.append(float(np.load(tmp_path / "g_srgan_best.npz")["head_conv/bias"][0]))
    assert kept == [values[0], values[0], values[2], values[2]]


def test_batch_norm_has_statistics_of_float32_in_bfloat16():
    x = np.random.default_rng(0).normal(3, 1, (8, 16, 16, 4)).astype("float32")
    x = tf.cast(x, tf.bfloat16)
    with devices.compute_in("bfloat16"):
        layer = layers.BatchNorm(momentum=0.0, epsilon=1e-5)
    y = layer(x, training=True)
    exact = tf.cast(x, tf.float64).numpy()
    assert y.dtype == tf.bfloat16
    np.testing.assert_allclose(layer.moving_mean, exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, exact.var((0, 1, 2)), rtol=1e-4)


def test_the_time_left_is_that_of_both_phases(make_trainer):
    trainer = make_trainer(precision="float32", n_epoch_init=3, n_epoch=10)
    trainer.epoch.assign(1)
    n = trainer.patches.steps_per_epoch
    assert trainer.steps_left() == {1: 2 * n, 2: 10 * n}
    assert trainer.time_left(100.0) == f"about {timedelta(seconds=round(100 * n * 32))} left for both phases"
    trainer.phase_number.assign(2)
    trainer.epoch.assign(9)
    assert trainer.steps_left() == {2: n} and trainer.time_left(100.0) == f"{timedelta(seconds=100 * n)} left"
