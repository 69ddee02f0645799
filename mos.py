"""The MOS study: people rate pictures blindly, and what they said is analysed (arXiv 1609.04802, section 3.3).

`build` makes a study of what `--mode=evaluate` wrote: a folder with a page to rate in (mos.html), and its key.
`analyse` reads the rating files that come back: opinion scores, their intervals, tests between methods, reliability.
"""
import csv
import datetime
import io
import itertools
import json
import math
import os
import random
import secrets
import shutil
import unicodedata
from collections import Counter, namedtuple
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

import utils
from images import crop_to_scale, list_images, read_image, resize

SCORES = (1, 2, 3, 4, 5)  # bad, poor, fair, good, excellent
ALL = "all sets"
N_BOOTSTRAP = 10000
ALPHA = 0.05
MAX_BYTES = 4 << 20  # of a rating file; one of 10,000 pictures has less than 1 MiB

# One version of one image. `file` is the picture itself, or the LR that `nearest` and `lanczos` are computed from.
Version = namedtuple("Version", "set image method file")


def build(config, restart=False):
    """Make a study in `config.MOS.path`: `study/` for the raters and `key.json`, which says what is what, for nobody else.

    Names and choices come from the system's randomness, not from a seed: whoever has this code could repeat a seed.
    restart: an earlier study there is moved aside; without it, it is an error, as its ratings need its key.
    Raises UserError where a version is missing, has another size or can't be read, or the images are too few.
    """
    path = Path(config.MOS.path)
    if not restart and ((path / "key.json").exists() or (path / "study").exists()):
        raise utils.UserError(f"{path} holds a study already, whose ratings can't be read without its key; add --restart "
                              "to move it aside, or name another folder with MOS.path.")
    sets = {name: _read_set(name, Path(folder), config.MOS.methods) for name, folder in _set_folders(config).items()}
    _check_sizes([version for versions in sets.values() for version in versions])
    _check_methods(sets, config.MOS.methods)
    calibration = _choose_calibration(sets, config)
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
        "methods": _method_order(rated, config.MOS.methods),
        "sets": list(sets),
        "pictures": {name: _describe(version) for name, version in pictures.items()},
        "repeats": {name: originals[version] for name, version in repeated.items()},
        "calibration": {name: _describe(version) for name, version in anchors.items()},
    }
    if restart and path.exists():
        utils.move_aside(path, "study")
    _write_study(path, page, key, {**pictures, **repeated, **anchors})
    _tell(path, sets, rated, repeats, calibration)


# -------------------------------------------------------------------------------------------------- making a study


def _set_folders(config):
    return dict(config.MOS.sets) or {"evaluate": Path(config.TRAIN.sample_path) / "evaluate"}


