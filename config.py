"""Every setting with its reason. Edit it here, or for one run: `python main.py --set TRAIN.batch_size=8`."""
import difflib
import fnmatch
import functools
import json
import operator
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from utils import UserError, local_path

from easydict import EasyDict as edict

# Where `--mode=download` unpacks DIV2K. While the paths below point there and the folders do not exist, a run is a
# demonstration on a few photos that come with the packages (see DEMO).
DIV2K_TRAIN_HR = "DIV2K/DIV2K_train_HR/"
DIV2K_TRAIN_LR = "DIV2K/DIV2K_train_LR_bicubic/X4/"
DIV2K_VALID_HR = "DIV2K/DIV2K_valid_HR/"
DIV2K_VALID_LR = "DIV2K/DIV2K_valid_LR_bicubic/X4/"

config = edict()

config.TRAIN = edict()
# data
config.TRAIN.dataset = "folder"  # folder: the photos in hr_img_path; flickr25k: MIRFLICKR-25k, fetched by tensorlayer
config.TRAIN.hr_img_path = DIV2K_TRAIN_HR  # the photos to learn from; any folder of yours will do
config.TRAIN.lr_img_path = DIV2K_TRAIN_LR  # the same photos at a quarter, 0001x4.png for 0001.png; "": made from HR
config.TRAIN.img_path = ""  # another name for hr_img_path, as in the article: "your_image_folder/"
config.TRAIN.cache_path = "cache/"  # decoded photos, 3 bytes a pixel (7 GB for DIV2K), so that none is decoded twice
config.TRAIN.patches_per_image = 1  # crops taken from each photo per epoch; 16 or more for a folder of 50 photos
config.TRAIN.hr_patch_size = 96  # as in the paper; the authors of the `tensorlayer` architecture used 384
config.TRAIN.batch_size = 16  # patches per step; halve it if memory runs out

# network
config.TRAIN.architecture = "paper"  # or tensorlayer, pytorch: for the weights of tensorlayer/srgan, SRGAN-PyTorch

# phase 1: the generator alone, mean squared error
config.TRAIN.n_epoch_init = 100  # 5,000 steps on DIV2K
config.TRAIN.learning_rate_init = 1e-3  # with the cosine schedule, far faster than the original's constant 1e-4
config.TRAIN.schedule_init = "cosine"  # cosine: falls to 0 by the end of the phase; constant: as in the original

# phase 2: adversarial
config.TRAIN.n_epoch = 2000  # 100,000 steps on DIV2K
config.TRAIN.lr_init = 1e-4  # learning rate at the start of the phase
config.TRAIN.lr_init_d = 0.0  # the discriminator's; 0: the same
config.TRAIN.n_steps_d_first = 0  # the phase's first steps, which train a new discriminator alone
config.TRAIN.lr_decay = 0.1  # the learning rate is multiplied by this ...
config.TRAIN.decay_every = 0  # ... every so many epochs; 0: once, after half of n_epoch
config.TRAIN.loss = "original"  # one of the recipes in config.LOSS; srgan_mse needs no VGG19

# both phases
config.TRAIN.beta1 = 0.9  # first moment of Adam
config.TRAIN.ema_decay = 0.999  # moving average of the generator's weights; the average is what is saved; 0: off
config.TRAIN.save_every = 10  # epochs between two saves; a power cut loses what was trained since the last one
config.TRAIN.seed = 0  # for weights, crops and order: the same seed gives the same run
config.TRAIN.deterministic = False  # the same run bit for bit on the same machine; slower, above all on a GPU

# what it runs on
config.TRAIN.devices = 0  # how many of this machine's GPUs to use; 0: all. Without a GPU: parts of the CPU
config.TRAIN.precision = "auto"  # auto: bfloat16 on a CPU that has it, else float32; or float32, bfloat16, float16

# where training writes
config.TRAIN.checkpoint_path = "checkpoint/"
config.TRAIN.sample_path = "samples/"

# Weights of the three losses of phase 2, and the VGG19 layer whose features the perceptual loss compares.
config.LOSS = edict()
config.LOSS.original = {"w_mse": 1.0, "w_vgg": 2e-6, "vgg_layer": "pool4", "w_adv": 1e-3}  # tensorlayer/srgan
config.LOSS.srgan_vgg54 = {  # the paper's best
    "w_mse": 0.0, "w_vgg": 1 / 12.75 ** 2, "vgg_layer": "conv5_4", "w_adv": 1e-3}
