"""Every setting with its reason. Edit it here, or for one run: `python main.py --set TRAIN.batch_size=8`.

Both do the same. `Varies(16, demo=8)` is a default that differs in the demonstration, which runs until there are photos
to train on, or in fine-tuning, which starts from --weights, or there with a new discriminator, where none lies beside
them. A plain value in its place holds everywhere.
"""
import copy
import fnmatch
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import utils
from utils import UserError, local_path

from easydict import EasyDict as edict

# Where `--mode=download` unpacks DIV2K. While the paths below point there and the folders do not exist, a run is a
# demonstration on a few photos that come with the packages: minutes instead of days.
DIV2K_TRAIN_HR = "DIV2K/DIV2K_train_HR/"
DIV2K_TRAIN_LR = "DIV2K/DIV2K_train_LR_bicubic/X4/"
DIV2K_VALID_HR = "DIV2K/DIV2K_valid_HR/"
DIV2K_VALID_LR = "DIV2K/DIV2K_valid_LR_bicubic/X4/"


class Varies(NamedTuple):
    """A default that differs in the demonstration or in fine-tuning, there also with a new discriminator."""

    usual: float | str
    demo: float | None = None
    fine_tuning: float | None = None
    new_discriminator: float | str | None = None


config = edict()

config.TRAIN = edict()
# data
config.TRAIN.dataset = "folder"  # folder: the photos in hr_img_path; flickr25k: MIRFLICKR-25k, fetched by tensorlayer
config.TRAIN.hr_img_path = DIV2K_TRAIN_HR  # the photos to learn from; any folder of yours will do
config.TRAIN.lr_img_path = DIV2K_TRAIN_LR  # their LR, 0001x4.png for 0001.png, X2/ at scale 2; "": made from HR
config.TRAIN.img_path = ""  # another name for hr_img_path, as in the article: "your_image_folder/"
config.TRAIN.degradation = "bicubic"  # how LR is made from HR: a recipe in config.DEGRADATION; photo for phone photos
config.TRAIN.cache_path = "cache/"  # decoded photos, 3 bytes a pixel (7 GB for DIV2K), so that none is decoded twice
config.TRAIN.patches_per_image = Varies(1, demo=8)  # crops of each photo per epoch; 16 or more for 50 photos
config.TRAIN.hr_patch_size = 96  # as in the paper; the authors of the `tensorlayer` architecture used 384
config.TRAIN.batch_size = Varies(16, demo=8)  # patches per step; halve it if memory runs out

# network
config.TRAIN.scale = 4  # SR has this many times the rows and columns of LR: 2, 3, 4 or 8, whatever --weights had
config.TRAIN.architecture = "paper"  # or tensorlayer, pytorch: for the weights of tensorlayer/srgan, SRGAN-PyTorch
config.TRAIN.discriminator = Varies("own", new_discriminator="unet")  # own: the architecture's; unet: Real-ESRGAN's

# phase 1: the generator alone
config.TRAIN.loss_init = "mse"  # a recipe in config.LOSS, without `adv`
config.TRAIN.n_epoch_init = Varies(100, demo=16, fine_tuning=0)  # 5,000 steps on DIV2K; 100 also at a new scale
config.TRAIN.learning_rate_init = Varies(1e-3, fine_tuning=1e-4)  # the original: constant 1e-4, far slower
config.TRAIN.schedule_init = "cosine"  # cosine: falls to 0 by the end of the phase; constant: as in the original

# phase 2: adversarial
config.TRAIN.n_epoch = Varies(2000, demo=2)  # 100,000 steps on DIV2K
config.TRAIN.lr_init = Varies(1e-4, fine_tuning=1e-5, new_discriminator=1e-4)  # at first; low: keeps what was learnt
config.TRAIN.lr_init_d = Varies(0.0, fine_tuning=1e-4, new_discriminator=2e-4)  # the discriminator's; 0: the same
config.TRAIN.n_steps_d_first = Varies(0, new_discriminator=250)  # the first steps train a new discriminator alone
config.TRAIN.lr_decay = 0.1  # the learning rate is multiplied by this ...
config.TRAIN.decay_every = 0  # ... every so many epochs; 0: once, after half of n_epoch
config.TRAIN.loss = Varies("original", new_discriminator="textures")  # in config.LOSS; srgan_mse needs no VGG19
config.TRAIN.adv_growth = Varies(1.0, new_discriminator=20.0)  # to how many times itself the weight of `adv` grows

