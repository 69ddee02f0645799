"""The analysis of a MOS study: what ratings count, and that the statistics are right."""
import csv
import datetime
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import utils

import numpy as np
import pytest
from conftest import ROOT
from easydict import EasyDict
from PIL import Image
from scipy import stats

from study import ratings, statistics

# ------------------------------------------------------------------------------------------------ reading ratings


def settings(folder):
    return EasyDict(TRAIN={"seed": 0}, MOS={"path": str(folder / "mos")})


def make_key(n_images=6, methods=("nearest", "srgan", "hr"), sets=("A",), repeats=4):
    pictures = {f"{s}-{i}-{m}": {"set": s, "image": str(i), "method": m}
                for s in sets for i in range(n_images) for m in methods}
    return {"format": "mos-key", "version": 1, "study": "abc", "methods": list(methods), "sets": list(sets),
            "pictures": pictures, "repeats": {f"again-{name}": name for name in list(pictures)[:repeats]},
            "calibration": {}}


def write_ratings(folder, key, rater, score, saved="2026-01-01T10:00:00.000Z", name=None, changes=None):
    """score: a function of the picture's description; a repeat gets the score of the first."""
    pictures = {**key["pictures"], **{repeat: key["pictures"][first] for repeat, first in key["repeats"].items()}}
    content = {"format": "mos-ratings", "version": 1, "study": key["study"], "rater": rater, "saved": saved,
               "complete": True, "ratings": [{"picture": p, "score": score(d)} for p, d in pictures.items()],
               **(changes or {})}
    folder.mkdir(exist_ok=True)
    file = folder / (name or f"ratings_{rater}.json")
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


@pytest.fixture
def study(tmp_path):
    """A study without pictures."""
    key = make_key()
    (tmp_path / "mos").mkdir()
    (tmp_path / "mos" / "key.json").write_text(json.dumps(key))
    return settings(tmp_path), key, tmp_path / "ratings"


BY_METHOD = {"nearest": 1, "srgan": 4, "hr": 5}


def by_method(described):
    return BY_METHOD[described["method"]]


