"""The MOS study: people rate pictures without knowing what made them (arXiv 1609.04802, section 3.3).

`build` turns the results of `--mode=evaluate` into a study: a folder with a page for the raters (mos.html), and a key.
The rating files that come back are analysed by ratings.py.
"""
import datetime
import json
import os
import random
import secrets
import shutil
from collections import Counter, namedtuple
from pathlib import Path

import utils

from PIL import Image

from degradations import crop_to_scale, shrink
from engine.devices import list_devices
from files.images import read_image, resize
from files.outputs import OutputFolder
from files.photo_files import find_photos, list_images

# The files of a study in its folder. All else there is the user's.
NAME = "[0-9a-f]" * 12
FILES = ("key.json", "mos.json", "mos.csv", "mos.png", "study/index.html", f"study/pictures/{NAME}.png")

# One version of one image. `file` is the picture itself, or the LR that `nearest` and `lanczos` are computed from.
Version = namedtuple("Version", "set image method file")


def build(config, restart=False):
    """Make a study in `config.MOS.path`: `study/` for the raters, and the secret `key.json`, which tells the methods.

    File names and random choices come from the system's randomness: anyone with this code could reproduce a seed.
    restart: move an earlier study aside. Without it an earlier study is an error, as its ratings need its key.
    Raises UserError if a version is missing, has another size or can't be read, or if there are too few images.
    """
    path = Path(config.MOS.path)
    output = OutputFolder(path, "MOS.path")
    earlier = _earlier_files(output, restart)
    with utils.quiet():  # TensorFlow complains when it first looks for devices
        list_devices()
    methods = dict(config.MOS.methods)
    folders = dict(config.MOS.sets) or {"evaluate": Path(config.TRAIN.sample_path) / "evaluate"}
    sets, scales = {}, {}
    for name, folder in folders.items():
        sets[name], scales[name] = _read_set(name, Path(folder), methods)
    if len({*scales.values()}) > 1:
        said = ", ".join(f"{name} of scale {scale}" for name, scale in scales.items())
        raise utils.UserError(f"MOS.sets has results of several scales ({said}); make a study of each.")
    scale = next(iter(scales.values()))
    _check_sizes([version for versions in sets.values() for version in versions], scale)
    _check_methods(sets, methods)
    if config.MOS.calibration_path:
        calibration = _choose_photos(Path(config.MOS.calibration_path), config.MOS.n_calibration)
    else:
        calibration = _choose_images(sets, config.MOS.n_calibration)
    examples = {(v.set, v.image) for v in calibration}
    rated = [v for versions in sets.values() for v in versions if (v.set, v.image) not in examples]
    repeats = _choose_repeats(rated, config.MOS.repeat)
    _check_order(rated, repeats)

    names = iter(_random_names(len(rated) + len(repeats) + len(calibration)))
    pictures, repeated, anchors = ({next(names): version for version in part} for part in (rated, repeats, calibration))
    originals = {version: name for name, version in pictures.items()}
    study_id = secrets.token_hex(6)
    page = _page(study_id, {**pictures, **repeated}, anchors)
    key = {
        "format": "mos-key", "version": 1, "study": study_id,
        "methods": _method_order(rated, methods),
        "sets": list(sets),
        "pictures": {name: _describe(version) for name, version in pictures.items()},
        "repeats": {name: originals[version] for name, version in repeated.items()},
        "calibration": {name: _describe(version) for name, version in anchors.items()},
    }
    if earlier:
        utils.move_aside(path, "study", earlier)
    _write_study(output, page, key, {**pictures, **repeated, **anchors}, scale)
    _print_summary(path, sets, rated, repeats, calibration)


def _earlier_files(output, restart):
    """The files of an earlier study. Raises UserError if they are not of this program, or are not to be moved."""
    path, found = output.folder, [found for pattern in FILES for found in output.folder.glob(pattern)]
    output.check(found)
    if not restart and ((path / "key.json").exists() or (path / "study").exists()):
        raise utils.UserError(f"{path} already holds a study, whose ratings can't be read without its key; add "
                              "--restart to move it aside, or name another folder with MOS.path.")
    return found