# both phases
config.TRAIN.beta1 = 0.9  # first moment of Adam
config.TRAIN.ema_decay = 0.999  # moving average of the generator's weights; the average is what is saved; 0: off
config.TRAIN.save_every = Varies(10, demo=5)  # epochs between two saves; a power cut loses those since the last one
config.TRAIN.keep_best = ""  # psnr, ssim, lr_psnr or niqe: phase 2 also keeps its best weights, g_srgan_best.npz
config.TRAIN.seed = 0  # for weights, crops and order: the same seed gives the same run
config.TRAIN.deterministic = False  # the same run bit for bit on the same machine; slower, above all on a GPU

# what it runs on
config.TRAIN.devices = 0  # how many of this machine's GPUs to use; 0: all. Without a GPU: parts of the CPU
config.TRAIN.precision = "auto"  # auto: bfloat16 on a CPU that has it, else float32; or float32, bfloat16, float16

# where training writes
config.TRAIN.checkpoint_path = "checkpoint/"
config.TRAIN.sample_path = "samples/"

# Recipes: the weight of each loss, by its name in losses.py; what is not named weighs 0. `vgg:conv2_2` compares the
# features of that layer of VGG19, one of pool1 to pool5 or conv1_1 to conv5_4, squared after its ReLU; several may be
# named. `vgg:conv2_2-` takes them before its ReLU, as ESRGAN does, and `vgg_l1:conv2_2-` their absolute difference;
# `vgg_rel:conv2_2-` that in parts of the features' own size, which differs between files of VGG19.
config.LOSS = edict()
config.LOSS.mse = {"mse": 1.0}  # the paper's SRResNet
config.LOSS.original = {"mse": 1.0, "vgg:pool4": 2e-6, "adv": 1e-3}  # tensorlayer/srgan
config.LOSS.srgan_vgg54 = {"vgg:conv5_4": 1 / 12.75 ** 2, "adv": 1e-3}  # the paper's best
config.LOSS.srgan_vgg22 = {"vgg:conv2_2": 1 / 12.75 ** 2, "adv": 1e-3}  # the paper's SRGAN-VGG22
config.LOSS.srgan_mse = {"mse": 1.0, "adv": 1e-3}  # the paper's SRGAN-MSE
config.LOSS.textures = {  # what came out best with a new U-Net
    "colour": 2.0, "ldl": 1.0, "weave": 2.0, "vgg_rel:conv2_2-": 0.01, "vgg_rel:conv3_1-": 0.05, "adv": 0.02}
config.LOSS.real_esrgan = {  # Real-ESRGAN's; its VGG19 has features of another scale, which the paper's 12.75 makes up
    "l1": 0.5, "vgg_l1:conv1_2-": 0.1 / 12.75, "vgg_l1:conv2_2-": 0.1 / 12.75, "vgg_l1:conv3_4-": 1 / 12.75,
    "vgg_l1:conv4_4-": 1 / 12.75, "vgg_l1:conv5_4-": 1 / 12.75, "adv": 0.1}

# Recipes of how LR is made from HR: steps of degradations.py in the order of application, and their parameters. Between
# two numbers a value is drawn. A step is applied with its `probability`, always if that is not given.
config.DEGRADATION = edict()
config.DEGRADATION.bicubic = {}  # shrunk by antialiased bicubic alone, as in the article
config.DEGRADATION.photo = {  # as phones and messengers leave photos; ranges of Real-ESRGAN, their lighter half
    "clean": 0.2,  # share of patches that are shrunk alone, so that clean photos are still restored well
    "blur": {"probability": 0.5, "sigma": [0.2, 2.8], "isotropic": 0.65},  # lenses, focus, moving hands; in HR pixels
    "resize": {"probability": 0.7, "by": [0.5, 1.2], "methods": ["area", "bilinear", "bicubic"], "antialiased": 0.5},
    "shrink": {"methods": ["area", "bilinear", "bicubic"], "antialiased": 0.5},  # programs differ in how they shrink
    "noise": {"probability": 0.5, "sigma": [1, 10], "gray": 0.4},  # sensors; in levels of 255
    "jpeg": {"probability": 0.9, "quality": [40, 95], "full_colour": 0.5}}  # last: shrinking would wash its blocks out