config.LOSS.srgan_vgg22 = {  # the paper's SRGAN-VGG22
    "w_mse": 0.0, "w_vgg": 1 / 12.75 ** 2, "vgg_layer": "conv2_2", "w_adv": 1e-3}
config.LOSS.srgan_mse = {"w_mse": 1.0, "w_vgg": 0.0, "vgg_layer": "pool4", "w_adv": 1e-3}  # the paper's SRGAN-MSE

config.VGG = edict()
config.VGG.path = "vgg19.npy"  # see vgg19.npy.md; without the file Keras downloads its own copy, 80 MB, once

config.VALID = edict()
config.VALID.hr_img_path = DIV2K_VALID_HR  # what --mode=evaluate scores: DIV2K's, or your Set5/, Set14/, BSD100/
config.VALID.lr_img_path = DIV2K_VALID_LR  # the same at a quarter; "": made from HR
config.VALID.n_quick = 5  # photos whose PSNR is measured at each save
config.VALID.n_figures = 3  # photos shown in the comparison figure
config.VALID.memory_mb = 500  # memory for the feature maps of a tile; larger tiles are a little faster
config.VALID.max_megapixels = 250  # larger images are refused, as damaged ones may claim any size; 0: no limit
config.VALID.precision = "auto"  # as TRAIN.precision; scoring computes in float32 unless this is given by --set
config.VALID.back_project = True  # give results the colours of their LR; scoring does so only if given by --set
config.VALID.self_ensemble = False  # average over the eight flips and turns: eight times the time, 0.2 dB more
config.VALID.blend = 1.0  # weights between those of SRResNet (0, faithful) and SRGAN (1, vivid)

# The study in which people rate pictures from 1 to 5 (--mode=mos), as in the paper's section 3.3.
config.MOS = edict()
config.MOS.sets = {}  # {"Set5": "samples/Set5/"}: folders that --mode=evaluate wrote; {}: samples/evaluate/
config.MOS.methods = {}  # {"bicubic++": "folder/"}: other programs' results, <image>.png in folder/<set>/ or folder/
config.MOS.calibration_path = ""  # photos that show what 1 and 5 mean; "": images of the sets, which are then not rated
config.MOS.n_calibration = 20  # how many, as in the paper; at most a fifth of the sets' own images
config.MOS.repeat = 0.1  # share of the pictures shown twice, to see whether raters agree with themselves
config.MOS.path = "samples/mos/"  # the study, its key and its results

config.DOWNLOAD = edict()
config.DOWNLOAD.url = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"  # of --mode=download: DIV2K's own server, or a mirror

# Settings of TRAIN in the demonstration on the photos that come with the packages: minutes instead of days.
config.DEMO = edict()
config.DEMO.batch_size = 8
config.DEMO.patches_per_image = 8
config.DEMO.n_epoch_init = 16
config.DEMO.n_epoch = 2
config.DEMO.save_every = 5

# Settings of TRAIN in a training that starts from --weights: it begins in phase 2, at a lower rate.
config.FINE_TUNING = edict()
config.FINE_TUNING.n_epoch_init = 0
config.FINE_TUNING.learning_rate_init = 1e-4
config.FINE_TUNING.lr_init = 1e-5  # the generator keeps what it has learnt
config.FINE_TUNING.lr_init_d = 1e-4  # and the discriminator keeps up with it
config.FINE_TUNING.n_steps_d_first = 600  # by then it tells HR from the SR of a trained generator


class Rule(NamedTuple):
    """The values that a setting takes."""

    kind: type  # Path: text that is a path on this machine
    at_least: float = 0  # of numbers
    at_most: float = sys.float_info.max
    multiple_of: int | None = None
    choices: tuple[str, ...] = ()
    section: str = ""  # the choices are the names in this section
    may_be_empty: bool = False  # of paths