# -------------------------------------------------------------------------------------------- collecting the versions


def _read_set(name, folder, methods):
    """The versions of one image set, from the folder that `--mode=evaluate` wrote and from those of other programs.

    methods: {method: folder}. Returns a list of Version, image by image, methods in the order of tables and figure, and
    the scale.
    Raises UserError that names what is missing.
    """
    file = folder / "metrics.json"
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
        images = [image["name"] for image in metrics["images"]]
        suffixes, scale = dict(metrics["suffixes"]), metrics.get("scale", 4)
        lr, bicubic, hr = (suffixes.pop(kind) for kind in ("lr", "bicubic", "hr"))
        suffixes.pop("lanczos", None)  # made from the LR here
    except FileNotFoundError:
        raise utils.UserError(f"{file} is missing; run --mode=evaluate, which writes it and the pictures to rate, or "
                              "correct MOS.sets.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise utils.UserError(f"{file} can't be read or is of an earlier version ({error!r}); run --mode=evaluate "
                              "again.") from error
    interpolated = {"nearest": lr, "bicubic": bicubic, "lanczos": lr}
    duplicates = [method for method, n in Counter([*interpolated, *methods, *suffixes, "hr"]).items() if n > 1]
    if duplicates:
        raise utils.UserError(f"Two methods of {name} are called {duplicates[0]}; rename one of them in MOS.methods.")
    others = {method: _other_results(Path(where), name, images) for method, where in methods.items()}

    versions = []
    for image in images:
        files = {method: folder / f"{image}_{suffix}.png" for method, suffix in interpolated.items()}
        files |= {method: found[image] for method, found in others.items() if found}
        files |= {method: folder / f"{image}_{suffix}.png" for method, suffix in {**suffixes, "hr": hr}.items()}
        versions += [Version(name, image, method, file) for method, file in files.items()]
    missing = dict.fromkeys(str(v.file) for v in versions if not v.file.is_file())
    if missing:
        raise utils.UserError(f"Pictures of {name} are missing: {utils.listing(missing)}; run --mode=evaluate again, "
                              "or correct MOS.methods.")
    return versions, scale


def _other_results(folder, set_name, images):
    """Results of another program, {image: file}, from `folder/<set>/` if it exists, else from `folder`.

    The file of an image is `<image>.png`, `<image>_gen.png` (as our own evaluation names it) or the only
    `<image>_*.png`, in any image format. An image without a file gets the first of these names, to be reported missing.
    A method without any picture of a set takes no part in it (the paper rated some methods on two of its sets): {}.
    """
    where = folder / set_name if (folder / set_name).is_dir() else folder
    if not where.is_dir():
        raise utils.UserError(f"The folder {folder} of MOS.methods does not exist; correct its path or remove it.")
    candidates = {}
    for file in list_images(where, recursive=False):
        # im_2_x4.png belongs to im_2, not to im.
        owner = max((i for i in images if file.stem == i or file.stem.startswith(f"{i}_")), key=len, default=None)
        candidates.setdefault(owner, []).append(file)
    candidates.pop(None, None)
    if not candidates:
        return {}
    found = {}
    for image in images:
        files = candidates.get(image, [])
        files = [f for f in files if f.stem == image] or [f for f in files if f.stem == f"{image}_gen"] or files
        if len(files) > 1:
            raise utils.UserError(f"{utils.listing(map(str, files))} could each be the result for {image}; keep one of "
                                  "them.")
        found[image] = files[0] if files else where / f"{image}.png"
    return found


