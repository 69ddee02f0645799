"""A training that is interrupted, however, ends as one that was not."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

SMALL = Path(__file__).parent / "small.py"
SCHEDULE = ("--set", "TRAIN.hr_patch_size=16", "TRAIN.batch_size=4", "TRAIN.patches_per_image=3", "TRAIN.n_epoch_init=8",
            "TRAIN.n_epoch=3", "TRAIN.save_every=1", "TRAIN.loss=srgan_mse", "VALID.n_quick=1", "TRAIN.deterministic=true")


def start(folder, *more):
    return subprocess.Popen(
        [sys.executable, SMALL, *SCHEDULE, *more], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"})


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


def interrupt(folder, after, number):
    """Start the training, send it a signal once a line that begins with `after` was printed; returns code and output."""
    process = start(folder)
    output = read_until(process, after)
    process.send_signal(number)
    output += process.communicate()[0]
    return process.returncode, output


def newest_state(folder):
    states = sorted((folder / "checkpoint").glob("state-*.index"), key=lambda path: path.stat().st_mtime)
    return tf.train.load_checkpoint(states[-1].with_suffix(""))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    code, output = run(folder)
    assert code == 0, output
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    for after, number, code in (("Phase 1, epoch", signal.SIGKILL, -9), ("Phase 1, epoch", signal.SIGINT, 130),
                                ("Phase 2, epoch", signal.SIGKILL, -9), ("Phase 2, epoch", signal.SIGTERM, 143)):
        returned, output = interrupt(folder, after, number)
        assert returned == code, output
        if code > 0:
            assert "Stopped and saved in checkpoint/; the same command goes on from here." in output
    code, output = run(folder)
    assert code == 0, output
    assert "Going on with the training in checkpoint/: phase 2, " in output
    return folder


def assert_same_weights(folder, other):
    for name in ("g_srgan_init.npz", "g_srgan_init_best.npz", "g_srgan.npz", "d_srgan.npz"):
        a, b = np.load(folder / "checkpoint" / name), np.load(other / "checkpoint" / name)
        assert a.files == b.files
        for key in a.files:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name} {key}")


def assert_same_state(folder, other):
    readers = [newest_state(folder) for folder in (folder, other)]
    names = [name for name in readers[0].get_variable_to_shape_map() if "save_counter" not in name and "GRAPH" not in name]
    assert sum("g_optimizer" in name for name in names) > 50
    for name in names:
        np.testing.assert_array_equal(readers[0].get_tensor(name), readers[1].get_tensor(name), err_msg=name)


def test_interrupted_training_ends_with_the_same_weights_and_moments(uninterrupted, interrupted):
    assert_same_weights(uninterrupted, interrupted)
    assert_same_state(uninterrupted, interrupted)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path):
    folder, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    folder.mkdir(), killed.mkdir()
    longer = ("--set", "TRAIN.n_epoch_init=30", "TRAIN.n_epoch=25")
    code, output = run(folder, *longer)
    assert code == 0, output
    rng = np.random.default_rng(0)
    kills, output = 0, ""
    while "Done" not in output:
        process = start(killed, *longer)
        output = ""
        for line in process.stdout:
            output += line
            if kills < 20 and line.startswith("Phase"):  # nothing is trained before its first line
                time.sleep(rng.uniform(0, 20))
                process.kill()
                kills += 1
                break
        output += process.communicate()[0]
        assert "Traceback" not in output and "is damaged" not in output
    assert kills == 20
    assert_same_weights(folder, killed)
    assert_same_state(folder, killed)


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
    assert (uninterrupted / "checkpoint" / "g_srgan.npz").read_bytes() == before
    code, output = run(uninterrupted, "--restart", "--set", "TRAIN.n_epoch_init=1", "TRAIN.n_epoch=0")
    assert code == 0, output
    aside, = uninterrupted.glob("checkpoint_*")
    assert (aside / "g_srgan.npz").read_bytes() == before
    assert not (uninterrupted / "checkpoint" / "g_srgan.npz").exists()


def contents(folder):
    """What was saved, and no half file beside it."""
    return {path.name: path.read_bytes() for path in (folder / "checkpoint").iterdir()
            if path.is_file() and path.name not in ("config.json", "lock")}


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_ctrl_c_leaves_at_once_and_harms_nothing(interrupted, number, code):
    """Both while the first step is compiled, which takes seconds: what waits for Python comes after it."""
    before = contents(interrupted)
    process = start(interrupted, "--set", "TRAIN.n_epoch=5")
    output = read_until(process, "Phase 2 of 2")
    process.send_signal(number)
    output += read_until(process, "Stopping after this step; once more to leave at once")
    process.send_signal(number)
    output += process.communicate()[0]
    assert process.returncode == code and "Stopped and saved" not in output and "Traceback" not in output, output
    assert contents(interrupted) == before