# For VALID.degradation: one kind of photo each.
config.DEGRADATION.jpeg75 = {"jpeg": {"quality": [75, 75]}}
config.DEGRADATION.jpeg60 = {"jpeg": {"quality": [60, 60]}}
config.DEGRADATION.jpeg40 = {"jpeg": {"quality": [40, 40]}}
config.DEGRADATION.noise10 = {"noise": {"sigma": [10, 10]}, "jpeg": {"quality": [90, 90]}}
config.DEGRADATION.messenger = {
    "blur": {"sigma": [1.2, 1.2]}, "shrink": {}, "noise": {"sigma": [4, 4]}, "jpeg": {"quality": [60, 60]}}
config.DEGRADATION.blur2 = {"blur": {"sigma": [2, 2]}, "shrink": {}, "jpeg": {"quality": [95, 95]}}

config.VGG = edict()
config.VGG.path = "vgg19.npy"  # see vgg19.npy.md; without the file Keras downloads its own copy, 80 MB, once

config.VALID = edict()
config.VALID.hr_img_path = DIV2K_VALID_HR  # what --mode=evaluate scores: DIV2K's, or your Set5/, Set14/, BSD100/
config.VALID.lr_img_path = DIV2K_VALID_LR  # their LR, as in TRAIN; "": made from HR
config.VALID.degradation = "bicubic"  # how LR is made from HR, as TRAIN.degradation
config.VALID.scale = 0  # at which scale to score, 2, 3, 4 or 8; 0: that of the weights
config.VALID.n_quick = 5  # photos whose PSNR is measured at each save
config.VALID.n_figures = 3  # photos shown in the comparison figure
config.VALID.blend = 1.0  # below 1, a blend of SRResNet and SRGAN is scored too, as RESTORE.blend makes it
config.VALID.back_project = False  # score SRGAN with the colours of its LR, too
config.VALID.self_ensemble = False  # as RESTORE.self_ensemble
config.VALID.precision = "float32"  # as TRAIN.precision; float32 gives the same numbers on every machine

# Restoring photos (--input) and --mode=export. The last two hold for whatever else reads or upscales images.
config.RESTORE = edict()
config.RESTORE.blend = 1.0  # weights between those of SRResNet (0, faithful) and SRGAN (1, vivid)
config.RESTORE.back_project = True  # give results the colours of their LR
config.RESTORE.self_ensemble = False  # average over the eight flips and turns: eight times the time, 0.2 dB more
config.RESTORE.precision = "auto"  # as TRAIN.precision
config.RESTORE.memory_mb = 500  # memory for the feature maps of a tile; larger tiles are a little faster
config.RESTORE.max_megapixels = 250.0  # larger images are refused, as damaged ones may claim any size; 0: no limit

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

PRESETS = "DEMO", "FINE_TUNING", "NEW_DISCRIMINATOR"
for preset in PRESETS:  # `resolve` puts what varies here
    config[preset] = edict()

DEFAULTS = copy.deepcopy(config)  # lines that you add below this one are checked as those of --set are


class Bounds(NamedTuple):
    """The numbers that a setting takes: whole ones, if `at_least` is one."""

    at_least: float
    at_most: float = math.inf

    def __contains__(self, value):
        return self.at_least <= value <= self.at_most and math.isfinite(value)

    def __str__(self):
        at_most = f" and at most {self.at_most:.10g}" if self.at_most < math.inf else ""
        return f"at least {self.at_least:.10g}{at_most}"


