"""Full disks, damaged files, settings and photos that change: nothing that was trained is lost, and it is said."""
import copy
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import small
from PIL import Image
from test_train import SCHEDULE, SMALL, contents, read_until, start

import main
import train

SHORT = tuple(setting for setting in SCHEDULE if setting != "TRAIN.deterministic=true")
ONE_PHASE = ("TRAIN.n_epoch=0", "TRAIN.n_epoch_init=2")


@pytest.fixture
def run(monkeypatch, capsys):
    """As a user's run in a folder, without the seconds that a new process takes; gives the exit code and what was printed."""
    before = copy.deepcopy(main.config)
    for replaced in small.REPLACED:
        monkeypatch.setitem(*replaced)

    def call(folder, *settings, more=()):
        monkeypatch.chdir(folder)
        arguments = main.parse_arguments([*SHORT, *settings, *more])
        try:
            code = main.main(arguments)
        finally:
            for section in before:
                main.config[section].clear()
                main.config[section].update(copy.deepcopy(before[section]))
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
    assert code == 0 and "Resuming the training in checkpoint/: phase 1, 1 epochs" in output, output
    assert "state-2 is damaged" in output or "state-2.data-00000-of-00001 has no index" in output


@pytest.mark.parametrize("damage, end", DAMAGE)
def test_of_states_that_are_all_damaged_none_is_begun_anew(trained, run, damage, end):
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
    code, output = run(trained, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=3")
    assert code == 0 and "phase 1, 2 epochs" in output


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
        ["unshare", "-rm", "sh", "-c", FULL_DISK, "sh", str(free), sys.executable, SMALL, *SHORT, "TRAIN.n_epoch=0",
         "TRAIN.n_epoch_init=3"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "free space" in done.stderr and "Traceback" not in done.stderr, done.stdout + done.stderr
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
    assert code == 2 and f"Phase {phase}, step " in output and "the loss mse is " in output and f"lower {rate}." in output, output
    after = contents(trained)
    assert all(after[name] == before[name] for name in before)


def test_weights_that_are_not_finite_are_not_saved_though_the_loss_still_is(trained, run, monkeypatch):
    before = contents(trained)
    end_epoch = train.Trainer.end_epoch

    def spoil(self, *arguments):
        self.generator.get_layer("head_conv").bias.assign(np.full(64, np.nan))
        end_epoch(self, *arguments)

    monkeypatch.setattr(train.Trainer, "end_epoch", spoil)
    code, output = run(trained, "TRAIN.n_epoch=0", "TRAIN.n_epoch_init=3")
    assert code == 2 and "head_conv/bias holds a value that is not a finite number" in output, output
    assert contents(trained) == before


def test_photos_that_come_and_go_are_told_and_changed_settings_listed_or_refused(tmp_path, run):
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
    code, output = run(tmp_path, *settings, "TRAIN.n_epoch_init=3", "TRAIN.learning_rate_init=0.0002", "TRAIN.batch_size=2",
                       "TRAIN.cache_path=elsewhere/", "TRAIN.sample_path=pictures/")
    changed, = (line for line in output.splitlines() if line.startswith("Changed since the last run: "))
    for change in ("TRAIN.hr_img_path photos/ -> moved/", "TRAIN.n_epoch_init 2 -> 3", "TRAIN.batch_size 4 -> 2",
                   "TRAIN.learning_rate_init 0.001 -> 0.0002", "TRAIN.cache_path cache/ -> elsewhere/",
                   "TRAIN.sample_path samples/ -> pictures/"):
        assert change in changed
    assert code == 0 and (tmp_path / "pictures" / "srgan_ginit" / "train_g_init_3.png").exists(), output

    before = contents(tmp_path)
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
    assert code == 0 and "Resuming the training in checkpoint/: phase 1, 2 epochs" in output, output
    assert len(list((trained / "cache").rglob("*.rgb"))) == 9