# A row for each setting above, `*` being any name. DEMO.batch_size takes what TRAIN.batch_size takes.
RULES = {
    "TRAIN.dataset": Rule(str, choices=("folder", "flickr25k")),
    "TRAIN.hr_img_path": Rule(Path),
    "TRAIN.lr_img_path": Rule(Path, may_be_empty=True),
    "TRAIN.img_path": Rule(Path, may_be_empty=True),
    "TRAIN.cache_path": Rule(Path),
    "TRAIN.patches_per_image": Rule(int, at_least=1),
    "TRAIN.hr_patch_size": Rule(int, at_least=16, multiple_of=4),
    "TRAIN.batch_size": Rule(int, at_least=1),
    "TRAIN.architecture": Rule(str, choices=("paper", "tensorlayer", "pytorch")),
    "TRAIN.n_epoch_init": Rule(int),
    "TRAIN.learning_rate_init": Rule(float),
    "TRAIN.schedule_init": Rule(str, choices=("cosine", "constant")),
    "TRAIN.n_epoch": Rule(int),
    "TRAIN.lr_init": Rule(float),
    "TRAIN.lr_init_d": Rule(float),
    "TRAIN.n_steps_d_first": Rule(int),
    "TRAIN.lr_decay": Rule(float),
    "TRAIN.decay_every": Rule(int),
    "TRAIN.loss": Rule(str, section="LOSS"),
    "TRAIN.beta1": Rule(float, at_most=0.9999),
    "TRAIN.ema_decay": Rule(float, at_most=0.999999),
    "TRAIN.save_every": Rule(int, at_least=1),
    "TRAIN.seed": Rule(int, at_most=2 ** 32 - 1),
    "TRAIN.deterministic": Rule(bool),
    "TRAIN.devices": Rule(int),
    "TRAIN.precision": Rule(str, choices=("auto", "float32", "bfloat16", "float16")),
    "TRAIN.checkpoint_path": Rule(Path),
    "TRAIN.sample_path": Rule(Path),
    "LOSS.*.w_mse": Rule(float),
    "LOSS.*.w_vgg": Rule(float),
    "LOSS.*.vgg_layer": Rule(str),
    "LOSS.*.w_adv": Rule(float),
    "VGG.path": Rule(Path),
    "VALID.hr_img_path": Rule(Path),
    "VALID.lr_img_path": Rule(Path, may_be_empty=True),
    "VALID.n_quick": Rule(int),
    "VALID.n_figures": Rule(int),
    "VALID.memory_mb": Rule(int, at_least=1),
    "VALID.max_megapixels": Rule(float),
    "VALID.precision": Rule(str, choices=("auto", "float32", "bfloat16", "float16")),
    "VALID.back_project": Rule(bool),
    "VALID.self_ensemble": Rule(bool),
    "VALID.blend": Rule(float, at_most=1),
    "MOS.sets.*": Rule(Path),
    "MOS.methods.*": Rule(Path),
    "MOS.calibration_path": Rule(Path, may_be_empty=True),
    "MOS.n_calibration": Rule(int),
    "MOS.repeat": Rule(float, at_most=1),
    "MOS.path": Rule(Path),
    "DOWNLOAD.url": Rule(str),
}
PRESETS = ("DEMO", "FINE_TUNING")  # sections that may replace settings of TRAIN
RENAMED = {"TRAIN.mixed_precision": "TRAIN.precision (float16 instead of true, float32 instead of false)"}
OPEN = ("MOS.sets", "MOS.methods")  # sections in which the user chooses the names
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path, such as folder/"}


def rule_of(key: str) -> Rule | None:
    """The row of RULES that describes a setting."""
    section, _, name = key.partition(".")
    key = f"TRAIN.{name}" if section in PRESETS else key
    return next((rule for pattern, rule in RULES.items() if fnmatch.fnmatchcase(key, pattern)), None)