def _check_sizes(versions, scale):
    """Raise UserError that names the versions whose size is not that of their HR image, or for LR a part of it."""
    sizes = {}
    for file in dict.fromkeys(v.file for v in versions):
        try:
            with Image.open(file) as image:  # reads the header only
                sideways = image.getexif().get(0x0112, 1) >= 5  # rotated when it is decoded
                sizes[file] = image.size[::-1] if sideways else image.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise utils.UserError(f"{file} can't be read as an image ({error}); create it again.") from error
    hr = {(v.set, v.image): sizes[v.file] for v in versions if v.method == "hr"}
    wrong = {}
    for v in versions:
        (width, height), (hr_width, hr_height) = sizes[v.file], hr[v.set, v.image]
        factor = scale if v.method in ("nearest", "lanczos") else 1
        if (factor * width, factor * height) != (hr_width, hr_height):
            wrong[v.file] = f"{v.file} ({width}x{height}, HR {hr_width}x{hr_height})"
    if wrong:
        raise utils.UserError(f"Versions of one image differ in size: {utils.listing(wrong.values())}; create them "
                              "again from the same LR image.")


def _check_methods(sets, methods):
    """Raise UserError for a method of `config.MOS.methods` that has no picture in any set."""
    for method, folder in methods.items():
        if not any(v.method == method for versions in sets.values() for v in versions):
            raise utils.UserError(f"{folder} (MOS.methods, {method}) has no picture of an image to rate; its files "
                                  "must be named <image>.png.")


# ------------------------------------------------------------------------------------------------ choosing pictures


def _choose_photos(folder, n):
    """Calibration pictures from photos of their own, whose LR is made here: [Version], nearest before hr.

    They show what a 1 and a 5 mean: nearest neighbour and original.
    """
    files = find_photos(folder)[0] if folder.is_dir() else []
    if not files:
        raise utils.UserError(f"{folder} (MOS.calibration_path) holds no image; name a folder of photos or leave it "
                              "empty.")
    files = random.SystemRandom().sample(files, min(len(files), n))
    return [Version(None, file.relative_to(folder).as_posix(), method, file)
            for file in files for method in ("nearest", "hr")]


