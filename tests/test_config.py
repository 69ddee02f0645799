"""Settings: what config.py may hold, what `--set` may say, and what follows from it."""
import copy
import fnmatch
import re
import subprocess
import sys
import types
from pathlib import Path

from utils import UserError

import pytest
from conftest import ROOT

import config
from config import override, resolve

SOURCE = (ROOT / "config.py").read_text()


@pytest.fixture
def cfg():
    return copy.deepcopy(config.config)


def edited(line, added=False):
    """The settings of a config.py in which `line` replaces the line of its setting, or is the last if there is none."""
    key = line.partition(" = ")[0]
    lines = SOURCE.splitlines()
    place = next((number for number, old in enumerate(lines) if old.startswith(f"{key} = ") and not added), len(lines))
    lines[place:place + 1] = [line]
    module = types.ModuleType("edited")
    exec(compile("\n".join(lines), "config.py", "exec"), module.__dict__)
    module.resolve(module.config)
    return module.config


def test_every_rule_has_a_setting(cfg):
    resolve(cfg)
    keys = config.flatten(cfg)
    assert [pattern for pattern in config.RULES if not fnmatch.filter(keys, pattern)] == []


def test_every_setting_has_its_reason_beside_it():
    values = [line for line in SOURCE.splitlines() if re.match(r"config\.(TRAIN|LOSS|VGG|VALID|RESTORE|MOS)\.", line)]
    assert len(values) > 40 and [line for line in values if "  # " not in line and "_path = " not in line] == []


@pytest.mark.parametrize("line, words", [
    ('config.TRAIN.n_epoch = "5"', "TRAIN.n_epoch takes a whole number, not '5'"),
    ("config.TRAIN.n_epoch = 5,", "remove the comma"),
    ("config.TRAIN.n_epoch = 5.0", "TRAIN.n_epoch takes a whole number, not 5.0"),
    ("config.TRAIN.batch_size = True", "TRAIN.batch_size takes a whole number, not True"),
    ("config.TRAIN.batch_size = 0", "TRAIN.batch_size is 0; it must be at least 1"),
    ("config.TRAIN.deterministic = 1", "TRAIN.deterministic takes true or false"),
    ('config.TRAIN.lr_init = "1e-4"', "TRAIN.lr_init takes a number"),
    ('config.TRAIN.lr_init = float("nan")', "TRAIN.lr_init is nan"),
    ('config.TRAIN.ema_decay = float("inf")', "TRAIN.ema_decay is inf"),
    ("config.TRAIN.beta1 = 1", "TRAIN.beta1 is 1; it must be at least 0 and at most 0.9999"),
    ("config.TRAIN.hr_patch_size = 50", "a multiple of TRAIN.scale, which is 4"),
    ("config.TRAIN.scale = 5", "is one of 2, 3, 4, 8, not 5"),
    ("config.TRAIN.hr_img_path = None", "TRAIN.hr_img_path takes a path"),
    ('config.TRAIN.hr_img_path = ""', "TRAIN.hr_img_path is empty"),
    ('config.TRAIN.checkpoint_path = "gs://bucket/run"', "TRAIN.checkpoint_path is gs://bucket/run, a URL"),
    ('config.TRAIN.schedule_init = "cosin"', "the nearest is cosine"),
    ('config.TRAIN.loss = "vgg54"', "the nearest is srgan_vgg54"),
    ('config.LOSS.srgan_mse = {"w_mse": "1"}', "LOSS.srgan_mse.mse takes a number, not '1'"),
    ('config.TRAIN.degradation = "foto"', "the nearest is photo"),
    ('config.DEGRADATION.mine = {"noise": {"sigma": "1"}}', "DEGRADATION.mine.noise.sigma takes a number or a list"),
    ('config.TRAIN.update(degradation="photo", lr_img_path="lr/")', "leave TRAIN.lr_img_path empty"),
    ("config.TRAIN.batchsize = 8", "no setting TRAIN.batchsize; the nearest is TRAIN.batch_size"),
    ('config.MOS.sets = "samples/Set5/"', "--set MOS.sets.Set5=folder/"),
    ('config.MOS.sets = {"Set5": 5}', "MOS.sets.Set5 takes a path"),
    ('config.TRAIN.n_epoch = Varies(10, demo="2")', "TRAIN.n_epoch takes a whole number, not '2'"),
    ("config.DEMO.n_epoch = 2", "no setting DEMO.n_epoch any more; use its name in TRAIN"),
    ("config.VALID.memory_mb = 200", "no setting VALID.memory_mb any more; use RESTORE.memory_mb"),
])
@pytest.mark.parametrize("added", [False, True])
def test_a_wrong_line_in_config_is_one_sentence(line, words, added):
    if not added and "deterministic" in line:
        return  # in its own place 1 is the default, and as good as True
    with pytest.raises(UserError) as caught:
        edited(line, added)
    assert words in str(caught.value)