def _read_set(name, folder, methods):
    """The versions of one image set, from the folder that `--mode=evaluate` wrote and those of other programs.

    methods: {method: folder}. Returns a list of Version, image by image, methods in the order of tables and figure.
    Raises UserError, naming what is missing.
    """
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
        images = [image["name"] for image in metrics["images"]]
        generators = [method for method in metrics["mean"] if method not in ("bicubic", "lanczos")]
    except FileNotFoundError:
        raise utils.UserError(f"{folder / 'metrics.json'} is missing; run --mode=evaluate, which writes it and the "
                              "pictures to rate, or mend MOS.sets.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise utils.UserError(f"{folder / 'metrics.json'} can't be read ({error!r}); run --mode=evaluate again.") from error
    interpolated = {"nearest": "lr", "bicubic": "bicubic", "lanczos": "lr"}  # method: what its file's name ends in
    own = {method: "gen" if method == generators[-1] else method for method in generators} | {"hr": "hr"}
    doubled = [method for method, n in Counter([*interpolated, *methods, *generators, "hr"]).items() if n > 1]
    if doubled:
        raise utils.UserError(f"Two methods of {name} are called {doubled[0]}; give one another name in MOS.methods.")
    others = {method: _other_results(Path(where), name, images) for method, where in methods.items()}

    versions = []
    for image in images:
        versions += [Version(name, image, method, folder / f"{image}_{end}.png") for method, end in interpolated.items()]
        versions += [Version(name, image, method, found[image]) for method, found in others.items() if found]
        versions += [Version(name, image, method, folder / f"{image}_{end}.png") for method, end in own.items()]
    missing = _in_order(str(v.file) for v in versions if not v.file.is_file())
    if missing:
        raise utils.UserError(f"Of {name} there are missing: {_listing(missing)}; run --mode=evaluate again, or mend "
                              "MOS.methods.")
    return versions


def _other_results(folder, set_name, images):
    """Results of another program: {image: file}, from `folder/<set>/` where there is one, else from `folder`.

    The file of an image is `<image>.png`, `<image>_gen.png` (as our own evaluation calls it) or the only
    `<image>_*.png`, of any image format; where there is none, the first of these names, so that it is missed by name.
    A method without any picture of a set takes no part in it (the paper rated some on two of its sets only): {}.
    """
    where = folder / set_name if (folder / set_name).is_dir() else folder
    if not where.is_dir():
        raise utils.UserError(f"The folder {folder} of MOS.methods does not exist; mend its path or take it out.")
    candidates = {}
    for file in list_images(where):
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
            raise utils.UserError(f"{_listing(map(str, files))} can each be the result for {image}; leave one of them.")
        found[image] = files[0] if files else where / f"{image}.png"
    return found


def _check_sizes(versions):
    """Raise UserError that names the versions whose size isn't that of their HR image (LR: a quarter of it)."""
    sizes = {}
    for file in _in_order(v.file for v in versions):
        try:
            with Image.open(file) as image:
                on_its_side = image.getexif().get(0x0112, 1) >= 5  # turned upright when it is read
                sizes[file] = image.size[::-1] if on_its_side else image.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise utils.UserError(f"{file} can't be read as an image ({error}); make it again.") from error
    hr = {(v.set, v.image): sizes[v.file] for v in versions if v.method == "hr"}
    wrong = []
    for v in versions:
        (width, height), (hr_width, hr_height) = sizes[v.file], hr[v.set, v.image]
        factor = utils.SCALE if v.method in ("nearest", "lanczos") else 1
        if (factor * width, factor * height) != (hr_width, hr_height):
            wrong.append(f"{v.file} ({width}x{height}, HR {hr_width}x{hr_height})")
    if wrong:
        raise utils.UserError(f"Versions of one image differ in size: {_listing(_in_order(wrong))}; make them again from "
                              "the same LR.")


def _check_methods(sets, methods):
    """Raise UserError for a method of `config.MOS.methods` that has no picture of any set."""
    for method in methods:
        if not any(v.method == method for versions in sets.values() for v in versions):
            raise utils.UserError(f"{methods[method]} (MOS.methods, {method}) has no picture of an image to rate; "
                                  "its files are to be named <image>.png.")


def _choose_calibration(sets, config):
    """The pictures that show what 1 and 5 mean: nearest neighbour and HR of images that are not rated.

    From `config.MOS.calibration_path`, photos of which LR is made here; without it, of the images of the study, at most
    a fifth of them, from whichever set has most left. Returns a list of Version, nearest before hr.
    """
    if config.MOS.calibration_path:
        folder = Path(config.MOS.calibration_path)
        files = list_images(folder) if folder.is_dir() else []
        if not files:
            raise utils.UserError(f"{folder} (MOS.calibration_path) holds no image; name a folder of photos or leave it empty.")
        files = random.SystemRandom().sample(files, min(len(files), config.MOS.n_calibration))
        return [Version(None, file.name, method, file) for file in files for method in ("nearest", "hr")]
    left = {name: random.SystemRandom().sample(images, len(images))
            for name, images in ((name, _in_order(v.image for v in versions)) for name, versions in sets.items())}
    n_images = sum(map(len, left.values()))
    chosen = []
    for _ in range(min(config.MOS.n_calibration, max(1, n_images // 5))):
        largest = max(left, key=lambda name: len(left[name]))
        chosen.append((largest, left[largest].pop()))
    versions = {(v.set, v.image, v.method): v for part in sets.values() for v in part}
    return [versions[set_name, image, method] for set_name, image in chosen for method in ("nearest", "hr")]


def _choose_repeats(rated, share):
    """The versions that are rated twice, at random, spread evenly over methods and images."""
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
    """Raise UserError where no order keeps the pictures of one image apart."""
    counts = Counter((v.set, v.image) for v in rated + repeats)
    if not counts or 2 * max(counts.values()) > sum(counts.values()) + 1:
        raise utils.UserError(f"{len(counts)} images are too few to rate without showing one twice in a row; evaluate more, "
                              "or name photos for the calibration in MOS.calibration_path.")


def _random_names(n):
    names = set()
    while len(names) < n:
        names.add(secrets.token_hex(6))
    return random.SystemRandom().sample(sorted(names), n)


def _page(study_id, pictures, anchors):
    """mos.html with the study in it: [picture, number of its image] and calibration pairs, both sorted by random name."""
    images = _in_order((v.set, v.image) for _, v in sorted(pictures.items()))
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
    place = '<script id="study" type="application/json">{}</script>'
    return template.replace(place.format("null"), place.format(json.dumps(study, separators=(",", ":"))))


def _method_order(rated, others):
    """As in tables and figure: interpolation, other programs, our generators, HR."""
    by_set = {}
    for v in rated:
        by_set.setdefault(v.set, {})[v.method] = None
    largest_first = [method for methods in sorted(by_set.values(), key=len, reverse=True) for method in methods]
    order = ["nearest", "bicubic", "lanczos", *others, *(method for method in largest_first if method != "hr"), "hr"]
    return [method for method in _in_order(order) if method in largest_first]


def _describe(version):
    return {"set": version.set, "image": version.image, "method": version.method}


def _pixels(version):
    """The picture of a Version, uint8 (H, W, 3)."""
    image = read_image(version.file)
    if version.set is None:  # a photo for the calibration, of which LR is made
        image = crop_to_scale(image)
        lr = resize(image, image.shape[0] // utils.SCALE, image.shape[1] // utils.SCALE)
        image = lr if version.method == "nearest" else image
    methods = {"nearest": "nearest", "lanczos": "lanczos3"}
    if version.method in methods:
        return resize(image, utils.SCALE * image.shape[0], utils.SCALE * image.shape[1], methods[version.method])
    return image


def _write_study(path, page, key, pictures):
    """Write `key.json` and `study/` into `path`, whole or not at all.

    In the order of the random names, as a folder may list its files in the order of their making, and with one time for
    all. PNG is stored, not compressed: a blurred picture compresses better, and its file's size would tell the method.
    """
    partial = path / f".partial.{secrets.token_hex(4)}"
    study = partial / "study"
    try:
        (study / "pictures").mkdir(parents=True)
        with utils.progress("Picture", len(pictures)) as bar:
            for done, name in enumerate(sorted(pictures), 1):
                Image.fromarray(_pixels(pictures[name])).save(study / "pictures" / f"{name}.png", compress_level=0)
                bar.update(done)
        (study / "index.html").write_text(page, encoding="utf-8")
        built = int(datetime.datetime.now().timestamp())
        for file in [*study.rglob("*"), study]:
            os.utime(file, (built, built))
        with utils.atomic_write(path / "key.json") as file:
            file.write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
        os.replace(study, path / "study")
    except OSError as error:
        raise utils.UserError(f"{path} can't be written: {error.strerror or error}; free space or name another folder with "
                              "MOS.path.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _tell(path, sets, rated, repeats, calibration):
    for name, versions in sets.items():
        methods = _in_order(v.method for v in versions)
        absent = sorted({v.method for v in rated}.difference(methods))
        print(f"{name}: {_count(len({v.image for v in versions}), 'image')}, {len(methods)} versions each: {', '.join(methods)}"
              + (f" (without {', '.join(absent)}, of which there is no picture)" if absent else ""))
    size = sum(file.stat().st_size for file in (path / "study").rglob("*"))
    own = any(v.set for v in calibration)
    print(f"{len(rated) + len(repeats)} pictures to rate, {len(repeats)} of them for the second time; calibration on "
          f"{_count(len(calibration) // 2, 'image')}" + (", which are not rated" if own else "") + f"; {size / 1e6:,.0f} MB")
    print(f"Raters open {path / 'study' / 'index.html'}: send them the folder, or put it on a web server. Keep "
          f"{path / 'key.json'} to yourself.\nThen: python main.py --mode=mos --input FOLDER_OF_THEIR_RATING_FILES")


def _in_order(items):
    """Without repetition, in order of first appearance."""
    return list(dict.fromkeys(items))


def _listing(items, most=6):
    items = list(items)
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


# ------------------------------------------------------------------------------------------------ reading ratings


def analyse(config, ratings_folder):
    """Read the rating files of a folder (or one file) and say what they tell; see `results` for what that is.

    Prints tables; writes `mos.json`, `mos.csv` and the figure `mos.png` into `config.MOS.path`; returns what `mos.json`
    holds. A file that can't be used is named, with the reason, and left out. Raises UserError where none is left.
    """
    path = Path(config.MOS.path)
    key = _read_key(path / "key.json")
    raters, left_out = read_ratings(Path(ratings_folder), key)
    for sentence in left_out:
        print(sentence)
    if not raters:
        raise utils.UserError(f"{ratings_folder} holds no rating file that can be used; the page saves them as "
                              "ratings_<rater>.json when a rater has finished.")
    found = results(key, raters, seed=config.TRAIN.seed)
    found["left_out"] = left_out
    print(report(found))
    with utils.atomic_write(path / "mos.json") as file:
        file.write_text(json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
    with utils.atomic_write(path / "mos.csv") as file:
        file.write_text(_csv(found), encoding="utf-8", newline="")
    with utils.atomic_write(path / "mos.png") as file:
        figure(found).savefig(file, dpi=150)
    print(f"Written: {path / 'mos.json'}, {path / 'mos.csv'}, {path / 'mos.png'}")
    return found


def _read_key(file):
    try:
        key = json.loads(file.read_text(encoding="utf-8"))
        whole = {"study", "methods", "sets", "repeats"} <= set(key)
        if key["format"] == "mos-key" and key["version"] == 1 and key["pictures"] and whole:
            return key
    except FileNotFoundError:
        raise utils.UserError(f"{file} is missing, and without it no rating can be read; name the study's folder with "
                              "MOS.path.") from None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise utils.UserError(f"{file} is not the key of a study; restore it from a copy, or name the study's folder with "
                          "MOS.path.")


def read_ratings(folder, key):
    """All rating files of a folder, or the one file given.

    Returns raters, a list of {"rater", "file", "saved", "ratings": [(picture, score), ...] in the order given}, and a
    list of sentences that name each file left out and why. A rater with several files counts by the newest.
    """
    if not folder.exists():
        raise utils.UserError(f"{folder} does not exist; --input names the folder that holds the rating files.")
    files = [folder] if folder.is_file() else sorted((p for p in folder.iterdir() if p.name[0] != "."), key=utils.natural_key)
    by_rater, left_out = {}, []
    for file in files:
        try:
            rating = _read_rating(file, key)
            by_rater.setdefault(unicodedata.normalize("NFC", rating["rater"]).casefold(), []).append(rating)
        except (OSError, ValueError) as error:
            left_out.append(f"{_shown(file.name)} is left out: {_shown(error, 200)}.")
    raters = []
    for ratings in by_rater.values():
        *older, newest = sorted(ratings, key=lambda rating: rating["saved"])
        raters.append(newest)
        left_out += [f"{rating['file']} is left out: {rating['rater']} is in {newest['file']} too, which is newer."
                     for rating in older]
    return raters, left_out


def _read_rating(file, key):
    """One rating file, from a stranger: nothing in it is believed. Raises ValueError with the reason."""
    if not file.is_file() or file.suffix.lower() != ".json":
        raise ValueError("it is not a .json file")
    with open(file, "rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
    try:
        content = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is damaged ({error})") from None
    if not isinstance(content, dict) or content.get("format") != "mos-ratings" or content.get("version") != 1:
        raise ValueError("it is not a rating file of this program")
    if content.get("study") != key["study"]:
        raise ValueError(f"it belongs to another study ({_shown(content.get('study'))}, not {key['study']})")
    rater = content.get("rater")
    if not isinstance(rater, str) or not rater.strip() or len(rater) > 40:
        raise ValueError("its rater has no proper name")
    return {"rater": _shown(rater.strip()), "file": _shown(file.name), "saved": _time(content.get("saved")),
            "ratings": _scores(content.get("ratings"), key)}


def _scores(ratings, key):
    if not isinstance(ratings, list) or not ratings:
        raise ValueError("it rates nothing")
    scores = {}
    for rating in ratings:
        if not isinstance(rating, dict) or set(rating) != {"picture", "score"} or not isinstance(rating["picture"], str):
            raise ValueError("its ratings are not pairs of picture and score")
        picture, score = rating["picture"], rating["score"]
        if picture not in key["pictures"] and picture not in key["repeats"]:
            raise ValueError(f"it rates a picture that this study does not have ({_shown(picture)})")
        if type(score) is not int or score not in SCORES:  # True is an int to isinstance
            raise ValueError(f"it gives {picture} the score {_shown(score)}, which is no whole number from 1 to 5")
        if picture in scores:
            raise ValueError(f"it rates {picture} twice")
        scores[picture] = score
    return list(scores.items())


def _time(text):
    try:
        time = datetime.datetime.fromisoformat(text)
        return time.astimezone(datetime.UTC)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("it doesn't say when it was saved") from None


def _refuse_constant(name):
    raise ValueError(f"{name} is no number")


def _unique(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _shown(value, most=60):
    """A stranger's words, fit for the screen: no control characters, no length without end."""
    text = "".join(c if c.isprintable() else "?" for c in str(value)[:most + 1])
    return text if len(text) <= most else f"{text[:most]}…"


# ----------------------------------------------------------------------------------------------- what ratings tell


def results(key, raters, seed=0):
    """What the ratings tell, as a dict that JSON can hold; None stands for what they can't tell, `notes` say why.

    {"study", "pictures", "raters": [{"rater", "file", "ratings"}], "sets": {set: {"images", "methods": {method: {"mos",
    "interval", "distribution", "ratings"}}, "pairs": see `compare`}}, "reliability": {"icc": see `icc`, "repeats": see
    `_repeats`}, "notes"}. Of several sets, `all sets` is their sum, with the methods that all of them have.

    Raters who stopped early count with what they rated: every rating has the same weight. Of a version rated twice the
    first rating counts; the second serves for the reliability alone.
    """
    scores, second = _matrix(key, raters)
    rng = np.random.default_rng(seed)
    sets = {}
    for name, members in _groups(key).items():
        cube, methods = _cube(key, members, scores)
        sets[name] = _analyse_set(cube, methods, rng)
    found = {
        "study": key["study"],
        "pictures": len(key["pictures"]) + len(key["repeats"]),
        "raters": [{"rater": r["rater"], "file": r["file"], "ratings": len(r["ratings"])} for r in raters],
        "sets": sets,
        "reliability": {"icc": icc(scores.T), "repeats": _repeats(second - scores)},
    }
    return {**found, "notes": _notes(found)}


def _groups(key):
    sets = {name: [name] for name in key["sets"] if any(d["set"] == name for d in key["pictures"].values())}
    return {**sets, ALL: list(sets)} if len(sets) > 1 else sets


def _matrix(key, raters):
    """First and second ratings, float64 (raters, versions) each, NaN where there is none."""
    column = {picture: i for i, picture in enumerate(key["pictures"])}
    column.update({repeat: column[picture] for repeat, picture in key["repeats"].items()})
    scores = np.full((2, len(raters), len(key["pictures"])), np.nan)
    for r, rater in enumerate(raters):
        for picture, score in rater["ratings"]:
            i = column[picture]
            scores[0 if np.isnan(scores[0, r, i]) else 1, r, i] = score
    return scores


def _cube(key, sets, scores):
    """The ratings of some sets, float64 (raters, images, methods), and the methods that all of these sets have."""
    described = list(key["pictures"].values())
    methods = [method for method in key["methods"]
               if {d["set"] for d in described if d["method"] == method}.issuperset(sets)]
    images = _in_order((d["set"], d["image"]) for d in described if d["set"] in sets)
    place = {image: i for i, image in enumerate(images)}
    cube = np.full((len(scores), len(images), len(methods)), np.nan)
    for i, d in enumerate(described):
        if d["set"] in sets and d["method"] in methods:
            cube[:, place[d["set"], d["image"]], methods.index(d["method"])] = scores[:, i]
    return cube, methods


def _analyse_set(cube, methods, rng):
    """cube: float64 (raters, images, methods), NaN where there is no rating."""
    intervals = bootstrap(cube, rng)
    found = {}
    for m, method in enumerate(methods):
        given = cube[:, :, m][~np.isnan(cube[:, :, m])]
        found[method] = {
            "mos": float(given.mean()) if given.size else None,
            "interval": intervals[m],
            "distribution": [int((given == s).sum()) for s in SCORES],
            "ratings": int(given.size),
        }
    return {"images": cube.shape[1], "methods": found, "pairs": compare(cube, methods)}


def bootstrap(cube, rng, n=N_BOOTSTRAP):
    """95% confidence intervals of each method's mean, for other raters and other images of the same kind.

    Raters and images are drawn independently (Owen, 2007, the pigeonhole bootstrap, https://arxiv.org/abs/0712.1111). Few
    of either would give too narrow an interval, so one fewer is drawn than there are, which is what an unbiased variance
    takes (Rao & Wu, 1988), and the percentiles are widened as Student's t is wider than the normal distribution
    (Hesterberg, 2015, https://arxiv.org/abs/1411.5279), with Satterthwaite's degrees of freedom.
    cube: float64 (raters, images, methods), NaN where there is no rating. Returns one [low, high] per method, or None
    where fewer than two raters or images, or ratings that are all alike, leave nothing to estimate it from.
    """
    n_raters, n_images, _ = cube.shape
    if min(n_raters, n_images) < 2:
        return [None] * cube.shape[2]
    raters = rng.multinomial(n_raters - 1, np.full(n_raters, 1 / n_raters), n).astype(float)
    images = rng.multinomial(n_images - 1, np.full(n_images, 1 / n_images), n).astype(float)
    intervals = []
    for x in np.moveaxis(cube, 2, 0):
        known = ~np.isnan(x)
        if min(known.any(0).sum(), known.any(1).sum()) < 2 or np.nanmin(x) == np.nanmax(x):
            intervals.append(None)
            continue
        count = ((raters @ known.astype(float)) * images).sum(1)
        total = ((raters @ np.nan_to_num(x)) * images).sum(1)
        tail = stats.norm.cdf(stats.t.ppf(ALPHA / 2, _degrees_of_freedom(x)))
        low, high = np.quantile(total[count > 0] / count[count > 0], [tail, 1 - tail])
        intervals.append([float(low), float(high)])
    return intervals


def _degrees_of_freedom(x):
    """Of the mean of (raters, images), whose variance comes from both."""
    means = [x[~np.isnan(x).all(1)], x.T[~np.isnan(x).all(0)]]
    means = [np.nanmean(part, axis=1) for part in means]
    variances = [part.var(ddof=1) / len(part) for part in means]
    weights = sum(v ** 2 / (len(part) - 1) for v, part in zip(variances, means, strict=True))
    return sum(variances) ** 2 / weights if weights else np.inf


def compare(cube, methods):
    """Wilcoxon's signed-rank test between each two methods, corrected after Holm.

    One pair of values a rater, their means over the images they rated in both versions: a rater's own scores are not
    independent of each other, and to count each would make anything significant.
    Returns [{"a", "b", "difference" of b from a, "raters", "p", "p_holm"}]; p is None where there is nothing to test.
    """
    pairs = []
    for a, b in itertools.combinations(range(len(methods)), 2):
        difference = cube[:, :, b] - cube[:, :, a]
        per_rater = np.nanmean(difference[~np.isnan(difference).all(1)], axis=1)
        pairs.append({"a": methods[a], "b": methods[b], "difference": float(per_rater.mean()) if per_rater.size else None,
                      "raters": int(per_rater.size), "p": signed_rank(per_rater)})
    known = sorted((pair for pair in pairs if pair["p"] is not None), key=lambda pair: pair["p"])
    highest = 0.0
    for i, pair in enumerate(known):  # Holm, 1979: the smallest p times all, the next times one fewer, never falling
        highest = max(highest, min(1.0, pair["p"] * (len(known) - i)))
        pair["p_holm"] = highest
    return [{"p_holm": None, **pair} for pair in pairs]


def signed_rank(differences):
    """Two-sided p of Wilcoxon's signed-rank test, zeros left out; None with fewer than two differences.

    Exact for up to 13, ties or not, as `scipy.stats.wilcoxon` does it, but hundreds of times faster.
    """
    differences = np.round(differences[np.abs(differences) > 1e-9], 9)  # equal means differ by rounding
    if len(differences) < 2:
        return None
    if len(differences) > 13:
        return float(stats.wilcoxon(differences).pvalue)
    ranks = np.sign(differences) * stats.rankdata(np.abs(differences))
    return float(stats.permutation_test((ranks,), lambda r, axis: r.sum(axis), permutation_type="samples",
                                        vectorized=True, n_resamples=np.inf).pvalue)


def icc(x):
    """Intraclass correlation between raters: two-way random, absolute agreement (Shrout & Fleiss, 1979, ICC(2,1), ICC(2,k)).

    The variances of pictures, raters and the rest come from the sums of squares within pictures, within raters and in
    total (Gao & Owen, 2017, https://projecteuclid.org/euclid.ejs/1492135234): the analysis of variance where everyone
    rated everything, and unbiased where some did not.
    x: float (pictures, raters), NaN where there is no rating. Returns {"single", "average", "raters"}, for one rater and
    for the mean of all, `raters` being how many rate a picture (the harmonic mean); None where it can't be told.
    """
    nothing = {"single": None, "average": None, "raters": None}
    known = ~np.isnan(x)
    x, known = (part[known.any(1)][:, known.any(0)] for part in (x, known))
    per_picture, per_rater, n = known.sum(1), known.sum(0), known.sum()
    if min(x.shape) < 2 or n <= max(x.shape):
        return nothing
    squares = [np.nansum((x - np.nanmean(x, axis=axis, keepdims=True)) ** 2) for axis in (1, 0, None)]
    if squares[2] == 0:
        return nothing
    equations = [[0, n - x.shape[0], n - x.shape[0]],
                 [n - x.shape[1], 0, n - x.shape[1]],
                 [n - (per_picture ** 2).sum() / n, n - (per_rater ** 2).sum() / n, n - 1]]
    pictures, raters, rest = np.linalg.solve(equations, squares)
    k = len(per_picture) / (1 / per_picture).sum()
    wholes = pictures + raters + rest, pictures + (raters + rest) / k
    if min(wholes) < 1e-9:  # raters who contradict each other throughout: the estimates of variance cancel out
        return nothing
    return {"single": float(pictures / wholes[0]), "average": float(pictures / wholes[1]), "raters": float(k)}


def _repeats(difference):
    """Second minus first rating of the pictures shown twice, float (raters, versions), NaN where there is none.

    Returns {"pairs", "difference", "absolute", "equal", "within_one", "p"}: how many, their mean, the mean of their
    sizes, the shares of 0 and of at most 1, and p of the signed-rank test of the raters' means; or {"pairs": 0}.
    """
    given = difference[~np.isnan(difference)]
    if not given.size:
        return {"pairs": 0}
    per_rater = np.nanmean(difference[~np.isnan(difference).all(1)], axis=1)
    return {"pairs": int(given.size), "difference": float(given.mean()), "absolute": float(np.abs(given).mean()),
            "equal": float((given == 0).mean()), "within_one": float((np.abs(given) <= 1).mean()), "p": signed_rank(per_rater)}


def _notes(found):
    """What the ratings can't tell, and why, as sentences."""
    notes = []
    n_raters = len(found["raters"])
    unfinished = sum(rater["ratings"] < found["pictures"] for rater in found["raters"])
    if unfinished:
        notes.append(f"{unfinished} of {n_raters} raters did not rate everything; they count with what they rated.")
    if n_raters == 1:
        notes.append("There is one rater: intervals, tests between methods and the agreement of raters can't be told.")
    for name, part in found["sets"].items():
        notes += [f"{name}: {note}" for note in _notes_on_set(part, n_raters)]
    if n_raters > 1 and found["reliability"]["icc"]["single"] is None:
        notes.append("The agreement of raters can't be told: their ratings have too little in common or are all alike.")
    if not found["reliability"]["repeats"]["pairs"]:
        notes.append("How well raters agree with themselves can't be told: nobody rated a picture twice.")
    return notes


def _notes_on_set(part, n_raters):
    nobody = [method for method, rated in part["methods"].items() if not rated["ratings"]]
    if nobody:
        yield f"nobody rated {_listing(nobody)}."
    if n_raters == 1:
        return
    if part["images"] == 1:
        yield "of one image no intervals can be told."
    alike = [method for method, rated in part["methods"].items() if 0 < rated["ratings"] in rated["distribution"]]
    if alike:
        yield f"all ratings of {_listing(alike)} are alike, of which no interval can be told."
    tied = [f"{pair['a']} and {pair['b']}" for pair in part["pairs"] if pair["p"] is None]
    if tied:
        yield f"no test of {_listing(tied)}, which fewer than two raters rated differently."
    least = math.ceil(1 - math.log2(ALPHA / max(1, len(part["pairs"]))))
    if n_raters < least:
        yield f"to tell {len(part['pairs'])} pairs of methods apart takes at least {least} raters."


# -------------------------------------------------------------------------------------------------------- showing


def report(found):
    """What `results` found, as tables for the screen."""
    n_raters, given = len(found["raters"]), sum(rater["ratings"] for rater in found["raters"])
    lines = [f"Study {found['study']}: {_count(n_raters, 'rater')}, {given:,} ratings of {found['pictures']:,} pictures "
             f"({given / n_raters / found['pictures']:.0%} of all)"]
    for name, part in found["sets"].items():
        lines += ["", f"{name}, {_count(part['images'], 'image')}", *_report_methods(part["methods"])]
        lines += _report_pairs(part["pairs"])
    agreement, repeats = found["reliability"]["icc"], found["reliability"]["repeats"]
    lines.append("")
    if agreement["single"] is not None:
        lines.append(f"Raters agree with each other: ICC(2,1) {agreement['single']:.3f} for one rater, ICC(2,k) "
                     f"{agreement['average']:.3f} for the mean of {agreement['raters']:.3g}")
    if repeats["pairs"]:
        lines.append(f"Raters agree with themselves: {_count(repeats['pairs'], 'pair')} of ratings of one picture, "
                     f"{repeats['equal']:.0%} equal, {repeats['within_one']:.0%} within 1; the second is "
                     f"{repeats['difference']:+.3f} from the first" + (f", p = {repeats['p']:.2g}" if repeats["p"] else ""))
    return "\n".join([*lines, *found["notes"]])


def _report_methods(methods):
    width = max(6, *map(len, methods))
    yield f"{'method':{width}}   MOS  95% interval" + "".join(f"{score:>5} (%)" for score in SCORES) + "   ratings"
    for method, rated in methods.items():
        if not rated["ratings"]:
            continue
        shares = "".join(f"{100 * n / rated['ratings']:>9.1f}" for n in rated["distribution"])
        interval = " to ".join(f"{end:.2f}" for end in rated["interval"]) if rated["interval"] else "-"
        yield f"{method:{width}}  {rated['mos']:.2f}  {interval:>12}{shares}{rated['ratings']:>10,}"


def _report_pairs(pairs):
    tested = [pair for pair in pairs if pair["p_holm"] is not None]
    if not tested:
        return []
    same = [f"{pair['a']} and {pair['b']} ({pair['p_holm']:.2g})" for pair in tested if pair["p_holm"] >= ALPHA]
    head = (f"Wilcoxon's signed-rank test over raters, after Holm: {len(tested) - len(same)} of {len(tested)} pairs differ "
            f"(p < {ALPHA})")
    return [head + (f"; not told apart: {_listing(same, 12)}" if 0 < len(same) < len(tested) else "")]


def _count(n, noun):
    return f"{n:,} {noun}" + ("s" if n != 1 else "")


def _csv(found):
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(["set", "method", "mos", "low", "high", *(f"scores_of_{score}" for score in SCORES), "ratings"])
    for name, part in found["sets"].items():
        for method, rated in part["methods"].items():
            interval = rated["interval"] or ["", ""]
            writer.writerow([name, method, rated["mos"], *interval, *rated["distribution"], rated["ratings"]])
    return lines.getvalue()


def figure(found):
    """The paper's figure 5: how often each method got each score, as colour, and its mean with the 95% interval in red."""
    sets = {name: {m: r for m, r in part["methods"].items() if r["ratings"]} for name, part in found["sets"].items()}
    sets = {name: methods for name, methods in sets.items() if methods}
    columns = min(2, len(sets))
    rows = math.ceil(len(sets) / columns)
    width = 1 + 0.5 * max(3, *map(len, sets.values()))
    drawing = Figure(figsize=(width * columns + 1, 3.6 * rows), layout="constrained")
    panels = drawing.subplots(rows, columns, squeeze=False).flat
    for panel in panels[len(sets):]:
        panel.remove()
    for panel, (name, methods) in zip(panels, sets.items(), strict=True):
        counts = np.array([rated["distribution"] for rated in methods.values()], float)
        image = panel.imshow(100 * (counts / counts.sum(1, keepdims=True)).T, origin="lower", aspect="auto", cmap="YlGnBu",
                             vmin=0, vmax=100, extent=(-0.5, len(methods) - 0.5, SCORES[0] - 0.5, SCORES[-1] + 0.5))
        for x, rated in enumerate(methods.values()):
            panel.plot([x, x], rated["interval"] or [rated["mos"]] * 2, color="red", linewidth=2)
            panel.plot(x, rated["mos"], marker="o", color="red", markeredgecolor="white", markersize=7)
        panel.set_xticks(range(len(methods)), list(methods), rotation=45, ha="right", rotation_mode="anchor")
        panel.set(title=name, yticks=SCORES, ylabel="score")
    drawing.colorbar(image, ax=drawing.axes, label="share of ratings (%)")
    return drawing
