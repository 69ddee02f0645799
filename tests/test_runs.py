"""Full disks, damaged files, locks, signals, settings and photos that change: no training is lost, and it is said."""
import copy
import errno
import fcntl
import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import small
from PIL import Image
from test_train import SCHEDULE, SMALL, contents, read_until, start

import main
import train
import weights
from config import config, override, resolve
from engine import runs
from files import images

SHORT = tuple(setting for setting in SCHEDULE if setting != "TRAIN.deterministic=true")
ONE_PHASE = ("TRAIN.n_epoch=0", "TRAIN.n_epoch_init=2")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run main.py in a folder without the seconds that a new process takes; gives exit code and output."""
    for replaced in small.REPLACED:
        monkeypatch.setitem(*replaced)

    def call(folder, *settings, more=(), fine_tuning=False):
        monkeypatch.chdir(folder)
        usual = fine_tuning or "--weights" in more  # settings that differ in fine-tuning are left as they are
        short = [setting for setting in SHORT if not usual or "n_epoch" not in setting]
        code = main.main(main.parse_arguments([*short, *settings, *more]))
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


@pytest.fixture(scope="module")
def two_states(tmp_path_factory):
    """A folder with two epochs of phase 1 and their states."""
    folder = tmp_path_factory.mktemp("trained")
    process = start(folder, "--set", *ONE_PHASE)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return folder


@pytest.fixture
def trained(two_states, tmp_path):
    shutil.copytree(two_states, tmp_path / "trained")
    return tmp_path / "trained"


# --------------------------------------------------------------------------------------------------- damaged states


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


DAMAGE = [(damage, end) for damage in (cut, flip, zero, os.unlink) for end in ("data-00000-of-00001", "index")]


@pytest.mark.parametrize("damage, end", DAMAGE)
def test_a_damaged_state_gives_way_to_the_one_before_it(trained, run, damage, end):
    damage(trained / "checkpoint" / f"state-2.{end}")
    code, output = run(trained, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=1")
    assert code == 0 and "Resuming the training in checkpoint/: phase 1, after 1 epoch" in output, output
    assert "state-2 is damaged" in output or "state-2.data-00000-of-00001 has no index" in output


@pytest.mark.parametrize("damage, end", DAMAGE)
def test_damaged_states_are_never_replaced_by_a_new_training(trained, run, damage, end):
    for path in (trained / "checkpoint").glob(f"state-*.{end}"):
        damage(path)
    before = contents(trained)
    code, output = run(trained, *ONE_PHASE)
    assert code == 2 and "None of the states in checkpoint/ can be read; start over with --restart" in output, output
    assert contents(trained) == before
    if (damage, end) == (os.unlink, "index"):
        code, output = run(trained, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=1", more=["--restart"])
        assert code == 0 and "is now in checkpoint_" in output and "Phase 1, epoch 1/1" in output, output


# -------------------------------------------------------------------------------------------------------- full disk


def test_a_state_that_no_longer_fits_leaves_the_last(trained, run):
    """A limit on the size of files, which the weights still fit in and the state does not."""
    before = contents(trained)
    largest = max(len(data) for name, data in before.items() if name.endswith(".npz"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 2 ** 18, limits[1]))
    try:
        code, output = run(trained, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=3")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and "can't be saved in checkpoint/" in output and "free space" in output, output
    after = contents(trained)
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if not name.endswith(".npz"))
    code, output = run(trained, *ONE_PHASE)
    assert code == 0 and "phase 1, after 2 epochs" in output


FULL_DISK = """
mount -t tmpfs -o size=1g none disk && cp -r trained/. disk && cd disk &&
head -c "$(($(df --output=avail -B1 . | tail -1) - $1))" /dev/zero > filler && shift
"$@"
code=$?
rm filler && cp -r . ../after && exit $code
"""


@pytest.mark.skipif(subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
                    reason="a disk of its own can't be mounted here")
@pytest.mark.parametrize("free", [0, 2 ** 23])
def test_a_full_disk_is_said_and_leaves_the_last_state(trained, tmp_path, free):
    """A real file system with so many bytes left: nothing can be written, or the weights and a part of the state."""
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FULL_DISK, "sh", str(free), sys.executable, SMALL, *SHORT,
         "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=3"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "free space" in done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    before, after = contents(trained), contents(tmp_path / "after")
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if name.startswith("state"))


# ----------------------------------------------------------------------------------------------------- other mishaps


def test_two_trainings_on_one_checkpoint(trained, run):
    first = start(trained, "--set", "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=100000")
    read_until(first, "Phase 1 of 2")
    code, output = run(trained)
    assert code == 2 and f"checkpoint/ is in use by the training of process {first.pid} on " in output
    first.kill()
    first.communicate()
    code, output = run(trained, *ONE_PHASE)
    assert code == 0 and "Resuming" in output


@pytest.mark.parametrize("phase, rate", [(1, "TRAIN.learning_rate_init"), (2, "TRAIN.lr_init")])
def test_a_loss_that_is_not_finite_stops_before_it_is_saved(trained, run, phase, rate):
    before = contents(trained)
    code, output = run(trained, f"TRAIN.n_epoch_init={4 - phase}", "TRAIN.n_epoch=1", f"{rate}=1e38",
                       "TRAIN.schedule_init=constant", "TRAIN.patches_per_image=8")
    assert code == 2 and f"Phase {phase}, step " in output and "the loss mse is " in output, output
    assert f"lower {rate}" in output
    after = contents(trained)
    assert all(after[name] == before[name] for name in before)


def test_weights_that_are_not_finite_are_not_saved_though_the_loss_still_is(trained, run, monkeypatch):
    before = contents(trained)
    end_epoch = train.Trainer.end_epoch

    def spoil(self, *arguments):
        self.networks.generator.get_layer("head_conv").bias.assign(np.full(64, np.nan))
        end_epoch(self, *arguments)

    monkeypatch.setattr(train.Trainer, "end_epoch", spoil)
    code, output = run(trained, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=3")
    assert code == 2 and "head_conv/bias holds a value that is not a finite number" in output, output
    assert contents(trained) == before


def test_changed_photos_and_settings_are_listed_or_refused(tmp_path, run):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        Image.effect_mandelbrot((40, 32), (-2 + number / 9, -1.2, 1, 1.2), 60).save(photos / f"{number}.png")
    settings = ("TRAIN.hr_img_path=photos/", "TRAIN.n_epoch=0")
    code, output = run(tmp_path, *settings, "TRAIN.n_epoch_init=1")
    assert code == 0 and "since the last run" not in output, output

    (photos / "0.png").unlink()
    (photos / "1.png").rename(photos / "renamed.png")
    Image.new("RGB", (8, 8)).save(photos / "2.png")
    Image.new("RGB", (50, 60)).save(photos / "added.png")
    code, output = run(tmp_path, *settings, "TRAIN.n_epoch_init=2")
    assert code == 0 and "Photos since the last run: 3 new or changed, 3 gone or changed" in output, output
    assert "smaller than a patch" in output and "2.png" in output and "Phase 1, epoch 2/2" in output

    photos.rename(tmp_path / "moved")
    settings = ("TRAIN.hr_img_path=moved/", "TRAIN.n_epoch=0")
    code, output = run(tmp_path, *settings, "TRAIN.n_epoch_init=3", "TRAIN.learning_rate_init=0.0002",
                       "TRAIN.batch_size=2", "TRAIN.cache_path=elsewhere/", "TRAIN.sample_path=pictures/")
    changed, = (line for line in output.splitlines() if line.startswith("Changed since the last run: "))
    for change in ("TRAIN.hr_img_path photos/ -> moved/", "TRAIN.n_epoch_init 2 -> 3", "TRAIN.batch_size 4 -> 2",
                   "TRAIN.learning_rate_init 0.001 -> 0.0002", "TRAIN.cache_path cache/ -> elsewhere/",
                   "TRAIN.sample_path samples/ -> pictures/"):
        assert change in changed
    assert code == 0 and (tmp_path / "pictures" / "srgan_ginit" / "train_g_init_3.png").exists(), output

    before = contents(tmp_path)
    for setting in ("TRAIN.hr_img_path", "VALID.hr_img_path"):
        code, output = run(tmp_path, *settings, f"{setting}=wrong/")
        assert code == 2 and f"{setting} is wrong/" in output and "since the last run" not in output, output
    for setting, was, now in (("TRAIN.architecture", "paper", "tensorlayer"), ("TRAIN.hr_patch_size", 16, 32)):
        code, output = run(tmp_path, *settings, f"{setting}={now}")
        assert code == 2 and f"{setting}={was}, now it is {now}; set it back" in output
    assert contents(tmp_path) == before


@pytest.mark.parametrize("what", ["the folder", "a file"])
def test_decoded_photos_that_vanish_while_they_are_in_use(trained, run, what, monkeypatch):
    end_epoch = train.Trainer.end_epoch

    def vanish(self, *arguments):
        end_epoch(self, *arguments)
        for path in (trained / "cache").rglob("*.rgb"):
            path.unlink()
            if what == "a file":
                return
        shutil.rmtree(trained / "cache")

    monkeypatch.setattr(train.Trainer, "end_epoch", vanish)
    code, output = run(trained, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=30", "TRAIN.save_every=10")
    assert code == 2 and output.splitlines()[-1].endswith("run the same command again to restore them."), output
    assert "cache/" in output.splitlines()[-1]
    monkeypatch.setattr(train.Trainer, "end_epoch", end_epoch)
    code, output = run(trained, *ONE_PHASE)
    assert code == 0 and "Resuming the training in checkpoint/: phase 1, after 2 epochs" in output, output
    assert len(list((trained / "cache").rglob("*.rgb"))) == 9


# ---------------------------------------------------------------------------------------------- folders and locks


def test_any_folder_name_works(tmp_path, run):
    """TensorFlow takes these characters for patterns, so that it neither deletes old states nor finds new ones."""
    paths = ("TRAIN.checkpoint_path=exp[1]*/c?", "TRAIN.sample_path=exp[1]*/s", "TRAIN.cache_path=a\\[b]")
    code, output = run(tmp_path, *paths, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=3")
    folder = tmp_path / "exp[1]*" / "c?"
    assert code == 0, output
    assert {path.name for path in folder.glob("state-*.index")} == {"state-2.index", "state-3.index"}
    assert any((folder / "logs").iterdir()) and any((tmp_path / "exp[1]*" / "s" / "srgan_ginit").iterdir())
    code, output = run(tmp_path, *paths, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=3")
    assert code == 0 and "Resuming the training in exp[1]*/c?/: phase 1, after 3 epochs" in output, output


def test_a_folder_name_that_is_not_utf_8_reaches_tensorflow_as_one_that_is(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    path = runs.tensorflow_path(folder)
    assert str(path).encode() and path.resolve() == folder and runs.tensorflow_path(tmp_path) == tmp_path


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, 524])
def test_a_file_system_without_locks_trains_without_one(tmp_path, monkeypatch, capsys, number):
    def flock(file, operation):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    with runs.locked(tmp_path):
        assert "can't be locked" in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["TRAIN.checkpoint_path", "TRAIN.sample_path", "TRAIN.cache_path"])
def test_a_folder_that_cannot_be_written_is_named_with_its_setting_at_the_start(trained, run, setting):
    (trained / "file").write_text("")
    before = contents(trained)
    code, output = run(trained, f"{setting}=file/folder", "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=3")
    assert code == 2 and f"({setting})" in output and "file/folder" in output and "Phase 1" not in output, output
    assert contents(trained) == before


def test_samples_that_cannot_be_written_cost_no_training(tmp_path, run, monkeypatch):
    def write_image(path, image):
        raise runs.UserError(f"{path} can't be written.")

    with monkeypatch.context() as patched:
        patched.setattr(images, "write_image", write_image)
        code, output = run(tmp_path, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=2")
    assert code == 2 and "train_g_init_1.png can't be written." in output
    code, output = run(tmp_path, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=1")
    assert code == 0 and "phase 1, after 1 epoch. (" in output, output


def test_a_restart_moves_the_old_training_only_when_the_new_one_can_start(trained, run, monkeypatch):
    def load_vgg(layers, path):
        raise weights.DownloadError(f"{path} is not there.")

    before = contents(trained)
    monkeypatch.setattr(weights, "load_vgg", load_vgg)
    monkeypatch.setattr(train.data, "is_demo", lambda config: False)  # which would train without VGG19
    monkeypatch.setattr(train.data, "training_photos", lambda config: (train.data.packaged_pairs("train"), "photos"))
    code, output = run(trained, "TRAIN.loss=original", more=["--restart"])
    assert code == 2 and output.endswith("vgg19.npy is not there.\n"), output
    assert contents(trained) == before and not list(trained.glob("checkpoint_*"))

    code, output = run(trained, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=1", more=["--restart"])
    aside, = trained.glob("checkpoint_*")
    assert code == 0 and f"is now in {aside.name}/ (" in output and "MB); delete it if you no longer need it." in output
    samples = {path.name for path in (aside / "srgan_ginit").iterdir()}
    assert samples == {"train_g_init_1.png", "train_g_init_2.png"}
    assert [path.name for path in (trained / "samples" / "srgan_ginit").iterdir()] == ["train_g_init_1.png"]


@pytest.mark.parametrize("samples", ["samples", "checkpoint/samples"])
def test_a_restart_leaves_what_is_not_the_trainings(trained, run, samples):
    """Photos, notes and a cache in the checkpoint folder, samples in it, names that begin as the training's do."""
    names = ("checkpoint/photos/1.png", "checkpoint/state-of-the-art.txt", "checkpoint/g_srgan_mine.npz",
             "checkpoint/logs/notes.txt", "checkpoint/.b.partial.c", f"{samples}/srgan_ginit/mine.png")
    for name in names:
        path = trained / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    paths = (f"TRAIN.sample_path={samples}", "TRAIN.cache_path=checkpoint/cache")
    code, output = run(trained, *paths, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=3")
    assert code == 0 and "phase 1, after 2 epochs" in output, output
    code, output = run(trained, *paths, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=1", more=["--restart"])
    assert code == 0 and "is now in checkpoint_" in output, output
    assert all((trained / name).read_text() == name for name in names)
    aside, = trained.glob("checkpoint_*")
    assert (aside / "config.json").exists() and len(list(aside.rglob("train_g_init_3.png"))) == 1


def test_a_command_with_restart_that_is_repeated_moves_nothing(trained, run):
    code, output = run(trained, *ONE_PHASE, more=["--restart"])
    assert code == 0 and "is now in checkpoint_" in output, output
    before = contents(trained)
    code, output = run(trained, *ONE_PHASE, more=["--restart"])
    assert code == 2 and "This very command" in output and "leave out --restart to resume it" in output, output
    assert contents(trained) == before and len(list(trained.glob("checkpoint_*"))) == 1


def test_the_first_photo_to_measure_may_be_damaged(trained, run):
    (trained / "valid").mkdir()
    (trained / "valid" / "1.png").write_bytes(b"no picture")
    Image.new("RGB", (64, 64)).save(trained / "valid" / "2.png")
    code, output = run(trained, "VALID.hr_img_path=valid", "VALID.n_quick=1", "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=3")
    assert code == 0 and "1.png can't be read" in output and "; PSNR" in output, output


def test_nothing_to_train_is_said(tmp_path, run):
    code, output = run(tmp_path, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=0")
    assert code == 0 and "phase 1 (TRAIN.n_epoch_init=0) and phase 2 (TRAIN.n_epoch=0)" in output
    assert "Nothing is left to train" in output and "Done" not in output


# ------------------------------------------------------------------------------------------------ signals, screens


def train_in_terminal(name, *training):
    """In a terminal that is the process's own, so that the kernel sends SIGHUP when it closes."""
    os.setsid()
    terminal = os.open(name, os.O_RDWR)
    print("opened")
    for stream in range(3):
        os.dup2(terminal, stream)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    small.run(*training)


def test_a_closed_terminal_saves_the_training(tmp_path):
    master, slave = pty.openpty()
    process = small.Fork(train_in_terminal, os.ttyname(slave), tmp_path, [*SHORT, "TRAIN.n_epoch_init=100000"], {})
    process.stdout.readline()
    os.close(slave)
    shown = b""
    while b"Phase 1, epoch 2/" not in shown:
        shown += os.read(master, 10000)
    os.close(master)
    process.communicate(timeout=60)
    assert process.returncode == 129
    assert list((tmp_path / "checkpoint").glob("state-*.index"))


def stop_when_asked():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    caught = []
    with runs.catch_signals(caught):
        print("ready")
        end = time.monotonic() + 30
        while not caught and time.monotonic() < end:
            pass
        time.sleep(1)
    print("saved")


@pytest.mark.parametrize("signals, saves", [
    ([signal.SIGHUP, signal.SIGHUP], True),  # of the shell and of the kernel
    ([signal.SIGHUP, signal.SIGHUP, signal.SIGTERM], True),
    ([signal.SIGINT, signal.SIGHUP], True),
    ([signal.SIGINT, signal.SIGINT], False),
    ([signal.SIGHUP, signal.SIGTERM, signal.SIGINT], False),
])
def test_only_a_second_request_quits_at_once(signals, saves):
    process = small.Fork(stop_when_asked)
    process.stdout.readline()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.1)
    output, _ = process.communicate()
    assert ("saved" in output) == saves and process.returncode == (0 if saves else 128 + signals[-1])


@pytest.mark.parametrize("n_lines", [1, 6])
def test_a_training_piped_into_head_is_saved(tmp_path, n_lines):
    process = start(tmp_path, "--set", "TRAIN.n_epoch_init=100000")
    for _ in range(n_lines):
        process.stdout.readline()
    process.stdout.close()
    process.process.join(120)
    assert process.returncode == 129
    assert list((tmp_path / "checkpoint").glob("state-*.index"))


def test_a_reader_that_ends_stops_the_training_and_what_follows_is_not_printed(capfd):
    reader, writer = os.pipe()
    closed = []
    with os.fdopen(writer, "w", buffering=1) as stream:
        screen = runs.Screen(stream, lambda: closed.append(True))
        os.close(reader)
        print("lost", file=screen)
        assert closed == [True]
        print("lost as well", file=screen, flush=True)
        assert closed == [True]


def test_a_notebook_may_train_in_another_thread(tmp_path, run):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=1")))
    thread.start()
    thread.join()
    assert results[0][0] == 0 and "Done" in results[0][1], results


# --------------------------------------------------------------------------------------------------- fine-tuning


@pytest.fixture
def given(two_states, tmp_path):
    """Weights to start from, of another epsilon, and their discriminator."""
    (tmp_path / "given").mkdir()
    for name, target in (("g_srgan_init.npz", "g_srgan.npz"), ("d_srgan.npz", "d_srgan.npz")):
        arrays = dict(np.load(two_states / "checkpoint" / name))
        np.savez(tmp_path / "given" / target, **{**arrays, "bn_epsilon": np.array(1e-3)})
    return tmp_path / "given" / "g_srgan.npz"


def saved_config(folder):
    return json.loads((folder / "checkpoint" / "config.json").read_text())


def test_given_weights_are_trained_on_in_phase_2_with_their_discriminator(given, tmp_path, run):
    folders = [tmp_path / "at_once", tmp_path / "resumed"]
    for folder in folders:
        folder.mkdir()
    weights_of, exact = ["--weights", str(given)], ("TRAIN.deterministic=true", "TRAIN.precision=bfloat16")
    code, output = run(folders[0], *exact, "TRAIN.n_epoch=2", more=weights_of)
    assert code == 0 and f"Starting from the generator and the discriminator of {given}." in output, output
    assert "Phase 1" not in output and "Phase 2, epoch 2/2" in output
    start, = set(re.findall(r"; PSNR [\d.]+ dB, at the start ([\d.]+) dB", output))
    train_settings = saved_config(folders[0])["TRAIN"]
    assert (train_settings["lr_init"], train_settings["n_epoch_init"]) == (1e-5, 0)

    code, output = run(folders[1], *exact, "TRAIN.n_epoch=1", "TRAIN.decay_every=1",
                       more=weights_of)
    assert code == 0, output
    code, output = run(folders[1], *exact, "TRAIN.n_epoch=2", fine_tuning=True)  # without --weights
    assert code == 0 and "Resuming" in output and "lr_init" not in output, output
    assert f"The run in checkpoint/ continues the fine-tuning of {given}." in output
    assert f"at the start {start} dB" in output
    code, output = run(folders[1], *exact, "TRAIN.n_epoch=2", more=["--weights", "pretrained"])
    assert code == 0 and "pretrained is ignored" in output and "--restart starts over from them." in output, output
    for name in ("g_srgan.npz", "d_srgan.npz"):
        arrays, same = (np.load(folder / "checkpoint" / name) for folder in folders)
        assert arrays["bn_epsilon"] == 1e-3 == same["bn_epsilon"]
        for key in arrays.files:
            np.testing.assert_array_equal(arrays[key], same[key], err_msg=f"{name} {key}")
    before = np.load(given)["block_1_conv_1/kernel"]
    after = np.load(folders[0] / "checkpoint" / "g_srgan.npz")["block_1_conv_1/kernel"]
    assert 0 < np.abs(after - before).max() < 14 * 1.1e-5  # Adam's steps are at most the rate, 14 of them


def test_given_weights_with_phase_1_on_request_and_a_discriminator_that_does_not_fit(given, tmp_path, run):
    other = given.with_name("d_srgan.npz")
    np.savez(other, **{**np.load(other), "bn_epsilon": np.array(1e-5)})
    code, output = run(tmp_path, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=1", more=["--weights", str(given)])
    assert code == 0 and "with a fresh discriminator" in output and "Phase 1, epoch 1/1" in output, output
    assert saved_config(tmp_path)["TRAIN"]["learning_rate_init"] == 1e-4
    code, output = run(tmp_path, "TRAIN.architecture=tensorlayer", more=["--restart", "--weights", str(given)])
    assert code == 2 and "is for the architecture paper; train it with --set TRAIN.architecture=paper" in output


def test_given_weights_of_another_scale_begin_with_phase_1_and_resume(given, tmp_path, run):
    settings = "TRAIN.scale=2", "TRAIN.hr_patch_size=32"
    code, output = run(tmp_path, *settings, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=1", more=["--weights", str(given)])
    assert code == 0 and f"{given} is of scale 4: for scale 2 " in output and "with a fresh disc" in output, output
    assert saved_config(tmp_path)["origin"]["scale"] == 4 and np.load("checkpoint/g_srgan_init.npz")["scale"] == 2
    cfg = copy.deepcopy(config)
    override(cfg, settings)
    resolve(cfg)
    train.settle(cfg, saved_config(tmp_path)["origin"], resumed=True)
    assert (cfg.TRAIN.n_epoch_init, cfg.TRAIN.learning_rate_init, cfg.TRAIN.lr_init) == (100, 1e-4, 1e-4)


def test_a_new_discriminator_is_trained_alone_first(given, tmp_path, run):
    given.with_name("d_srgan.npz").unlink()
    rates = "TRAIN.lr_init=1e-5", "TRAIN.lr_init_d=1e-4"
    code, output = run(tmp_path, "TRAIN.n_epoch=1", "TRAIN.n_steps_d_first=7", *rates, more=["--weights", str(given)])
    assert code == 2 and "All 7 steps of phase 2 would train the new discriminator alone" in output, output
    code, output = run(tmp_path, "TRAIN.n_epoch=1", "TRAIN.n_steps_d_first=6", *rates, more=["--weights", str(given)])
    assert code == 0 and "Its first 6 steps train the new discriminator alone" in output, output
    before, weight = np.load(given), "block_1_conv_1/kernel"
    change = np.abs(np.load("checkpoint/g_srgan.npz")[weight] - before[weight]).max()
    assert 0 < change < 1.1e-5  # one step at the generator's rate
    discriminator = np.load("checkpoint/d_srgan.npz")["conv_1/kernel"]
    code, output = run(tmp_path, "TRAIN.n_epoch=2", "TRAIN.decay_every=2", *rates, fine_tuning=True)  # resumed
    assert code == 0 and "alone" not in output and "n_steps" not in output, output
    assert change < np.abs(np.load("checkpoint/g_srgan.npz")[weight] - before[weight]).max() < 8 * 1.1e-5
    change = np.load("checkpoint/d_srgan.npz")["conv_1/kernel"] - discriminator
    assert np.abs(change).max() > 2e-4  # its rate is ten times the generator's


def test_a_new_discriminator_has_defaults_of_its_own_which_its_training_keeps(given, tmp_path, run):
    given.with_name("d_srgan.npz").unlink()
    exact = ("TRAIN.n_steps_d_first=3", "TRAIN.deterministic=true", "TRAIN.decay_every=1",
             *(f"LOSS.srgan_mse.{loss}=1" for loss in ("l1", "colour", "ldl", "weave")))
    folders = [tmp_path / "at_once", tmp_path / "resumed", tmp_path / "trained_on"]
    for folder in folders:
        folder.mkdir()
    code, output = run(folders[0], *exact, "TRAIN.n_epoch=2", more=["--weights", str(given)])
    assert code == 0 and "with a fresh discriminator" in output, output
    settings = saved_config(folders[0])["TRAIN"]
    assert [settings[name] for name in ("discriminator", "lr_init", "lr_init_d")] == ["unet", 1e-4, 2e-4]

    epochs = "TRAIN.n_epoch=2", "TRAIN.adv_growth=20"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Trainer, "must_stop", lambda trainer: trainer.steps_done() == 9)
        run(folders[1], *exact, *epochs, more=["--weights", str(given)])
    code, output = run(folders[1], *exact, *epochs, fine_tuning=True)
    assert code == 0 and "Resuming" in output and "Changed" not in output, output
    for name in ("g_srgan.npz", "d_srgan.npz"):
        arrays, same = (np.load(folder / "checkpoint" / name) for folder in folders[:2])
        for key in arrays.files:
            np.testing.assert_array_equal(arrays[key], same[key], err_msg=f"{name} {key}")
    code, output = run(folders[1], *exact, "TRAIN.n_epoch=3", "TRAIN.discriminator=own", fine_tuning=True)
    assert code == 2 and "has TRAIN.discriminator=unet, now it is own; set it back" in output, output

    start = str(folders[0] / "checkpoint" / "g_srgan.npz")
    code, output = run(folders[2], "TRAIN.n_epoch=1", more=["--weights", start])
    assert code == 0 and f"Starting from the generator and the discriminator of {start}." in output, output
    settings = saved_config(folders[2])["TRAIN"]
    assert (settings["discriminator"], settings["lr_init"], settings["adv_growth"]) == ("unet", 1e-5, 1)
    code, output = run(folders[2], *exact, "TRAIN.n_epoch=1", "TRAIN.discriminator=own",
                       more=["--weights", start, "--restart"])
    assert code == 0 and "(TRAIN.discriminator is own, and that beside it is unet.)" in output, output


def test_phase_2_without_adv_has_no_discriminator_and_shows_its_own_losses(given, tmp_path, run, monkeypatch):
    monkeypatch.setattr(train.monitor.metrics, "mesh", lambda sr, lr: 2.5)
    given.with_name("d_srgan.npz").unlink()
    code, output = run(tmp_path, "TRAIN.loss=mse", "LOSS.mse.colour=0.5", "TRAIN.n_epoch=1",
                       more=["--weights", str(given)])
    assert code == 0 and "alone" not in output, output
    assert re.search(r"Phase 2, epoch 1/1: mse [\d.]+, colour [\d.]+, [\d.]+ s a step", output), output
    dB = r"[\d.]+ dB"
    assert re.search(f"; PSNR {dB}, at the start {dB}, bicubic {dB}; LR-PSNR {dB}, at the start {dB}$", output, re.M)
    assert re.search("^Smooth areas of samples/srgan_gan/train_g_1.png have a mesh of 2.5 levels", output, re.M), output
