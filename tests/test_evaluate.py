"""Validation folders are scored, whatever they hold: numbers, pictures, table, figure and page."""
import contextlib
import io
import json
import os

import numpy as np
import pictures
import pytest
from PIL import Image
from restoring import check_page, page_of, photo, restore_all, run, small_generator, stand_in

import data
import evaluate
import main
import metrics
import restore
import weights
from engine import command_line
from files import images, photo_files

pytestmark = pytest.mark.usefixtures("tensorflow_has_started")


def test_a_validation_folder_of_every_kind_is_scored_and_what_can_not_be_is_said(
        good, lossy, bad, tmp_path, monkeypatch, no_bar, capfd):
    folder = tmp_path / "$\\frac$ \N{GRINNING FACE}"
    folder.mkdir()
    good |= lossy
    for path in [*good, *bad]:
        path.rename(folder / path.name)
    Image.fromarray(pictures.RGB).save(folder / "$\\frac$ \N{GRINNING FACE}.png")
    Image.fromarray(pictures.RGB).save(folder / os.fsdecode(b"0\xff.png"))
    monkeypatch.setattr(command_line.config.VALID, "hr_img_path", str(folder))
    monkeypatch.setattr(command_line.config.VALID, "lr_img_path", "")
    (tmp_path / "out").mkdir()
    assert evaluate.score(data.validation_pairs(command_line.config, 4), tmp_path / "out", stand_in(), 3) == 0
    small = [path for path, pixels in good.items() if min(pixels.shape[:2]) < 19]
    out, err = capfd.readouterr()
    left_out = [line for line in err.splitlines() if line.startswith("Left out: ")]
    assert len(left_out) == len(err.splitlines()) == len(bad) + len(small)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(metrics["images"]) == len(good) + 2 - len(small)
    assert all((tmp_path / "out" / f"{image['name']}_{suffix}.png").is_file()
               for image in metrics["images"] for suffix in metrics["suffixes"].values())
    # rgb.png, rgb.bmp and so on each have a result of their own.
    assert len(list((tmp_path / "out").glob("*_gen.png"))) == len(metrics["images"])
    assert f"of {len(good) + 2 - len(small)} images" in out
    table = (tmp_path / "out" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert len(table) == len(metrics["images"]) + 2
    assert Image.open(tmp_path / "out" / "comparison.png").format == "PNG"


def test_generators_are_scored_at_the_scale_of_srgan_and_those_of_a_larger_one_are_shrunk(tmp_path, capsys):
    for name, scale in (("g_srgan_init", 4), ("g_srgan", 2)):
        weights.save_network(tmp_path / "checkpoint" / f"{name}.npz", small_generator(0, scale))
    (tmp_path / "photos").mkdir()
    (tmp_path / "lr").mkdir()
    Image.fromarray(photo(31, 41)).save(tmp_path / "photos" / "a.png")
    lr = photo(15, 20)[::-1]
    Image.fromarray(lr).save(tmp_path / "lr" / "ax2.png")
    Image.fromarray(photo(7, 10)).save(tmp_path / "lr" / "ax4.png")
    assert run("--output", tmp_path / "out", "--set", f"TRAIN.checkpoint_path={tmp_path / 'checkpoint'}",
               f"VALID.hr_img_path={tmp_path / 'photos'}", f"VALID.lr_img_path={tmp_path / 'lr'}") == 0
    out = capsys.readouterr().out
    assert "g_srgan_init.npz (4x, shrunk to 2x)\n" in out and "with 2 border pixels cut, of 1 image" in out
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["scale"] == 2 and list(written["mean"]) == ["bicubic", "lanczos", "srresnet", "srgan"]
    np.testing.assert_array_equal(pictures.read_png(tmp_path / "out" / "a_lr.png"), lr)
    assert Image.open(tmp_path / "out" / "a_gen.png").size == (40, 30)


def test_scored_pictures_mirror_the_subfolders_too(tmp_path, no_bar):
    for name in ("photos/a.png", "photos/day 1/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures.RGB).save(tmp_path / name)
    pairs = [(path, None) for path in photo_files.list_images(tmp_path / "photos")]
    assert evaluate.score(pairs, tmp_path / "out", stand_in(), 1, tmp_path / "photos") == 0
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert sorted(row["name"] for row in written["images"]) == ["a", "day 1/a"]
    for name in ("a_hr.png", "day 1/a_hr.png", "day 1/a_lr.png", "day 1/a_gen.png"):
        assert (tmp_path / "out" / name).is_file()
    assert not photo_files.find_photos(tmp_path / "out")[0]  # pictures, figure, thumbnails: all are known as results


@pytest.fixture(scope="module")
def scored(trained, tmp_path_factory):
    """A folder of difficult images, scored with what is set: (folder of the results, what was printed)."""
    folder = tmp_path_factory.mktemp("scored")
    names = [f"a_series_of_photos_with_a_long_name_{number:04}" for number in range(2)]
    pictures_of = {"gray": photo(32, 40)[:, :, :1].repeat(3, axis=2), "black": np.zeros((36, 36, 3), np.uint8),
                   "50% <b>&#?": photo(44, 60), **{name: photo(28, 24) for name in names}}
    (folder / "photos").mkdir()
    for name, picture in pictures_of.items():
        Image.fromarray(picture).save(folder / "photos" / f"{name}.png")
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        assert run("--weights", trained / "g_srgan.npz", "--output", folder / "out", "--set",
                   f"VALID.hr_img_path={folder / 'photos'}", "VALID.back_project=1", "VALID.blend=0.5",
                   "VALID.n_figures=2") == 0
    return folder / "out", screen.getvalue()


def test_a_column_for_each_method_and_metric_that_was_asked_for(scored):
    folder, _ = scored
    written = json.loads((folder / "metrics.json").read_text())
    methods = ["bicubic", "lanczos", "g_srgan", "blend_0.5", "back_projected"]
    assert list(written["mean"]) == methods
    for image in written["images"]:
        for method in methods:
            file = folder / f"{image['name']}_{written['suffixes'][method]}.png"
            sr, hr, lr = (images.read_image(path) for path in (
                file, folder / f"{image['name']}_hr.png", folder / f"{image['name']}_lr.png"))
            assert image[method] == metrics.measure(sr, hr, lr)
            difference = np.mean((images.resize(sr, *lr.shape[:2]).astype(float) - lr) ** 2)
            lr_psnr = 10 * np.log10(255 ** 2 / difference) if difference else 100
            assert image[method]["lr_psnr"] == pytest.approx(min(100, lr_psnr), abs=1e-3)
    assert written["mean"]["back_projected"]["lr_psnr"] > written["mean"]["g_srgan"]["lr_psnr"] + 5
    assert written["suffixes"]["g_srgan"] == "gen"
    header, *rows = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert header.count(",") == 5 * len(metrics.METRICS) and "back_projected_lr_psnr" in header and len(rows) == 6


def test_gray_images_stay_gray_in_scoring(scored):
    for suffix in ("gen", "blend_0.5", "back_projected"):
        picture = images.read_image(scored[0] / f"gray_{suffix}.png")
        assert (picture == picture[:, :, :1]).all() and np.ptp(picture) > 3


def test_a_black_image_leaves_the_means_finite(scored):
    metrics = json.loads((scored[0] / "metrics.json").read_text(), parse_constant=pytest.fail)
    black = next(image for image in metrics["images"] if image["name"] == "black")
    assert black["bicubic"] == {"psnr": 100, "ssim": 1, "lr_psnr": 100, "niqe": None}  # too small for NIQE
    assert all(value is None or np.isfinite(value) for values in metrics["mean"].values() for value in values.values())


def test_the_table_fits_80_columns_and_tells_long_names_apart(scored):
    lines = scored[1].splitlines()
    header = next(number for number, line in enumerate(lines) if line.strip().startswith("bicubic"))
    assert lines[header + 14].startswith("mean LR-PSNR")
    table = lines[header:header + 14]
    assert max(map(len, table)) <= 80
    assert table[0].split() == ["bicubic", "lanczos", "g_srgan", "blend_0.5"]
    assert table[1].split() == ["back_projected"]
    names = [line[:20].rstrip() for line in table[2::2]]
    assert len(set(names)) == 6 and names[-1] == "mean" and sum("0000" in name or "0001" in name for name in names) == 2


def test_nothing_but_our_own_lines_is_printed_for_images_of_many_sizes(scored):
    for noise in ("retracing", "WARNING", "tf.function", "Warning"):
        assert noise not in scored[1]


def test_the_page_of_scored_images_shows_every_picture(scored):
    methods, entries = check_page(scored[0])
    assert methods == ["lr", "bicubic", "lanczos", "g_srgan", "blend_0.5", "back_projected", "hr"]
    metrics = json.loads((scored[0] / "metrics.json").read_text())
    assert page_of(scored[0])["mean"] == metrics["mean"]
    for image in metrics["images"]:
        assert entries[image["name"]]["metrics"] == {method: image[method] for method in metrics["mean"]}


def test_the_comparison_shows_images_from_all_over_the_set(scored, monkeypatch):
    drawn = []
    monkeypatch.setattr(evaluate.results, "draw_comparison", lambda *arguments: drawn.append(arguments[1:]))
    pairs = [(path, None) for path in photo_files.list_images(scored[0].parent / "photos")]
    for n_figures in (1, 3, 9):
        assert evaluate.score(pairs, scored[0].parent / "again", stand_in(), n_figures) == 0
    names = [path.stem for path, _ in pairs]
    assert [[row["name"] for row in rows] for rows, _ in drawn] == [names[:1], names[::2], names]
    assert list(drawn[0][1]) == ["lr", "bicubic", "srgan", "hr"]


def test_results_beside_the_photos_are_not_measured_again(tmp_path):
    for name in "ab":
        Image.fromarray(photo(20, 24)).save(tmp_path / f"{name}.png")
    arguments = main.parse_arguments(["--mode=evaluate", "--set", f"VALID.hr_img_path={tmp_path}"])
    for _ in range(2):
        pairs = data.validation_pairs(command_line.configure(arguments), 4)
        assert [path.name for path, _ in pairs] == ["a.png", "b.png"]
        assert evaluate.score(pairs, tmp_path, stand_in(), 1) == 0
    restore_all(tmp_path / "a.png", tmp_path)
    assert len(restore.photos_to_restore([tmp_path], tmp_path / "out", "srgan")) == 2