def _walk(section: dict, prefix: str = "") -> Iterator[tuple[dict, str, str]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield section, name, f"{prefix}{name}"


def flatten(cfg: dict) -> dict[str, Any]:
    """All settings by their full names, `{"TRAIN.batch_size": 16, ...}`."""
    return {key: section[name] for section, name, key in _walk(cfg)}


def override(cfg: edict, settings: Iterable[str]) -> set[str]:
    """Change settings of `cfg` in place, as `--set` does. Returns their names.

    settings: strings `KEY=VALUE`, such as `TRAIN.batch_size=8`.
    Raises UserError for a key that does not exist, naming the nearest, and for a value of another kind.
    """
    known = flatten(cfg)
    given = set()
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.removeprefix("config.")
        if not equals:
            raise UserError(f"--set {setting} has no value; write KEY=VALUE, such as TRAIN.batch_size=8.")
        section = next((section for section in OPEN if f"{key}.".startswith(f"{section}.")), key.rpartition(".")[0])
        name = key[len(section) + 1:]
        if section in OPEN and not name:
            raise _names_missing(section)
        if section not in OPEN and key not in known:
            raise _unknown(key, known)
        functools.reduce(operator.getitem, section.split("."), cfg)[name] = _parse(key, text)
        given.add(key)
    return given


def _parse(key, text):
    kind = rule_of(key).kind
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return kind(text) if kind in (int, float) else text
    except (KeyError, ValueError):
        raise _wrong_kind(key, text) from None


def _unknown(key, known):
    if key in RENAMED:
        return UserError(f"There is no setting {key} any more; use {RENAMED[key]}.")
    same_name = [other for other in known if other.split(".")[-1] == key.split(".")[-1]]
    nearest = (same_name or difflib.get_close_matches(key, known, n=1, cutoff=0))[0]
    return UserError(f"There is no setting {key}; the nearest is {nearest} (all of them are in config.py).")


def _wrong_kind(key, value):
    comma = " (remove the comma at the end of its line)" if isinstance(value, tuple) and len(value) == 1 else ""
    takes = KINDS[rule_of(key).kind]
    return UserError(f"{key} takes {takes}, not {value!r}{comma}; correct it in config.py or by --set.")


def _names_missing(section):
    return UserError(f"{section} takes folders by name: --set {section}.Set5=folder/, or in config.py "
                     f'config.{section} = {{"Set5": "folder/"}}.')


def _checked(key, value, cfg):
    rule = rule_of(key)
    if key in OPEN:
        raise _names_missing(key)
    if not rule:
        raise _unknown(key, [pattern for pattern in RULES if "*" not in pattern])
    if rule.kind is Path and isinstance(value, os.PathLike):
        value = os.fspath(value)
    kinds = {float: (int, float), Path: str}.get(rule.kind, rule.kind)
    if not isinstance(value, kinds) or isinstance(value, bool) != (rule.kind is bool):
        raise _wrong_kind(key, value)
    fits = rule.kind not in (int, float) or rule.at_least <= value <= rule.at_most
    if not fits or (rule.multiple_of and value % rule.multiple_of):
        at_most = f" and at most {rule.at_most}" if rule.at_most < sys.float_info.max else ""
        multiple = f", a multiple of {rule.multiple_of}" if rule.multiple_of else ""
        raise UserError(f"{key} is {value}; it must be at least {rule.at_least}{at_most}{multiple}.")
    choices = tuple(cfg[rule.section]) if rule.section else rule.choices
    if choices and value not in choices:
        nearest = difflib.get_close_matches(value, choices, n=1, cutoff=0)[0]
        raise UserError(f"{key} is one of {', '.join(choices)}, not {value!r}; the nearest is {nearest}.")
    if rule.kind is Path:
        if not (value or rule.may_be_empty):
            raise UserError(f"{key} is empty; set it to a path, such as folder/.")
        return local_path(value, key)
    return value


def resolve(cfg: edict) -> None:
    """Check all settings and fill in, in place, those that follow from others. Raises UserError."""
    known = {*flatten(cfg), *(f"MOS.{name}" for name in cfg.MOS)}
    for key in [*RULES, *OPEN]:
        section, star, rest = key.partition(".*")
        names = [name for name, value in cfg.get(section, {}).items() if isinstance(value, dict)] if rest else []
        for name in [f"{section}.{name}{rest}" for name in names] if star else [key]:
            if name not in known:
                raise UserError(f"config.{name} is missing in config.py; put its line back.")
    for section, name, key in _walk(cfg):
        section[name] = _checked(key, section[name], cfg)
    if cfg.TRAIN.img_path:
        cfg.TRAIN.hr_img_path = cfg.TRAIN.img_path
    for part in (cfg.TRAIN, cfg.VALID):
        if is_div2k(part.lr_img_path) and not is_div2k(part.hr_img_path):
            part.lr_img_path = ""  # another folder's photos have no partners in DIV2K
    cfg.TRAIN.decay_every = cfg.TRAIN.decay_every or max(1, cfg.TRAIN.n_epoch // 2)


def use_preset(cfg: edict, preset: str, given: set[str]) -> None:
    """Put the settings of the section `preset` in place of TRAIN's, except those `given` for this run."""
    settings = {name: value for name, value in cfg[preset].items() if f"TRAIN.{name}" not in given}
    cfg.TRAIN.update(settings)
    if "n_epoch" in settings and "TRAIN.decay_every" not in given:
        cfg.TRAIN.decay_every = max(1, cfg.TRAIN.n_epoch // 2)


def is_div2k(path: str) -> bool:
    """Whether a path is one of the default ones, to which DIV2K is unpacked."""
    return Path(path) in map(Path, (DIV2K_TRAIN_HR, DIV2K_TRAIN_LR, DIV2K_VALID_HR, DIV2K_VALID_LR))


def log_config(filename: str | Path, cfg: dict) -> None:
    """Write settings to `filename` as JSON."""
    Path(filename).write_text(json.dumps(cfg, indent=4) + "\n")
