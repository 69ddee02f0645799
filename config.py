"""Every setting, once, with its reason. Edit it here, or for one run: `python main.py --set TRAIN.batch_size=8`."""
import difflib
import json
import re
from pathlib import Path

from easydict import EasyDict as edict

# Where `--mode=download` unpacks DIV2K. While a path below still has its value from here and the folder does not
# exist, a run shows what it does on a few photos that come with the packages (see DEMO).
DIV2K_TRAIN_HR = "DIV2K/DIV2K_train_HR/"
DIV2K_TRAIN_LR = "DIV2K/DIV2K_train_LR_bicubic/X4/"
DIV2K_VALID_HR = "DIV2K/DIV2K_valid_HR/"
DIV2K_VALID_LR = "DIV2K/DIV2K_valid_LR_bicubic/X4/"

config = edict()

config.TRAIN = edict()
# data
config.TRAIN.dataset = "folder"  # folder: the photos of hr_img_path; flickr25k: MIRFLICKR-25k, fetched by tensorlayer
config.TRAIN.hr_img_path = DIV2K_TRAIN_HR  # the photos to learn from; any folder of yours will do
config.TRAIN.lr_img_path = DIV2K_TRAIN_LR  # the same photos at a quarter, 0001x4.png for 0001.png; "": made from hr_img_path
config.TRAIN.img_path = ""  # "your_image_folder/" means hr_img_path, as the article says it
config.TRAIN.cache_path = "cache/"  # decoded photos, 3 bytes a pixel (7 GB for DIV2K), so that no file is decoded twice
config.TRAIN.patches_per_image = 1  # crops that a photo gives per epoch; a folder of 50 photos wants 16 or more
config.TRAIN.hr_patch_size = 96  # the paper's; the authors of the `tensorlayer` architecture took 384
config.TRAIN.batch_size = 16  # patches per step; halve it where memory runs out

# network
config.TRAIN.architecture = "paper"  # paper: the article's; tensorlayer: that of tensorlayer/srgan and its weights

# phase 1, generator alone by mean squared error
config.TRAIN.n_epoch_init = 100  # 5,000 steps on DIV2K
config.TRAIN.learning_rate_init = 1e-3  # with the cosine it learns far faster than the original's constant 1e-4
config.TRAIN.schedule_init = "cosine"  # cosine: falls to 0 at the end of the phase; constant: as the original