def test_lines_of_tensorlayer_srgan_are_understood():
    cfg = edited("config.TRAIN.hr_img_path = '/data/DIV2K_train_HR/'")
    assert (cfg.TRAIN.hr_img_path, cfg.TRAIN.lr_img_path) == ("/data/DIV2K_train_HR/", "")
    assert edited("config.TRAIN.n_epoch = 10").TRAIN.decay_every == 5
    assert edited("config.TRAIN.lr_init = 1").TRAIN.lr_init == 1
    assert edited("config.VGG.path = Path('~/vgg19.npy')").VGG.path == str(Path.home() / "vgg19.npy")
    assert edited("config.TRAIN.img_path = 'your_image_folder/'").TRAIN.hr_img_path == "your_image_folder/"


def test_set_reads_each_kind(cfg):
    override(cfg, ["TRAIN.batch_size=8", "config.TRAIN.lr_init=1e-5", "TRAIN.deterministic=True", "LOSS.mine.w_mse=2",
                   "LOSS.original.vgg:pool4=0", "TRAIN.hr_img_path=~/my photos/", "MOS.sets.Set 5.1=a=b/",
                   "TRAIN.degradation=photo", "DEGRADATION.photo.jpeg.quality=[30, 60]"])
    resolve(cfg)
    assert (cfg.TRAIN.batch_size, cfg.TRAIN.lr_init, cfg.LOSS.original["vgg:pool4"]) == (8, 1e-5, 0)
    assert cfg.DEGRADATION.photo.jpeg == {"probability": 0.9, "quality": [30, 60], "full_colour": 0.5}
    assert cfg.TRAIN.deterministic is True and dict(cfg.LOSS.mine) == {"mse": 2.0}
    assert cfg.TRAIN.hr_img_path == f"{Path.home()}/my photos/" and dict(cfg.MOS.sets) == {"Set 5.1": "a=b/"}


VALUES = {"VALID.precision": "bfloat16", "VALID.back_project": True, "VALID.blend": 0.25, "RESTORE.back_project": False,
          "RESTORE.memory_mb": 200, "TRAIN.lr_init": 1, "TRAIN.batch_size": 16, "TRAIN.n_steps_d_first": 5}


@pytest.mark.parametrize("key", VALUES)
def test_an_edit_does_what_set_does(cfg, key):
    override(cfg, [f"{key}={VALUES[key]}"])
    resolve(cfg)
    for added in (False, True):
        assert edited(f"config.{key} = {VALUES[key]!r}", added) == cfg


@pytest.mark.parametrize("setting, words", [
    ("TRAIN.batch_size", "KEY=VALUE"),
    ("TRAIN.batch_size=many", "TRAIN.batch_size takes a whole number, not 'many'"),
    ("TRAIN.deterministic=maybe", "true or false"),
    ("batch_size=8", "TRAIN.batch_size"),
    ("TRAIN=8", "There is no setting TRAIN;"),
    ("LOSS.original=1", "There is no setting LOSS.original; the nearest is LOSS.original."),
    ("LOSS.original.mse=much", "LOSS.original.mse takes a number, not 'much'"),
    ("MOS.sets=samples/Set5/", "--set MOS.sets.Set5=folder/"),
    ("MOS.methods.=folder/", "--set MOS.methods"),
])
def test_a_wrong_set_is_one_sentence(cfg, setting, words):
    with pytest.raises(UserError) as caught:
        override(cfg, [setting])
    assert words in str(caught.value)


def test_the_rate_falls_at_half_of_the_epochs_wherever_they_are_set(cfg):
    again = copy.deepcopy(cfg)
    override(cfg, ["TRAIN.n_epoch=30"])
    resolve(cfg)
    assert cfg.TRAIN.decay_every == 15
    override(again, ["TRAIN.n_epoch=30", "TRAIN.decay_every=7"])
    resolve(again)
    assert again.TRAIN.decay_every == 7


def test_what_varies_does_so_until_it_is_set(cfg):
    resolve(cfg)
    assert cfg.TRAIN.batch_size == 16 and cfg.DEMO.batch_size == 8 and cfg.DEMO.n_epoch == 2
    assert (cfg.TRAIN.decay_every, cfg.DEMO.decay_every) == (1000, 1)
    assert cfg.FINE_TUNING.n_epoch_init == 0 and "n_epoch" not in cfg.FINE_TUNING
    again = edited("config.TRAIN.batch_size = 16")
    assert again.TRAIN == cfg.TRAIN and "batch_size" not in again.DEMO


def test_settings_and_utils_import_no_tensorflow():
    script = "import utils, config, sys; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
