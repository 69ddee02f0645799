"""A training that is interrupted, however, ends as one that was not."""
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

SMALL = Path(__file__).parent / "small.py"
SCHEDULE = ("--set", "TRAIN.hr_patch_size=16", "TRAIN.batch_size=4", "TRAIN.patches_per_image=3", "TRAIN.n_epoch_init=8",
            "TRAIN.n_epoch=3", "TRAIN.save_every=1", "TRAIN.loss=srgan_mse", "VALID.n_quick=1", "TRAIN.deterministic=true")


def start(folder, *more, **options):
    return subprocess.Popen(
        [sys.executable, SMALL, *SCHEDULE, *more], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"}, **options)


def run(folder, *more):
    process = start(folder, *more)
    output, _ = process.communicate()
    return process.returncode, output


def interrupt(folder, after, number):
    """Start the training, send it a signal once a line that begins with `after` was printed; returns code and output."""
    process = start(folder)
    output = ""
    for line in process.stdout:
        output += line
        if line.startswith(after):
            process.send_signal(number)
            break
    rest, _ = process.communicate()
    return process.returncode, output + rest


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
            assert "Stopped and saved in checkpoint/" in output
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
    assert code == 0 and "Done" in output
    assert (uninterrupted / "checkpoint" / "g_srgan.npz").read_bytes() == before
    code, output = run(uninterrupted, "--restart", "--set", "TRAIN.n_epoch_init=1", "TRAIN.n_epoch=0")
    assert code == 0, output
    aside, = uninterrupted.glob("checkpoint_*")
    assert (aside / "g_srgan.npz").read_bytes() == before
    assert not (uninterrupted / "checkpoint" / "g_srgan.npz").exists()


def test_changed_settings_are_listed_or_refused(interrupted):
    code, output = run(interrupted, "--set", "TRAIN.lr_init=0.0002")
    assert code == 0 and "TRAIN.lr_init 0.0001 -> 0.0002" in output
    for setting in ("TRAIN.architecture=tensorlayer", "TRAIN.hr_patch_size=32"):
        code, output = run(interrupted, "--set", setting)
        assert code == 2 and setting.split("=")[0] in output and "Traceback" not in output


def test_a_damaged_state_gives_way_to_the_one_before_it(interrupted):
    folder = interrupted / "checkpoint"
    older, newest = sorted(folder.glob("state-*.data*"), key=lambda path: path.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[:1000])
    code, output = run(interrupted)
    assert code == 0 and "is damaged" in output and "Going on" in output
    for data in folder.glob("state-*.data*"):
        data.write_bytes(bytes(data.stat().st_size))
    code, output = run(interrupted)
    assert code == 2 and "None of the 2 states" in output and "Traceback" not in output


def test_two_trainings_on_one_checkpoint(tmp_path):
    first = start(tmp_path)
    for line in first.stdout:
        if line.startswith("Phase 1 of 2"):
            break
    code, output = run(tmp_path)
    first.kill()
    first.communicate()
    assert code == 2 and f"process {first.pid};" in output and "Traceback" not in output


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(tmp_path):
    code, output = run(tmp_path, "--set", "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=1")
    assert code == 0, output
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").glob("*.*") if path.suffix != ".json"}
    code, output = run(tmp_path, "--set", "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=3", "TRAIN.learning_rate_init=1e38",
                       "TRAIN.schedule_init=constant")
    assert code == 2 and "the loss mse is" in output and "step" in output and "Traceback" not in output
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").glob("*.*") if path.suffix != ".json"}


def test_a_full_disk_leaves_the_last_state(tmp_path):
    """A limit on the size of files, which the weights still fit in and the state does not, stands for the full disk."""
    code, output = run(tmp_path, "--set", "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=1")
    assert code == 0, output
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").glob("state-*")}
    limit = (tmp_path / "checkpoint" / "d_srgan.npz").stat().st_size + 2 ** 20
    process = start(tmp_path, "--set", "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=2",
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    output, _ = process.communicate()
    assert process.returncode == 2 and "can't be saved in checkpoint/" in output and "Traceback" not in output, output
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").glob("state-*")}
    code, output = run(tmp_path, "--set", "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=2")
    assert code == 0 and "Going on" in output


def test_photos_that_come_and_go_are_told(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        Image.effect_mandelbrot((40, 32), (-2 + number / 9, -1.2, 1, 1.2), 60).save(photos / f"{number}.png")
    settings = ("--set", "TRAIN.hr_img_path=photos/", "TRAIN.n_epoch=0")
    code, output = run(tmp_path, *settings, "TRAIN.n_epoch_init=1")
    assert code == 0 and "since the last run" not in output, output
    (photos / "0.png").unlink()
    (photos / "1.png").rename(photos / "renamed.png")
    Image.new("RGB", (8, 8)).save(photos / "2.png")
    code, output = run(tmp_path, *settings, "TRAIN.n_epoch_init=2")
    assert code == 0 and "Photos since the last run: 2 new or changed, 3 gone or changed" in output, output
    assert "smaller than a patch" in output and "2.png" in output
