"""The analysis of a MOS study: opinion scores, confidence intervals, tests between methods, reliability of the raters.

`analyse` is the entry point of `--mode=mos --input ratings/`; `mos.build` made the study. Imports no TensorFlow.
"""
import csv
import datetime
import io
import json
import math
import unicodedata
from pathlib import Path

import utils

import numpy as np
from matplotlib.figure import Figure

from files.outputs import OutputFolder
from study.statistics import ALPHA, bootstrap, compare, icc, signed_rank

SCORES = (1, 2, 3, 4, 5)  # bad, poor, fair, good, excellent
ALL_SETS = "all sets"
MAX_BYTES = 4 << 20  # of a rating file; one with 10,000 pictures has less than 1 MiB
MAX_NAME = 21  # characters of a method's name in a table of 80 columns


def analyse(config, folder):
    """Analyse the rating files in `folder`, or a single file; see `results` for what is computed.

    Prints tables; writes `mos.json`, `mos.csv` and the figure `mos.png` to `config.MOS.path`; returns the content of
    `mos.json`. A file that can't be used is skipped, with the reason. Raises UserError if none is left.
    """
    path = Path(config.MOS.path)
    key = _read_key(path / "key.json")
    output = OutputFolder(path, "MOS.path")
    files = [path / name for name in ("mos.json", "mos.csv", "mos.png")]
    output.check(files)
    raters, left_out = read_ratings(Path(folder), key)
    for sentence in left_out:
        print(sentence)
    if not raters:
        raise utils.UserError(f"{folder} holds no usable rating file; name by --input the folder with the files "
                              "ratings_<rater>.json that the page saves when a rater has finished.")
    found = results(key, raters, seed=config.TRAIN.seed)
    found["left_out"] = left_out
    print(report(found))
    with output.replacing(*files):
        with utils.atomic_write(path / "mos.json") as file:
            file.write_text(json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
        with utils.atomic_write(path / "mos.csv") as file:
            file.write_text(_csv(found), encoding="utf-8", newline="")
        with utils.atomic_write(path / "mos.png") as file:
            figure(found).savefig(file, dpi=150)
    print(f"mos.json, mos.csv and mos.png are in {path.absolute()}/.")
    return found


# ------------------------------------------------------------------------------------------------ reading ratings


def _read_key(file):
    try:
        key = json.loads(file.read_text(encoding="utf-8"))
        complete = {"study", "methods", "sets", "repeats"} <= set(key)
        if key["format"] == "mos-key" and key["version"] == 1 and key["pictures"] and complete:
            return key
    except FileNotFoundError:
        raise utils.UserError(f"{file} is missing, and ratings can't be read without it; name the study's folder with "
                              "MOS.path.") from None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise utils.UserError(f"{file} is not the key of a study; restore it from a copy, or name the study's folder with "
                          "MOS.path.")


def read_ratings(folder, key):
    """All rating files in a folder, or the single file given.

    Returns `raters`, a list of {"rater", "file", "saved", "ratings": [(picture, score), ...] in the order given}, and a
    list of sentences that name each skipped file and the reason. Of a rater's several files the newest counts.
    """
    if not folder.exists():
        raise utils.UserError(f"{folder} does not exist; --input names the folder that holds the rating files.")
    files = [folder]
    if folder.is_dir():
        files = sorted((path for path in folder.iterdir() if path.name[0] != "."), key=utils.natural_key)
    by_rater, left_out = {}, []
    for file in files:
        try:
            rating = _read_rating(file, key)
            by_rater.setdefault(unicodedata.normalize("NFC", rating["rater"]).casefold(), []).append(rating)
        except (OSError, ValueError) as error:
            left_out.append(f"{_printable(file.name)} is left out: {_printable(error, 200)}.")
    raters = []
    for ratings in by_rater.values():
        *older, newest = sorted(ratings, key=lambda rating: rating["saved"])
        raters.append(newest)
        left_out += [f"{rating['file']} is left out: {newest['file']} of {rating['rater']} is newer."
                     for rating in older]
    return raters, left_out


def _read_rating(file, key):
    """Read one rating file. It comes from a stranger, so nothing is trusted. Raises ValueError with the reason."""
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
        raise ValueError(f"it belongs to another study ({_printable(content.get('study'))}, not {key['study']})")
    rater = content.get("rater")
    if not isinstance(rater, str) or not rater.strip() or len(rater) > 40:
        raise ValueError("its rater has no valid name")
    return {"rater": _printable(rater.strip()), "file": _printable(file.name), "saved": _time(content.get("saved")),
            "ratings": _scores(content.get("ratings"), key)}


def _scores(ratings, key):
    if not isinstance(ratings, list) or not ratings:
        raise ValueError("it holds no ratings")
    scores = {}
    for rating in ratings:
        if not isinstance(rating, dict) or set(rating) != {"picture", "score"}:
            raise ValueError("its ratings are not pairs of picture and score")
        picture, score = rating["picture"], rating["score"]
        if not isinstance(picture, str):
            raise ValueError("its ratings are not pairs of picture and score")
        if picture not in key["pictures"] and picture not in key["repeats"]:
            raise ValueError(f"it rates a picture that is not in this study ({_printable(picture)})")
        if type(score) is not int or score not in SCORES:  # not isinstance: True is an int
            raise ValueError(f"it gives {picture} the score {_printable(score)}, not a whole number from 1 to 5")
        if picture in scores:
            raise ValueError(f"it rates {picture} twice")
        scores[picture] = score
    return list(scores.items())


def _time(text):
    try:
        return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("it doesn't say when it was saved") from None


def _refuse_constant(name):
    raise ValueError(f"{name} is not a number")


def _unique(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _printable(value, most=60):
    """A stranger's text, safe to print: no control characters, at most `most` characters."""
    text = "".join(c if c.isprintable() else "?" for c in str(value)[:most + 1])
    return text if len(text) <= most else f"{text[:most]}…"


# ------------------------------------------------------------------------------------------------------ statistics


def results(key, raters, seed=0):
    """All statistics of a study as a dict that JSON can hold. What can't be estimated is None; `notes` say why.

    {"study", "pictures", "raters": [{"rater", "file", "ratings"}], "sets": {set: {"images", "methods": {method: {"mos",
    "interval", "distribution", "ratings"}}, "pairs": see `compare`}}, "reliability": {"icc": see `icc`, "repeats": see
    `_repeats`}, "notes"}. If there are several sets, `all sets` pools them, with the methods that every set has.

    Raters who stopped early count with what they rated: every rating has the same weight. If a version was rated twice,
    the first rating counts; the second one is used for the reliability only.
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
    return {**sets, ALL_SETS: list(sets)} if len(sets) > 1 else sets


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
    images = dict.fromkeys((d["set"], d["image"]) for d in described if d["set"] in sets)
    row = {image: i for i, image in enumerate(images)}
    cube = np.full((len(scores), len(images), len(methods)), np.nan)
    for i, d in enumerate(described):
        if d["set"] in sets and d["method"] in methods:
            cube[:, row[d["set"], d["image"]], methods.index(d["method"])] = scores[:, i]
    return cube, methods


def _analyse_set(cube, methods, rng):
    """Statistics of one set. cube: float64 (raters, images, methods), NaN where there is no rating."""
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


def _repeats(difference):
    """Agreement of the raters with themselves, on the pictures shown twice.

    difference: second minus first rating, float (raters, versions), NaN where there is none.
    Returns {"pairs", "difference", "absolute", "equal", "within_one", "p"}: their number, mean and mean size, the
    shares of 0 and of at most 1, and p of the signed-rank test on the raters' means; or {"pairs": 0}.
    """
    given = difference[~np.isnan(difference)]
    if not given.size:
        return {"pairs": 0}
    per_rater = np.nanmean(difference[~np.isnan(difference).all(1)], axis=1)
    return {"pairs": int(given.size), "difference": float(given.mean()), "absolute": float(np.abs(given).mean()),
            "equal": float((given == 0).mean()), "within_one": float((np.abs(given) <= 1).mean()),
            "p": signed_rank(per_rater)}


def _notes(found):
    """Sentences on what the ratings can't show, and why."""
    notes = []
    n_raters = len(found["raters"])
    unfinished = sum(rater["ratings"] < found["pictures"] for rater in found["raters"])
    if unfinished:
        notes.append(f"{unfinished} of {n_raters} raters did not finish; they count with what they rated.")
    if n_raters == 1:
        notes.append("With one rater there are no intervals, no tests between methods and no agreement of raters.")
    for name, part in found["sets"].items():
        notes += [f"{name}: {note}" for note in _notes_on_set(part, n_raters)]
    if n_raters > 1 and found["reliability"]["icc"]["single"] is None:
        notes.append("The agreement of raters can't be estimated: they overlap too little or are all the same.")
    if not found["reliability"]["repeats"]["pairs"]:
        notes.append("How well raters agree with themselves can't be estimated: nobody rated a picture twice.")
    return notes


def _notes_on_set(part, n_raters):
    unrated = [method for method, rated in part["methods"].items() if not rated["ratings"]]
    if unrated:
        yield f"nobody rated {utils.listing(unrated)}."
    if n_raters == 1:
        return
    if part["images"] == 1:
        yield "confidence intervals need at least two images."
    same = [method for method, rated in part["methods"].items() if 0 < rated["ratings"] in rated["distribution"]]
    if same:
        yield f"all ratings of {utils.listing(same)} are the same, so there is no interval."
    tied = [f"{pair['a']} and {pair['b']}" for pair in part["pairs"] if pair["p"] is None]
    if tied:
        yield f"no test of {utils.listing(tied)}: fewer than two raters rated them differently."
    least = math.ceil(1 - math.log2(ALPHA / max(1, len(part["pairs"]))))
    if n_raters < least:
        yield f"telling {utils.plural(len(part['pairs']), 'pair')} of methods apart takes at least {least} raters."


# --------------------------------------------------------------------------------------------------------- output


def report(found):
    """The tables of what `results` found, of at most 80 columns."""
    n_raters, given = len(found["raters"]), sum(rater["ratings"] for rater in found["raters"])
    lines = [f"Study {found['study']}: {utils.plural(n_raters, 'rater')}, {given:,} ratings of {found['pictures']:,} "
             f"pictures ({given / n_raters / found['pictures']:.0%} of all)"]
    for name, part in found["sets"].items():
        lines += ["", f"{name}, {utils.plural(part['images'], 'image')}", *_report_methods(part["methods"])]
        lines += _report_pairs(part["pairs"])
    agreement, repeats = found["reliability"]["icc"], found["reliability"]["repeats"]
    lines.append("")
    if agreement["single"] is not None:
        lines.append(f"Raters agree with each other: ICC(2,1) {agreement['single']:.3f} for one rater, ICC(2,k) "
                     f"{agreement['average']:.3f} for the mean of {agreement['raters']:.3g}")
    if repeats["pairs"]:
        p = f", p = {repeats['p']:.2g}" if repeats["p"] else ""
        lines.append(f"Raters agree with themselves: {utils.plural(repeats['pairs'], 'pair')} of ratings of a picture, "
                     f"{repeats['equal']:.0%} equal, {repeats['within_one']:.0%} within 1; the second is "
                     f"{repeats['difference']:+.3f} from the first{p}")
    return "\n".join([*lines, *found["notes"]])


def _report_methods(methods):
    width = min(MAX_NAME, max(6, *map(len, methods)))
    yield f"{'method':{width}}   MOS  95% interval" + "".join(f"{score:>2} (%)" for score in SCORES) + "  ratings"
    for method, rated in methods.items():
        if not rated["ratings"]:
            continue
        if len(method) > width:  # on a line of its own, so that names with the same beginning can be told apart
            yield method
            method = ""
        shares = "".join(f"{100 * n / rated['ratings']:>6.1f}" for n in rated["distribution"])
        interval = " to ".join(f"{end:.2f}" for end in rated["interval"]) if rated["interval"] else "-"
        yield f"{method:{width}}{rated['mos']:6.2f}{interval:>14}{shares}{rated['ratings']:>9,}"


def _report_pairs(pairs):
    tested = [pair for pair in pairs if pair["p_holm"] is not None]
    if not tested:
        return []
    same = [f"{pair['a']} and {pair['b']} ({pair['p_holm']:.2g})" for pair in tested if pair["p_holm"] >= ALPHA]
    head = (f"Wilcoxon's signed-rank test over raters, after Holm: {len(tested) - len(same)} of {len(tested)} pairs "
            f"differ (p < {ALPHA})")
    return [head + (f"; no difference found: {utils.listing(same, 12)}" if 0 < len(same) < len(tested) else "")]


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
    """The paper's figure 5: share of each score as colour, the mean and its 95% interval in red, for every method."""
    sets = {name: {m: r for m, r in part["methods"].items() if r["ratings"]} for name, part in found["sets"].items()}
    sets = {name: methods for name, methods in sets.items() if methods}
    columns = min(2, len(sets))
    rows = math.ceil(len(sets) / columns)
    width = 1 + 0.5 * max(3, *map(len, sets.values()))
    drawing = Figure(figsize=(width * columns + 1, 3.6 * rows), layout="constrained")
    panels = list(drawing.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[len(sets):]:
        panel.remove()
    for panel, (name, methods) in zip(panels, sets.items(), strict=False):  # the last row may have a panel too many
        counts = np.array([rated["distribution"] for rated in methods.values()], float)
        shares = 100 * counts / counts.sum(1, keepdims=True)
        image = panel.imshow(shares.T, origin="lower", aspect="auto", cmap="YlGnBu", vmin=0, vmax=100,
                             extent=(-0.5, len(methods) - 0.5, SCORES[0] - 0.5, SCORES[-1] + 0.5))
        for x, rated in enumerate(methods.values()):
            panel.plot([x, x], rated["interval"] or [rated["mos"]] * 2, color="red", linewidth=2)
            panel.plot(x, rated["mos"], marker="o", color="red", markeredgecolor="white", markersize=7)
        panel.set_xticks(range(len(methods)), list(methods), rotation=45, ha="right", rotation_mode="anchor")
        panel.set(title=name, yticks=SCORES, ylabel="score")
    drawing.colorbar(image, ax=drawing.axes, label="share of ratings (%)")
    return drawing
