"""What evaluation leaves in its folder: names that can be told apart, the comparison, the page."""
import json

import numpy as np
import pictures
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import results
from files import images, photo_files
from files.outputs import OutputFolder


@given(st.lists(st.text("ab_", min_size=0, max_size=40), unique=True, max_size=30), st.integers(8, 20))
def test_short_names_fit_and_are_all_different(names, width):
    short = results.short_names(names, width)
    assert list(short) == names and len({*short.values()}) == len(names)
    assert all(len(short[name]) <= width for name in names)
    assert all(short[name] == name for name in names if len(name) <= width)


def test_a_long_name_keeps_its_beginning_and_its_end():
    short = results.short_names(["holiday_in_the_mountains_0001", "holiday_in_the_mountains_0002"], 20)
    assert [*short.values()] == ["holiday_i…tains_0001", "holiday_i…tains_0002"]


def test_more_methods_than_fit_beside_each_other_go_on_a_second_line(capsys):
    methods = ["bicubic", "lanczos", "pretrained-srresnet", "srgan", "pretrained", "blend_0.5", "back_projected"]
    table = results.Table(["a"], methods)
    table.row("a", {method: {"psnr": 100, "ssim": 1} for method in methods})
    table.means({method: {"psnr": 28.434, "ssim": None, "lr_psnr": 34, "niqe": 4.5} for method in methods})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["pretrained-"], ["bicubic", "lanczos", "srresnet", "srgan"], ["pretrained", "blend_0.5", "back_projected"],
        ["a", *["100.0", "/", "1.0000"] * 4], ["100.0", "/", "1.0000"] * 3,
        ["mean", *["28.43", "/", "-"] * 4], ["28.43", "/", "-"] * 3, ["mean", "LR-PSNR", *["34.00"] * 4], ["34.00"] * 3,
        ["mean", "NIQE", *["4.50"] * 4], ["4.50"] * 3]
    assert max(map(len, lines)) <= 80


def test_a_metric_that_is_not_defined_is_null_in_json_and_empty_in_csv(tmp_path):
    row = {"psnr": 30.0, "ssim": None, "lr_psnr": 40.0, "niqe": 4.0}
    results.write_metrics(OutputFolder(tmp_path), {"srgan": row}, [{"name": "a", "srgan": row}], {}, 4)
    assert json.loads((tmp_path / "metrics.json").read_text())["images"] == [{"name": "a", "srgan": row}]
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "name,srgan_psnr,srgan_ssim,srgan_lr_psnr,srgan_niqe", "a,30.0000,,40.0000,4.0000",
        "mean,30.0000,,40.0000,4.0000"]


def test_the_picture_of_the_main_method_is_the_result():
    assert results.picture_suffixes(["srresnet", "srgan", "pretrained"])["srgan"] == "gen"
    assert results.picture_suffixes(["srresnet"])["srresnet"] == "gen"
    assert results.picture_suffixes(["pretrained-srresnet", "pretrained"])["pretrained"] == "gen"
    suffixes = results.picture_suffixes(["my", "back_projected"])
    assert [*suffixes] == ["lr", "bicubic", "lanczos", "my", "back_projected", "hr"]
    assert [*suffixes.values()] == ["lr", "bicubic", "lanczos", "gen", "back_projected", "hr"]


def test_the_detail_is_where_methods_differ_and_inside_the_frame():
    rng = np.random.default_rng(0)
    for height, width, y, x in ((100, 160, 70, 120), (64, 64, 50, 2), (20, 200, 3, 180), (17, 12, 0, 0)):
        one = rng.integers(0, 256, (height, width, 3), np.uint8)  # busy everywhere
        other = one.copy()
        other[y:y + 10, x:x + 10] ^= 255
        top, left, side = results.most_different_square([one, one, other])
        assert 0 <= top <= height - side and 0 <= left <= width - side and side == min(
            height, width, max(16, min(height, width) // 4))
        assert top <= y and y + 10 <= top + side + 10 and abs(y + 5 - top - side / 2) <= side / 2 and (
            abs(x + 5 - left - side / 2) <= side / 2)


def test_the_comparison_is_drawn_from_the_pictures_in_the_folder(tmp_path):
    suffixes = results.picture_suffixes(["srgan"])
    names = ["a", "$\\frac$ \N{GRINNING FACE}"]
    for name in names:
        for method, suffix in suffixes.items():
            picture = pictures.RGB if method != "lr" else pictures.RGB[::4, ::4]
            images.write_image(tmp_path / f"{name}_{suffix}.png", picture)
    metrics = {"psnr": 20.0, "ssim": 0.5, "lr_psnr": 30.0}
    rows = [{"name": name, "bicubic": metrics, "lanczos": metrics, "srgan": metrics} for name in names]
    results.draw_comparison(OutputFolder(tmp_path), rows, suffixes)
    width, height = Image.open(tmp_path / "comparison.png").size
    assert width > 100 * len(suffixes) and height > 200 * len(names)
    photos, found, _ = photo_files.find_photos(tmp_path)
    assert not photos and tmp_path / "comparison.png" in found


def test_nothing_in_a_name_ends_the_pages_script(tmp_path):
    name = "</script><script>alert(1)</script>"
    entry = {"name": name, "width": 4, "height": 4, "thumb": "a", "pictures": {"srgan": "b"}}
    results.write_restored_page(OutputFolder(tmp_path), [entry])
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    content = page.split('<script id="results" type="application/json">')[1].split("</script>")[0]
    assert json.loads(content)["images"] == [entry]


def test_files_of_any_name_have_a_url(tmp_path):
    assert results.page_url(tmp_path, tmp_path / "sub" / "50% #1?.png") == "sub/50%25%20%231%3F.png"
    assert results.page_url(tmp_path, tmp_path / "\udcff.png") == "%FF.png"


def test_pictures_of_16_bits_are_rounded_for_the_page(tmp_path):
    for value in (0, 128, 129, 25_900, 65_407, 65_535):
        lr = np.full((20, 30, 3), value, np.uint16)
        results.write_bicubic(OutputFolder(tmp_path), tmp_path / "a", lr, 80, 120)
        entry = results.page_entry(tmp_path, tmp_path / "a", 80, 120)
        for name in (entry["thumb"], entry["pictures"]["bicubic"]):
            assert (np.asarray(Image.open(tmp_path / name)) == round(value / 257)).all()