# A setting is of the kind of its default: true or false, a whole number, a number or text. Here is what narrows that:
# bounds, choices, or the section whose names are the choices. Other numbers are at least 0.
RULES: dict[str, Bounds | tuple | str] = {
    "TRAIN.dataset": ("folder", "flickr25k"),
    "TRAIN.scale": (2, 3, 4, 8),
    "VALID.scale": (0, 2, 3, 4, 8),
    "TRAIN.architecture": ("paper", "tensorlayer", "pytorch"),
    "TRAIN.discriminator": ("own", "unet"),
    "TRAIN.schedule_init": ("cosine", "constant"),
    "TRAIN.loss*": "LOSS",
    "TRAIN.keep_best": ("", "psnr", "ssim", "lr_psnr", "niqe"),
    "*.degradation": "DEGRADATION",
    "*.precision": ("auto", "float32", "bfloat16", "float16"),
    "TRAIN.patches_per_image": Bounds(1),
    "TRAIN.hr_patch_size": Bounds(16),
    "TRAIN.batch_size": Bounds(1),
    "TRAIN.save_every": Bounds(1),
    "TRAIN.seed": Bounds(0, 2 ** 32 - 1),
    "*.n_*": Bounds(0),
    "TRAIN.lr_*": Bounds(0.0),
    "TRAIN.learning_rate_*": Bounds(0.0),
    "TRAIN.adv_growth": Bounds(1.0),
    "TRAIN.beta1": Bounds(0.0, 0.9999),
    "TRAIN.ema_decay": Bounds(0.0, 0.999999),
    "LOSS.*": Bounds(0.0),
    "*.blend": Bounds(0.0, 1.0),
    "RESTORE.memory_mb": Bounds(1),
    "MOS.repeat": Bounds(0.0, 1.0),
}
PATHS = ("*path", "MOS.sets.*", "MOS.methods.*")
MAY_BE_EMPTY = ("TRAIN.lr_img_path", "TRAIN.img_path", "VALID.lr_img_path", "MOS.calibration_path")
OPEN = ("LOSS.?*.?*", "DEGRADATION.?*.?*", "MOS.sets.?*", "MOS.methods.?*")  # settings that the user names
RENAMED = {
    "TRAIN.mixed_precision": "TRAIN.precision (float16 instead of true, float32 instead of false)",
    "VALID.memory_mb": "RESTORE.memory_mb",
    "VALID.max_megapixels": "RESTORE.max_megapixels",
    "DEMO.*": "its name in TRAIN, which holds in the demonstration too",
    "FINE_TUNING.*": "its name in TRAIN, which holds in fine-tuning too",
}
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path, such as folder/",
         list: "a number or a list, such as [40, 95]"}


def _matching(key, patterns):
    return next((pattern for pattern in patterns if fnmatch.fnmatchcase(key, pattern)), None)


def _kind_and_rule(key):
    """The kind of a setting, a key of KINDS, and what narrows it."""
    if _matching(key, PATHS):
        return Path, None
    if key.startswith("DEGRADATION."):  # degradations.py knows what each step takes
        return list, None
    if _matching(key, ["LOSS.*.vgg_layer"]):  # of earlier versions, see `_renamed_losses`
        return str, None
    if rule := RULES.get(_matching(key, RULES)):
        return type(rule[0]), rule
    default = flatten(DEFAULTS).get(key)
    kind = type(default.usual if isinstance(default, Varies) else default)
    return kind if kind in KINDS else str, Bounds(0) if kind in (int, float) else None