# phase 2, adversarial
config.TRAIN.n_epoch = 2000  # 100,000 steps on DIV2K
config.TRAIN.lr_init = 1e-4  # learning rate at the beginning of the phase
config.TRAIN.lr_decay = 0.1  # what it is multiplied by ...
config.TRAIN.decay_every = max(1, config.TRAIN.n_epoch // 2)  # ... after so many epochs; follows an n_epoch given by --set
config.TRAIN.loss = "original"  # original, srgan_vgg54 or srgan_mse: a recipe of config.LOSS; srgan_mse needs no VGG19

# both phases
config.TRAIN.beta1 = 0.9  # first moment of Adam
config.TRAIN.ema_decay = 0.999  # moving average of the generator's weights, the ones that are written; 0: off
config.TRAIN.save_every = 10  # epochs between two saves; what was trained since the last one is lost by a power cut
config.TRAIN.seed = 0  # of weights, crops and order: the same seed gives the same run
config.TRAIN.deterministic = False  # bit for bit the same run on the same machine; slower, above all on a GPU

# what it runs on
config.TRAIN.devices = 0  # GPUs to use, of those in this machine; 0: all. Without a GPU: parts of the CPU, to try it out
config.TRAIN.mixed_precision = False  # compute in float16, for a GPU with tensor cores; slower on a CPU

# where training writes
config.TRAIN.checkpoint_path = "checkpoint/"
config.TRAIN.sample_path = "samples/"

# Weights of the three losses of phase 2 and the layer of VGG19 that the perceptual one looks at.
config.LOSS = edict()
config.LOSS.original = {"w_mse": 1.0, "w_vgg": 2e-6, "vgg_layer": "pool4", "w_adv": 1e-3}  # tensorlayer/srgan
config.LOSS.srgan_vgg54 = {"w_mse": 0.0, "w_vgg": 1 / 12.75 ** 2, "vgg_layer": "conv5_4", "w_adv": 1e-3}  # the paper's best
config.LOSS.srgan_mse = {"w_mse": 1.0, "w_vgg": 0.0, "vgg_layer": "pool4", "w_adv": 1e-3}  # the paper's SRGAN-MSE

config.VGG = edict()
config.VGG.path = "vgg19.npy"  # see vgg19.npy.md; without the file Keras downloads its own copy, 80 MB, once

config.VALID = edict()
config.VALID.hr_img_path = DIV2K_VALID_HR  # what --mode=evaluate scores: DIV2K's, or your Set5/, Set14/, BSD100/
config.VALID.lr_img_path = DIV2K_VALID_LR  # the same at a quarter; "": made from hr_img_path
config.VALID.n_quick = 5  # photos whose PSNR is measured at each save
config.VALID.n_figures = 3  # photos shown in the comparison figure
config.VALID.memory_mb = 500  # what a tile's maps may take as a photo is upscaled; larger tiles are a little faster

# The study in which people rate pictures from 1 to 5 (--mode=mos), as in the paper's section 3.3.
config.MOS = edict()
config.MOS.sets = {}  # {"Set5": "samples/Set5/"}: sets to rate, by the folders that --mode=evaluate wrote; {}: samples/evaluate/
config.MOS.methods = {}  # {"bicubic++": "folder/"}: results of other programs, <image>.png in folder/<set>/ or in folder/
config.MOS.calibration_path = ""  # photos that show what 1 and 5 mean; "": some images of the sets, which are then not rated
config.MOS.n_calibration = 20  # how many, as in the paper; of the sets' own images a fifth at most
config.MOS.repeat = 0.1  # share of the pictures that are shown twice, to see whether raters agree with themselves
config.MOS.path = "samples/mos/"  # the study, its key, and what the ratings tell

# DIV2K for --mode=download: the archives, and the folder that each unpacks to.
config.DOWNLOAD = edict()
config.DOWNLOAD.url = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"  # or a mirror of it
config.DOWNLOAD.DIV2K_train_HR = {
    "folder": DIV2K_TRAIN_HR, "size": 3530603713,
    "sha256": "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335"}
config.DOWNLOAD.DIV2K_train_LR_bicubic_X4 = {
    "folder": DIV2K_TRAIN_LR, "size": 246914039,
    "sha256": "f006b837f4eb52b82909aa01478e6d6d199eefce932179491d0c9dbb706dde3a"}
config.DOWNLOAD.DIV2K_valid_HR = {
    "folder": DIV2K_VALID_HR, "size": 448993893,
    "sha256": "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc"}
config.DOWNLOAD.DIV2K_valid_LR_bicubic_X4 = {
    "folder": DIV2K_VALID_LR, "size": 31505881,
    "sha256": "a50a5d1c4b88de4e8d300d8fb2b904c52fe93b2b298a4899697760d7cbb6d553"}

# What replaces the settings of TRAIN in a run on the photos that come with the packages: minutes, not days.
config.DEMO = edict()
config.DEMO.batch_size = 8
config.DEMO.patches_per_image = 8
config.DEMO.n_epoch_init = 16
config.DEMO.n_epoch = 2
config.DEMO.save_every = 5


class ConfigError(ValueError):
    """A setting that does not exist or can't have that value; the message is a sentence for the user."""


CHOICES = {
    "TRAIN.dataset": ("folder", "flickr25k"),
    "TRAIN.architecture": ("paper", "tensorlayer"),
    "TRAIN.schedule_init": ("cosine", "constant"),
}
NAMES = {  # of the settings, to tell a slip of the pen from a setting
    "TRAIN": "dataset hr_img_path lr_img_path img_path cache_path patches_per_image hr_patch_size batch_size architecture "
             "n_epoch_init learning_rate_init schedule_init n_epoch lr_init lr_decay decay_every loss beta1 ema_decay "
             "save_every seed deterministic devices mixed_precision checkpoint_path sample_path",
    "VGG": "path",
    "VALID": "hr_img_path lr_img_path n_quick n_figures memory_mb",
    "MOS": "sets methods calibration_path n_calibration repeat path",
}
OPEN = ("MOS.sets.", "MOS.methods.")  # sections that take any name
# What is no number, and which numbers are whole, by the names of the settings: what stands above may have been edited.
KINDS = {str: r"MOS\.(sets|methods)\..+|.*(path|url|folder|sha256|dataset|architecture|schedule_init|loss|vgg_layer)",
         bool: r"TRAIN\.(deterministic|mixed_precision)", dict: r"MOS\.(sets|methods)",
         int: r".*\.(n_\w+|\w+_every|devices|memory_mb|batch_size|hr_patch_size|patches_per_image|seed|size)"}
AT_LEAST_ONE = ("TRAIN.patches_per_image", "TRAIN.batch_size", "TRAIN.decay_every", "TRAIN.save_every")


def flatten(cfg, prefix=""):
    """Every setting of a config as `{"TRAIN.batch_size": 16, ...}`."""
    flat = {}
    for key, value in cfg.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def override(cfg, settings):
    """Set single settings of `cfg` in place, as `--set` gives them.

    settings: strings `KEY=VALUE`, such as `TRAIN.batch_size=8`; a value is read as the type that the setting has.
    Raises ConfigError for a key that does not exist, naming the nearest, and for a value of another type.
    """
    known = flatten(cfg)
    given = set()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting} has no value; write KEY=VALUE, such as TRAIN.batch_size=8.")
        opened = next((section for section in OPEN if key.startswith(section)), None)
        if key not in known and not opened:
            raise _unknown(key, known)
        section, name = (opened[:-1], key[len(opened):]) if opened else key.rsplit(".", 1)
        target = cfg
        for part in section.split("."):
            target = target[part]
        target[name] = _parse(key, text)
        given.add(key)
    if "TRAIN.n_epoch" in given and "TRAIN.decay_every" not in given:
        cfg.TRAIN.decay_every = max(1, cfg.TRAIN.n_epoch // 2)


def _unknown(key, known):
    same_name = [other for other in known if other.split(".")[-1] == key.split(".")[-1]]
    nearest = (same_name or difflib.get_close_matches(key, known, n=1, cutoff=0))[0]
    return ConfigError(f"There is no setting {key}; the nearest is {nearest} (all are in config.py).")


def _kind(key):
    return next((kind for kind, names in KINDS.items() if re.fullmatch(names, key)), float)


def _wrong_kind(key, value):
    names = {str: 'text, such as "folder/"', bool: "true or false", int: "a whole number", float: "a number",
             dict: 'names with folders, such as {"Set5": "folder/"}'}
    return ConfigError(f"{key} takes {names[_kind(key)]}, not {value!r}; mend it in config.py or by --set.")


def _parse(key, text):
    kind = _kind(key)
    if kind is bool and text.lower() in ("true", "1", "false", "0"):
        return text.lower() in ("true", "1")
    try:
        if kind in (str, int, float):
            return kind(text)
    except ValueError:
        pass
    raise _wrong_kind(key, text)


def resolve(cfg):
    """Carry out what settings mean for each other, in place, and check them; raises ConfigError."""
    for section, names in NAMES.items():
        known = [f"{section}.{name}" for name in names.split()]
        for key in (f"{section}.{name}" for name in cfg[section]):
            if key not in known:
                raise _unknown(key, known)
        for key in known:
            if key.split(".")[1] not in cfg[section]:
                raise ConfigError(f"config.{key} is missing in config.py; put its line back.")
    for key, value in flatten(cfg).items():
        kind = _kind(key)
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) != (kind is bool):
            raise _wrong_kind(key, value)
    if cfg.TRAIN.img_path:
        cfg.TRAIN.hr_img_path = cfg.TRAIN.img_path
    for part in (cfg.TRAIN, cfg.VALID):
        if is_div2k(part.lr_img_path) and not is_div2k(part.hr_img_path):
            part.lr_img_path = ""  # another folder's photos have no partners in DIV2K
    flat = flatten(cfg)
    for key, choices in {**CHOICES, "TRAIN.loss": tuple(cfg.LOSS)}.items():
        if flat[key] not in choices:
            nearest = difflib.get_close_matches(str(flat[key]), choices, n=1, cutoff=0)[0]
            raise ConfigError(f"{key} is one of {', '.join(choices)}, not {flat[key]!r}; the nearest is {nearest}.")
    for key, value in flat.items():
        if isinstance(value, (int, float)) and not value >= (1 if key in AT_LEAST_ONE else 0):
            raise ConfigError(f"{key} is {value}; it must be at least {1 if key in AT_LEAST_ONE else 0}.")
    if cfg.TRAIN.hr_patch_size < 16 or cfg.TRAIN.hr_patch_size % 4:
        raise ConfigError(f"TRAIN.hr_patch_size is {cfg.TRAIN.hr_patch_size}; it must be a multiple of 4, at least 16.")
    if not (cfg.TRAIN.ema_decay < 1 and cfg.TRAIN.beta1 < 1):
        raise ConfigError("TRAIN.ema_decay and TRAIN.beta1 must be below 1, such as 0.999 and 0.9.")


def is_div2k(path: str) -> bool:
    """Whether a path is one of those that DIV2K is unpacked to, which are the default ones."""
    return any(Path(path) == Path(folder) for folder in (DIV2K_TRAIN_HR, DIV2K_TRAIN_LR, DIV2K_VALID_HR, DIV2K_VALID_LR))


def log_config(filename, cfg):
    """Write a config to `filename` as JSON."""
    Path(filename).write_text(json.dumps(cfg, indent=4) + "\n")