def _choose_images(sets, n):
    """Calibration pictures from the study's own images, which are then not rated: [Version], nearest before hr.

    At most a fifth of all images, each from the set that has most left.
    """
    left = {}
    for name, versions in sets.items():
        images = list(dict.fromkeys(v.image for v in versions))
        left[name] = random.SystemRandom().sample(images, len(images))
    n_images = sum(map(len, left.values()))
    chosen = []
    for _ in range(min(n, max(1, n_images // 5))):
        largest = max(left, key=lambda name: len(left[name]))
        chosen.append((largest, left[largest].pop()))
    versions = {(v.set, v.image, v.method): v for part in sets.values() for v in part}
    return [versions[set_name, image, method] for set_name, image in chosen for method in ("nearest", "hr")]


def _choose_repeats(rated, share):
    """A random share of the versions, to be rated twice, spread evenly over methods and images."""
    left = random.SystemRandom().sample(rated, len(rated))
    methods, images = Counter(), Counter()
    chosen = []
    for _ in range(round(min(share, 1) * len(rated))):
        version = min(left, key=lambda v: (methods[v.method], images[v.set, v.image]))
        left.remove(version)
        methods[version.method] += 1
        images[version.set, version.image] += 1
        chosen.append(version)
    return chosen


def _check_order(rated, repeats):
    """Raise UserError if no order keeps the pictures of one image apart."""
    counts = Counter((v.set, v.image) for v in rated + repeats)
    if not counts or 2 * max(counts.values()) > sum(counts.values()) + 1:
        raise utils.UserError(f"There are too few images to rate ({len(counts)}): one would be shown twice in a row; "
                              "evaluate more, or name photos for the calibration in MOS.calibration_path.")


def _random_names(n):
    names = set()
    while len(names) < n:
        names.add(secrets.token_hex(6))
    return random.SystemRandom().sample(sorted(names), n)


def _method_order(rated, others):
    """As in tables and figure: interpolation, other programs, our generators, HR."""
    by_set = {}
    for v in rated:
        by_set.setdefault(v.set, {})[v.method] = None
    largest_first = [method for methods in sorted(by_set.values(), key=len, reverse=True) for method in methods]
    order = ["nearest", "bicubic", "lanczos", *others, *(method for method in largest_first if method != "hr"), "hr"]
    return [method for method in dict.fromkeys(order) if method in largest_first]


# ------------------------------------------------------------------------------------------------ writing the study


def _page(study_id, pictures, anchors):
    """mos.html with the study in it: [picture, image number] and calibration pairs, both sorted by random name."""
    images = dict.fromkeys((v.set, v.image) for _, v in sorted(pictures.items()))
    numbers = {image: i for i, image in enumerate(images)}
    pairs = {}
    for name, version in anchors.items():
        pairs.setdefault((version.set, version.image), []).append(name)
    study = {
        "id": study_id,
        "pictures": [[name, numbers[v.set, v.image]] for name, v in sorted(pictures.items())],
        "calibration": sorted(pairs.values()),
    }
    template = Path(__file__).with_name("mos.html").read_text(encoding="utf-8")
    slot = '<script id="study" type="application/json">{}</script>'
    return template.replace(slot.format("null"), slot.format(json.dumps(study, separators=(",", ":"))))


def _describe(version):
    return {"set": version.set, "image": version.image, "method": version.method}


def _pixels(version, scale):
    """The picture of a Version, uint8 (H, W, 3)."""
    image = read_image(version.file)
    if version.set is None:  # a calibration photo: its LR image does not exist as a file
        image = crop_to_scale(image, scale)
        image = shrink(image, scale) if version.method == "nearest" else image
    methods = {"nearest": "nearest", "lanczos": "lanczos3"}
    if version.method in methods:
        return resize(image, scale * image.shape[0], scale * image.shape[1], methods[version.method])
    return image


def _write_study(output, page, key, pictures, scale):
    """Write `key.json` and `study/`, whole or not at all.

    Nothing may tell the method: pictures are written in the order of their random names, as a directory may list files
    in order of creation; all files get the same time; and PNG is stored without compression, because a blurred picture
    compresses better (`images.write_image` compresses, and syncs each file to the disk).
    """
    path = output.folder
    partial = path / f".partial.{secrets.token_hex(4)}"
    study = partial / "study"
    try:
        (study / "pictures").mkdir(parents=True)
        with utils.progress("Picture", len(pictures)) as bar:
            for done, name in enumerate(sorted(pictures), 1):
                picture = Image.fromarray(_pixels(pictures[name], scale))
                picture.save(study / "pictures" / f"{name}.png", compress_level=0)
                bar.update(done)
        (study / "index.html").write_text(page, encoding="utf-8")
        built = int(datetime.datetime.now().timestamp())
        for file in study.rglob("*.*"):
            os.utime(file, (built, built))
        files = [path / file.relative_to(partial) for file in study.rglob("*") if file.is_file()]
        with output.replacing(path / "key.json", *files):
            with utils.atomic_write(path / "key.json") as file:
                file.write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
            shutil.copytree(study, path / "study", dirs_exist_ok=True, copy_function=os.replace)
            for folder in (path / "study" / "pictures", path / "study"):  # which the moves have changed
                os.utime(folder, (built, built))
    except OSError as error:
        raise utils.cannot_write(path, error, "name another folder with MOS.path") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _print_summary(path, sets, rated, repeats, calibration):
    for name, versions in sets.items():
        methods = dict.fromkeys(v.method for v in versions)
        absent = sorted({v.method for v in rated}.difference(methods))
        print(f"{name}: {utils.plural(len({v.image for v in versions}), 'image')}, {len(methods)} versions each: "
              f"{', '.join(methods)}" + (f" (no pictures of {', '.join(absent)})" if absent else ""))
    size = sum(file.stat().st_size for file in (path / "study").rglob("*"))
    examples = f"examples of {utils.plural(len(calibration) // 2, 'image')}" if calibration else "no examples"
    unrated = " that are not rated" if any(v.set for v in calibration) else ""
    print(f"{len(rated) + len(repeats)} pictures to rate, {len(repeats)} of them for the second time; "
          f"{examples}{unrated}; {size / 1e6:,.0f} MB")
    print(f"Raters open {path.absolute() / 'study' / 'index.html'}: send them the folder, or put it on a web server. "
          "Keep key.json, beside that folder, to yourself.\n"
          "Then: python main.py --mode=mos --input FOLDER_OF_THEIR_RATING_FILES")