def _walk(section: dict, prefix: str = "") -> Iterator[tuple[dict, str, str]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield section, name, f"{prefix}{name}"


def flatten(cfg: dict) -> dict[str, Any]:
    """All settings by their full names, `{"TRAIN.seed": 0, ...}`."""
    return {key: section[name] for section, name, key in _walk(cfg)}


def override(cfg: edict, settings: Iterable[str]) -> None:
    """Change settings of `cfg` in place, as `--set` does.

    settings: strings `KEY=VALUE`, such as `TRAIN.batch_size=8`.
    Raises UserError for a key that does not exist, naming the nearest, and for a value of another kind.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.removeprefix("config.")
        if not equals:
            raise UserError(f"--set {setting} has no value; write KEY=VALUE, such as TRAIN.batch_size=8.")
        _check_name(key)
        *sections, name = key.split(".", 2 if key.startswith("MOS.") else -1)  # a test set may be called Set 5.1
        section = cfg
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = _parse(key, text)


def _parse(key, text):
    kind, _ = _kind_and_rule(key)
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind is list:
            return json.loads(text)
        return kind(text) if kind in (int, float) else text
    except (KeyError, ValueError):
        raise _wrong_kind(key, text) from None


def _check_name(key):
    known = flatten(DEFAULTS)
    section = ".".join(key.split(".")[:2])
    if section in ("MOS.sets", "MOS.methods") and not _matching(key, OPEN):
        raise UserError(f"{section} takes folders by name: --set {section}.Set5=folder/, or in config.py "
                        f'config.{section} = {{"Set5": "folder/"}}.')
    if old := _matching(key, RENAMED):
        raise UserError(f"There is no setting {key} any more; use {RENAMED[old]}.")
    if key not in known and not _matching(key, OPEN):
        same_name = [other for other in known if other.split(".")[-1] == key.split(".")[-1]]
        nearest = same_name[0] if same_name else utils.nearest(key, known)
        raise UserError(f"There is no setting {key}; the nearest is {nearest} (all of them are in config.py).")


def _wrong_kind(key, value):
    comma = " (remove the comma at the end of its line)" if isinstance(value, tuple) and len(value) == 1 else ""
    takes = KINDS[_kind_and_rule(key)[0]]
    return UserError(f"{key} takes {takes}, not {value!r}{comma}; correct it in config.py or by --set.")


def _checked(key, value, cfg):
    kind, rule = _kind_and_rule(key)
    if kind is Path and isinstance(value, os.PathLike):
        value = os.fspath(value)
    kinds = {float: (int, float), Path: str, list: (list, tuple, int, float)}.get(kind, kind)
    if not isinstance(value, kinds) or isinstance(value, bool) != (kind is bool):
        raise _wrong_kind(key, value)
    if kind is Path:
        if not (value or key in MAY_BE_EMPTY):
            raise UserError(f"{key} is empty; set it to a path, such as folder/.")
        return local_path(value, key)
    allowed = cfg[rule] if isinstance(rule, str) else rule
    if not allowed or value in allowed:
        return value
    if isinstance(rule, Bounds):
        raise UserError(f"{key} is {value}; it must be {rule}.")
    nearest = f"; the nearest is {utils.nearest(value, allowed)}" if kind is str else ""
    raise UserError(f"{key} is one of {', '.join(filter(None, map(str, allowed)))}, not {value!r}{nearest}.")


def _renamed_losses(item):
    """Name and recipe, whose losses have their names of today; earlier versions had w_mse, w_vgg, vgg_layer, w_adv."""
    title, recipe = item
    if not isinstance(recipe, dict):
        return item
    renamed = {{"w_mse": "mse", "w_adv": "adv"}.get(name, name): weight for name, weight in recipe.items()}
    if not {"w_vgg", "vgg_layer"} & set(renamed):
        return title, renamed
    named = next((name for name in renamed if name.startswith("vgg:")), "vgg:pool4")
    weight = renamed.pop(named, 0.0)
    layer, weight = renamed.pop("vgg_layer", named.removeprefix("vgg:")), renamed.pop("w_vgg", weight)
    return title, {**renamed, f"vgg:{layer}": weight}


def resolve(cfg: edict) -> None:
    """Check all settings and fill in, in place, those that follow from others. Raises UserError.

    `cfg.DEMO` and the other PRESETS then hold the settings of TRAIN that are others there.
    """
    cfg.LOSS.update(map(_renamed_losses, cfg.LOSS.items()))
    for section, name, key in list(_walk(cfg)):
        _check_name(key)
        value = section[name]
        if isinstance(value, Varies):
            for preset in PRESETS:
                if (other := getattr(value, preset.lower())) is not None:
                    cfg[preset][name] = _checked(key, other, cfg)
            value = value.usual
        section[name] = _checked(key, value, cfg)
    if cfg.TRAIN.hr_patch_size % cfg.TRAIN.scale:
        raise UserError(f"TRAIN.hr_patch_size is {cfg.TRAIN.hr_patch_size}; it must be a multiple of TRAIN.scale, "
                        f"which is {cfg.TRAIN.scale}.")
    if cfg.TRAIN.img_path:
        cfg.TRAIN.hr_img_path = cfg.TRAIN.img_path
    for name in ("TRAIN", "VALID"):
        part = cfg[name]
        makes_lr = part.degradation != "bicubic"
        if is_div2k(part.lr_img_path) and (makes_lr or not is_div2k(part.hr_img_path)):
            part.lr_img_path = ""  # another folder's photos have no partners in DIV2K
        if makes_lr and part.lr_img_path:
            raise UserError(f"{name}.degradation={part.degradation} makes LR from HR, but {name}.lr_img_path names LR; "
                            f"leave {name}.lr_img_path empty, or {name}.degradation at bicubic.")
    if not cfg.TRAIN.decay_every:
        for part in (cfg.TRAIN, *map(cfg.get, PRESETS)):
            if "n_epoch" in part:
                part.decay_every = max(1, part.n_epoch // 2)


def is_div2k(path: str) -> bool:
    """Whether a path is one of the default ones, to which DIV2K is unpacked."""
    return Path(path) in map(Path, (DIV2K_TRAIN_HR, DIV2K_TRAIN_LR, DIV2K_VALID_HR, DIV2K_VALID_LR))


def log_config(filename: str | Path, cfg: dict) -> None:
    """Write settings to `filename` as JSON."""
    Path(filename).write_text(json.dumps(cfg, indent=4) + "\n", encoding="utf-8")