def test_known_scores_give_their_mean_interval_distribution_and_figure(study, tmp_path, capsys):
    config, key, folder = study
    for i in range(4):  # a strict, two fair and a lenient rater; images of two kinds
        def score(d, leniency=(-1, 0, 0, 1)[i]):
            return int(np.clip(by_method(d) + leniency - int(d["image"]) % 2, 1, 5))

        write_ratings(folder, key, f"r{i}", score)
    found = ratings.analyse(config, folder)
    methods = found["sets"]["A"]["methods"]
    expected = {"nearest": [1, 1, 1, 2, 1, 1, 1, 1], "srgan": [3, 4, 4, 5, 2, 3, 3, 4], "hr": [4, 5, 5, 5, 3, 4, 4, 5]}
    for method, scores in expected.items():
        assert methods[method]["mos"] == pytest.approx(np.mean(scores))
        assert methods[method]["distribution"] == [3 * scores.count(s) for s in range(1, 6)]
        low, high = methods[method]["interval"]
        assert low <= methods[method]["mos"] <= high
    assert found["sets"]["A"]["images"] == 6 and found["left_out"] == []
    screen = capsys.readouterr().out
    assert re.search(r"srgan\s+3\.50\s+\d\.\d\d to \d\.\d\d\s+0\.0\s+12\.5\s+37\.5\s+37\.5\s+12\.5\s+24", screen)
    assert json.loads((tmp_path / "mos" / "mos.json").read_text()) == found
    rows = list(csv.DictReader((tmp_path / "mos" / "mos.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["set"], row["method"]) for row in rows] == [("A", m) for m in expected]
    assert float(rows[1]["mos"]) == 3.5
    assert np.asarray(Image.open(tmp_path / "mos" / "mos.png")).std() > 10
    drawn = ratings.figure(found).axes[0]
    assert [label.get_text() for label in drawn.get_xticklabels()] == list(expected)
    np.testing.assert_allclose(drawn.images[0].get_array()[:, 1], [0, 12.5, 37.5, 37.5, 12.5])
    means = [line.get_ydata()[0] for line in drawn.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(means, [rated["mos"] for rated in methods.values()])


def test_sets_are_kept_apart_and_pooled_over_the_methods_of_all_of_them():
    key = make_key(sets=("A", "B"), repeats=0)
    key["pictures"] = {name: d for name, d in key["pictures"].items() if (d["set"], d["method"]) != ("B", "srgan")}
    rater = {"rater": "r", "file": "f", "ratings": [(name, by_method(d) - (d["set"] == "B" and d["method"] == "hr"))
                                                    for name, d in key["pictures"].items()]}
    sets = ratings.results(key, [rater])["sets"]
    assert {name: {m: r["mos"] for m, r in part["methods"].items()} for name, part in sets.items()} == {
        "A": {"nearest": 1, "srgan": 4, "hr": 5}, "B": {"nearest": 1, "hr": 4}, "all sets": {"nearest": 1, "hr": 4.5}}


def test_a_figure_has_a_panel_for_each_set(tmp_path):
    """Three sets and their pool make four panels, two sets and their pool three in a grid of four."""
    for sets in (("A", "B", "C"), ("A", "B")):
        key = make_key(sets=sets, repeats=0)
        rater = {"rater": "r", "file": "f", "ratings": [(name, by_method(d)) for name, d in key["pictures"].items()]}
        drawing = ratings.figure(ratings.results(key, [rater]))
        assert [ax.get_title() for ax in drawing.axes if ax.get_title()] == [*sets, "all sets"]


def test_the_table_fits_80_columns_and_tells_long_names_apart():
    long = [f"a_method_with_a_long_name_{i}" for i in range(2)]
    key = make_key(methods=[*long, "hr"], repeats=0)
    rater = [{"rater": r, "file": "f", "ratings": [(name, 3 + (i + j) % 3) for i, name in enumerate(key["pictures"])]}
             for j, r in enumerate("abc")]
    table = ratings.report(ratings.results(key, rater)).split("\n\n")[1].splitlines()
    assert max(map(len, table[:6])) <= 80 and table[1].split()[:2] == ["method", "MOS"]
    assert [table[2], table[4]] == long and all(" to " in line for line in (table[3], table[5], table[6]))


def test_the_analysis_does_not_import_tensorflow_and_prints_no_complaints(study, tmp_path):
    _, key, folder = study
    write_ratings(folder, key, "a", by_method)
    script = ("import sys, main; code = main.main(main.parse_arguments("
              "['--mode=mos', '--input', sys.argv[1] + '/ratings', '--set', f'MOS.path={sys.argv[1]}/mos'])); "
              "sys.exit(code or 'tensorflow' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT,
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "1 rater, 22 ratings" in done.stdout


def test_the_first_rating_of_a_repeated_picture_counts():
    key = make_key(n_images=2, repeats=1)
    rater = {"rater": "r", "file": "f", "ratings": [("again-A-0-nearest", 3), ("A-1-nearest", 1), ("A-0-nearest", 2)]}
    found = ratings.results(key, [rater])
    assert found["sets"]["A"]["methods"]["nearest"]["mos"] == 2  # of 3 and 1
    repeats = found["reliability"]["repeats"]
    assert repeats == {"pairs": 1, "difference": -1, "absolute": 1, "equal": 0, "within_one": 1, "p": None}


def simulated(rng, n_raters, n_images, means, rater=0.4, image=0.5, rest=0.7):
    """Scores (raters, images, methods): a mean for each method, leniency, difficulty and noise, rounded to 1 to 5."""
    shape = (n_raters, n_images, len(means))
    leniency, difficulty = rng.normal(0, rater, (n_raters, 1, 1)), rng.normal(0, image, (1, n_images, 1))
    return np.clip(np.round(means + leniency + difficulty + rng.normal(0, rest, shape)), 1, 5)


def test_intervals_cover_the_truth_in_200_simulated_studies():
    rng = np.random.default_rng(0)
    means = np.array([1.6, 3.2, 4.3])
    spread = np.sqrt(0.4 ** 2 + 0.5 ** 2 + 0.7 ** 2)
    truth = 5 - stats.norm.cdf((np.array([1.5, 2.5, 3.5, 4.5])[:, None] - means) / spread).sum(0)
    for n_raters, n_images in ((12, 14), (26, 5)):
        covered = []
        for _ in range(200):
            intervals = np.array(statistics.bootstrap(simulated(rng, n_raters, n_images, means), rng, n=2000))
            covered.append((intervals[:, 0] <= truth) & (truth <= intervals[:, 1]))
        assert 0.92 <= np.mean(covered) <= 0.99, (n_raters, n_images, np.mean(covered, 0))


def test_equal_methods_rarely_differ_and_different_ones_usually_do():
    rng = np.random.default_rng(0)
    pairs = [statistics.compare(simulated(rng, 10, 14, np.array([3.0, 3.0, 3.6])), "abc") for _ in range(200)]
    assert np.mean([p[0]["p"] < 0.05 for p in pairs]) < 0.08
    assert np.mean([p[1]["p_holm"] < 0.05 for p in pairs]) > 0.95
    assert all((p[1]["a"], p[1]["b"], p[1]["raters"]) == ("a", "c", 10) and p[1]["difference"] > 0 for p in pairs)


def test_signed_rank_equals_scipys_with_and_without_ties():
    rng = np.random.default_rng(0)
    for n in (2, 5, 8, 20, 60):
        for digits in (1, 8):
            d = np.round(rng.normal(0.2, 0.5, n), digits)
            assert statistics.signed_rank(d) == pytest.approx(stats.wilcoxon(d[d != 0]).pvalue)
    assert statistics.signed_rank(np.zeros(9)) is None and statistics.signed_rank(np.array([0.5])) is None


def test_holm_on_a_worked_example(monkeypatch):
    """R: p.adjust(c(0.01, 0.04, 0.03), "holm") gives 0.03, 0.06, 0.06."""
    given = iter((0.01, 0.04, 0.03))
    monkeypatch.setattr(statistics, "signed_rank", lambda differences: next(given))
    pairs = statistics.compare(np.ones((3, 2, 3)), "abc")
    assert [pair["p_holm"] for pair in pairs] == pytest.approx([0.03, 0.06, 0.06])


def test_icc_reproduces_shrout_and_fleiss():
    """Table 2 of Psychological Bulletin 86, 1979; its ICC(2,1) and ICC(2,4) are in table 4."""
    x = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    found = statistics.icc(x)
    assert (round(found["single"], 2), round(found["average"], 2), found["raters"]) == (0.29, 0.62, 4)


def test_icc_with_missing_ratings_is_unbiased():
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(200):
        x = rng.normal(0, 1, (40, 1)) + rng.normal(0, 0.5, (1, 12)) + rng.normal(0, 1, (40, 12))
        x[rng.random(x.shape) < np.linspace(0, 0.9, 12)] = np.nan  # some raters stopped early
        estimates.append(statistics.icc(x)["single"])
    assert np.mean(estimates) == pytest.approx(1 / 2.25, abs=0.02)


def test_a_single_rater_gives_scores_but_no_intervals(study, capsys):
    config, key, folder = study
    write_ratings(folder, key, "only", by_method)
    found = ratings.analyse(config, folder)
    assert found["sets"]["A"]["methods"]["srgan"]["mos"] == 4
    assert all(rated["interval"] is None for rated in found["sets"]["A"]["methods"].values())
    assert all(pair["p"] is None and pair["p_holm"] is None for pair in found["sets"]["A"]["pairs"])
    assert found["reliability"]["icc"]["single"] is None and found["reliability"]["repeats"]["pairs"] == 4
    note = "With one rater there are no intervals, no tests between methods and no agreement of raters."
    assert note in capsys.readouterr().out


def test_identical_ratings_give_no_intervals_and_no_tests(study, capsys):
    config, key, folder = study
    for rater in "abcdefgh":
        write_ratings(folder, key, rater, lambda described: 3)
    found = ratings.analyse(config, folder)
    assert {rated["mos"] for rated in found["sets"]["A"]["methods"].values()} == {3}
    assert all(rated["interval"] is None for rated in found["sets"]["A"]["methods"].values())
    assert all(pair["p"] is None for pair in found["sets"]["A"]["pairs"])
    screen = capsys.readouterr().out
    assert "A: all ratings of nearest, srgan, hr are the same, so there is no interval." in screen
    assert "A: no test of nearest and srgan, nearest and hr, srgan and hr" in screen
    assert "The agreement of raters can't be estimated" in screen


def test_few_and_unfinished_raters_are_reported(study, capsys):
    config, key, folder = study
    for i, rater in enumerate("abc"):
        write_ratings(folder, key, rater, lambda d, i=i: max(1, by_method(d) - (i + int(d["image"])) % 2))
    content = json.loads((folder / "ratings_c.json").read_text())
    content["ratings"] = content["ratings"][:5]
    (folder / "ratings_c.json").write_text(json.dumps(content))
    found = ratings.analyse(config, folder)
    screen = capsys.readouterr().out
    assert "1 of 3 raters did not finish; they count with what they rated." in screen
    assert "A: telling 3 pairs of methods apart takes at least 7 raters." in screen
    assert [r["ratings"] for r in found["raters"]] == [22, 22, 5]


def test_a_folder_without_usable_ratings_is_an_error(study):
    config, key, folder = study
    with pytest.raises(utils.UserError, match="does not exist"):
        ratings.analyse(config, folder)
    folder.mkdir()
    with pytest.raises(utils.UserError, match="holds no usable rating file"):
        ratings.analyse(config, folder)
    write_ratings(folder, key, "a", by_method, changes={"ratings": []})
    with pytest.raises(utils.UserError, match="holds no usable rating file"):
        ratings.analyse(config, folder)
    assert not (Path(config.MOS.path) / "mos.json").exists()


def test_a_missing_or_damaged_key_is_an_error(study):
    config, key, folder = study
    write_ratings(folder, key, "a", by_method)
    file = Path(config.MOS.path) / "key.json"
    for content in ("{", "[]", '{"format": "mos-key"}'):
        file.write_text(content)
        with pytest.raises(utils.UserError, match="is not the key of a study"):
            ratings.analyse(config, folder)
    file.unlink()
    with pytest.raises(utils.UserError, match=r"MOS\.path"):
        ratings.analyse(config, folder)


def rating(*pairs):
    return {"ratings": [{"picture": picture, "score": score} for picture, score in pairs]}


@pytest.mark.parametrize("changes, reason", [
    ({"study": "xyz"}, r"it belongs to another study \(xyz, not abc\)"),
    ({"study": ["abc"]}, "it belongs to another study"),
    ({"format": "else"}, "it is not a rating file of this program"),
    ({"version": 2}, "it is not a rating file of this program"),
    ({"rater": ""}, "its rater has no valid name"),
    ({"rater": 7}, "its rater has no valid name"),
    ({"rater": "x" * 41}, "its rater has no valid name"),
    ({"rater": " \t"}, "its rater has no valid name"),
    ({"saved": "yesterday"}, "it doesn't say when it was saved"),
    ({"saved": 5}, "it doesn't say when it was saved"),
    ({"ratings": []}, "it holds no ratings"),
    ({"ratings": {"A-0-hr": 5}}, "it holds no ratings"),
    ({"ratings": ["A-0-hr"]}, "not pairs of picture and score"),
    ({"ratings": [{"picture": "A-0-hr"}]}, "not pairs of picture and score"),
    ({"ratings": [{"picture": ["A-0-hr"], "score": 5}]}, "not pairs of picture and score"),
    (rating(("B-0-hr", 5)), r"a picture that is not in this study \(B-0-hr\)"),
    (rating(("\x1b[2J" * 50, 5)), r"a picture that is not in this study \(\?\[2J"),
    (rating(("A-0-hr", 0)), "the score 0, not a whole number from 1 to 5"),
    (rating(("A-0-hr", 6)), "the score 6"),
    (rating(("A-0-hr", True)), "the score True"),
    (rating(("A-0-hr", 4.0)), "the score 4.0"),
    (rating(("A-0-hr", "5")), "the score 5"),
    (rating(("A-0-hr", None)), "the score None"),
    (rating(("A-0-hr", [5])), "the score"),
    (rating(("A-0-hr", float("nan"))), "NaN is not a number"),
    (rating(("A-0-hr", float("inf"))), "Infinity is not a number"),
    (rating(("A-0-hr", 5), ("A-0-hr", 5)), "it rates A-0-hr twice"),
])
def test_an_invalid_rating_file_is_skipped_by_name_and_the_others_count(study, changes, reason):
    _, key, folder = study
    write_ratings(folder, key, "good", by_method)
    write_ratings(folder, key, "bad", by_method, name="bad.json", changes=changes)
    raters, (sentence,) = ratings.read_ratings(folder, key)
    assert re.match(rf"bad\.json is left out: .*{reason}", sentence)
    assert sentence.endswith(".") and sentence.isprintable()
    assert [rater["rater"] for rater in raters] == ["good"]


@pytest.mark.parametrize("content, reason", [
    (b"", "it is damaged"),
    (b"\xff\xfe\x00", "it is damaged"),
    (b'{"format": "mos-ratings"', "it is damaged"),
    (b"[" * 100000, "it is damaged"),
    (b'{"a": ' + b"9" * 5000 + b"}", "it is damaged"),
    (b'{"rater": "a", "rater": "b"}', "a key occurs twice"),
    (b" " * (5 << 20), "it is larger than 4 MiB"),
    (b"null", "it is not a rating file"),
    (b"[]", "it is not a rating file"),
])
def test_files_that_are_not_ratings_are_skipped_by_name(study, content, reason):
    _, key, folder = study
    write_ratings(folder, key, "good", by_method)
    (folder / "bad.json").write_bytes(content)
    (folder / "notes.txt").write_text("hello")
    (folder / "folder.json").mkdir()
    (folder / ".DS_Store").write_bytes(b"")
    _, left_out = ratings.read_ratings(folder, key)
    assert [sentence.split(" is left out: ")[0] for sentence in left_out] == ["bad.json", "folder.json", "notes.txt"]
    assert reason in left_out[0] and "it is not a .json file" in left_out[1] and "it is not a .json file" in left_out[2]


def test_a_rater_with_several_files_counts_once_with_the_newest(study, capsys):
    config, key, folder = study
    day = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
    for i, (rater, score) in enumerate((("Anna", 1), ("anna ", 5), ("ANNA", 3))):
        saved = day + datetime.timedelta(hours=(0, 2, 1)[i])
        write_ratings(folder, key, rater, lambda d, s=score: s, saved=saved.isoformat(), name=f"{i}.json")
    write_ratings(folder, key, "Боря", lambda d: 2)
    write_ratings(folder, key, "\x1b[2J\ud800", lambda d: 2, name="strange.json")
    found = ratings.analyse(config, folder)
    assert found["left_out"] == ["0.json is left out: 1.json of Anna is newer.",
                                 "2.json is left out: 1.json of ANNA is newer."]
    assert capsys.readouterr().out.splitlines()[:2] == found["left_out"]
    assert found["sets"]["A"]["methods"]["hr"]["mos"] == 3
    assert sorted(r["rater"] for r in found["raters"]) == ["?[2J?", "anna", "Боря"]
    assert ratings.analyse(config, folder / "0.json")["sets"]["A"]["methods"]["hr"]["mos"] == 1  # one file alone


def test_a_study_of_the_papers_size_is_analysed_in_seconds(tmp_path):
    rng = np.random.default_rng(0)
    methods = [f"m{i}" for i in range(12)]
    key = make_key(methods=methods, repeats=0)
    key["sets"] = ["Set5", "Set14", "BSD100"]
    sizes = (("Set5", 5, 12), ("Set14", 14, 12), ("BSD100", 100, 9))
    key["pictures"] = {rng.bytes(6).hex(): {"set": s, "image": str(i), "method": m}
                       for s, n_images, n_methods in sizes for i in range(n_images) for m in methods[:n_methods]}
    assert len(key["pictures"]) == 1128
    key["repeats"] = {rng.bytes(6).hex(): name for name in list(key["pictures"])[::10]}
    config = settings(tmp_path)
    (tmp_path / "mos").mkdir()
    (tmp_path / "mos" / "key.json").write_text(json.dumps(key))
    for i in range(30):
        write_ratings(tmp_path / "ratings", key, f"r{i}",
                      lambda d: int(np.clip(rng.normal(1 + int(d["method"][1:]) / 3, 1), 1, 5)))
    start = time.monotonic()
    found = ratings.analyse(config, tmp_path / "ratings")
    assert time.monotonic() - start < 20  # 3 s on two idle cores
    assert len(found["sets"]) == 4 and len(found["sets"]["Set14"]["pairs"]) == 66
