"""Evaluation: validation folders are scored, and a user's photos are restored whatever they are."""
import io
import json
import os

import utils

import numpy as np
import pictures
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data
import evaluate
import images
import main
import model


@pytest.fixture(scope="module", autouse=True)
def tensorflow_has_started():
    """What TensorFlow says on the screen as it starts is not what these tests look at."""
    with utils.quiet():
        tf.constant(0)


def nearest(lr, report=None):
    """Stands in for a Restorer."""
    return lr.repeat(4, axis=0).repeat(4, axis=1)


def restore(source, output):
    return evaluate.restore(evaluate.photos_to_restore([source], output, "srgan"), [{"srgan": nearest}], output)


def test_a_validation_folder_of_every_kind_is_scored_and_what_can_not_be_is_said(
        good, lossy, bad, tmp_path, monkeypatch, no_bar, capfd):
    folder = tmp_path / "$\\frac$ \N{GRINNING FACE}"
    folder.mkdir()
    good |= lossy
    for path in [*good, *bad]:
        path.rename(folder / path.name)
    Image.fromarray(pictures.RGB).save(folder / "$\\frac$ \N{GRINNING FACE}.png")
    Image.fromarray(pictures.RGB).save(folder / os.fsdecode(b"0\xff.png"))
    monkeypatch.setattr(main.config.VALID, "hr_img_path", str(folder))
    monkeypatch.setattr(main.config.VALID, "lr_img_path", "")
    (tmp_path / "out").mkdir()
    assert evaluate.score(data.validation_pairs(main.config), tmp_path / "out", [{"srgan": nearest}], 3) == 0
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


def test_a_folder_of_every_kind_is_restored_and_what_can_not_be_is_counted(good, lossy, bad, tmp_path, capfd):
    folder = tmp_path / "all"
    folder.mkdir()
    for path in [*good, *lossy, *bad]:
        path.rename(folder / path.name)
    assert restore(folder, tmp_path / "out") == 1
    err = capfd.readouterr().err
    assert len(err.splitlines()) == len(bad) + 1
    assert err.splitlines()[-1] == f"{len(bad)} of {len(good) + len(lossy) + len(bad)} failed."
    assert all(str(folder / path.name) in err for path in bad)
    assert len(list((tmp_path / "out").glob("*_gen.png"))) == len(good) + len(lossy)
    files = images.list_images(folder)
    names = dict(zip((path.name for path in files), images.output_names(files), strict=True))
    for path, pixels in good.items():
        written = pictures.read_png(tmp_path / "out" / f"{names[path.name]}_gen.png")
        n = 1 if pixels.shape[2] < 3 else 3
        assert written.dtype == pixels.dtype
        np.testing.assert_array_equal(written[:, :, :n], nearest(pixels[:, :, :n]), path.name)
        if pixels.shape[2] != n:
            assert written.shape[2] == n + 1
            back = written[:, :, n].reshape(pixels.shape[0], 4, pixels.shape[1], 4).mean((1, 3))
            alpha = pixels[:, :, n]
            assert np.ptp(alpha) == 0 or np.corrcoef(back.ravel(), alpha.ravel())[0, 1] > 0.7, path.name
    for path, pixels in lossy.items():
        written = pictures.read_png(tmp_path / "out" / f"{names[path.name]}_gen.png")
        assert written.shape == nearest(pixels).shape, path.name
        assert np.abs(written.astype(int) - nearest(pixels)).mean() < 3, path.name


@pytest.fixture(scope="module")
def restorer():
    """Of a small network with the field of a large one's tail."""
    generator = model.get_G(n_blocks=1)
    rng = np.random.default_rng(0)
    for weight in generator.weights:  # no zeros, and an error of colours to project back
        weight.assign(weight + rng.normal(0, 0.02, weight.shape))
    return evaluate.Restorer(generator, back_project=False)


def test_a_gray_photo_is_the_mean_of_what_the_network_makes_of_it(restorer):
    sr = restorer(pictures.GRAY)
    expected = restorer.upscaler(pictures.GRAY.repeat(3, axis=2)).mean(axis=2)
    assert sr.shape[2] == 1 and np.abs(sr[:, :, 0] - expected).max() < 1  # which was rounded before the mean
    np.testing.assert_array_equal(restorer(pictures.GRAY.repeat(3, axis=2)), sr.repeat(3, axis=2))


def test_alpha_is_upscaled_smoothly_and_colours_do_not_see_it(restorer):
    alpha = pictures.RGB[:, :, 2:]
    sr = restorer(np.dstack([pictures.RGB, alpha]))
    np.testing.assert_array_equal(sr[:, :, :3], restorer(pictures.RGB))
    smooth = Image.fromarray(alpha[:, :, 0]).resize(sr.shape[1::-1], Image.Resampling.BICUBIC)
    assert np.abs(sr[:, :, 3].astype(int) - np.asarray(smooth)).max() <= 2


def test_hidden_colours_of_a_sprite_do_not_reach_its_visible_ones(restorer):
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    alpha = np.uint8(255 * ((0.7 - np.hypot(x, y)) * 20).clip(0, 1))[:, :, np.newaxis]
    sprites = [restorer(np.dstack([np.where(alpha > 0, np.uint8([200, 30, 20]), np.uint8(hidden)), alpha]))
               for hidden in (0, 90, 255)]
    full = restorer(np.full((40, 40, 3), (200, 30, 20), np.uint8))
    for sprite in sprites:
        np.testing.assert_array_equal(sprite, sprites[0])
        assert np.abs(sprite[16:-16, 16:-16, :3].astype(int) - full[16:-16, 16:-16]).max() <= 1  # no fringe at all


def test_a_single_photo_is_restored_whatever_it_is_called(tmp_path):
    for name in ("with spaces.png", "Фото.png", "\N{GRINNING FACE}.png", "a_gen.png", os.fsdecode(b"\xff.png"),
                 "\N{GRINNING FACE}" * 60 + ".png"):
        path = tmp_path / name
        Image.fromarray(pictures.RGB).save(path)
        assert restore(path, tmp_path / "out") == 0
        assert (tmp_path / "out" / f"{path.stem}_gen.png").is_file()


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path):
    for name, value in (("a.png", 10), ("a.bmp", 20), ("a_png.png", 30)):
        Image.new("RGB", (4, 4), (value,) * 3).save(tmp_path / name)
    assert restore(tmp_path, tmp_path / "out") == 0
    assert sorted(int(pictures.read_png(path).mean()) for path in (tmp_path / "out").glob("*_gen.png")) == [10, 20, 30]


def test_results_mirror_the_subfolders_of_the_photos(tmp_path, capsys):
    for name in ("photos/a.png", "photos/day 1/a.png", "photos/day 1/b.jpg", "photos/day 1/deep/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures.RGB).save(tmp_path / name)
    (tmp_path / "photos" / "d.cr2").touch()
    assert restore(tmp_path / "photos", tmp_path / "out") == 0
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert written == ["a_gen.png", "day 1/a_gen.png", "day 1/b_gen.png", "day 1/deep/c_gen.png"]
    said = "1 photo (d.cr2) of kinds that are not read; develop or convert them."
    assert f"Left out of {tmp_path / 'photos'} (--input): {said}" in capsys.readouterr().out


def test_a_folder_of_raw_photos_alone_is_refused_with_their_names(tmp_path):
    (tmp_path / "a.dng").touch()
    with pytest.raises(utils.UserError, match=r"holds no image, but 1 photo \(a\.dng\) of kinds that are not read"):
        evaluate.photos_to_restore([tmp_path], tmp_path / "out", "srgan")


def test_date_and_place_of_a_photo_are_those_of_its_result(tmp_path):
    exif = pictures.exif(6)
    exif[0x0132] = "2020:02:03 04:05:06"
    exif.get_ifd(0x8825)[1] = "N"
    Image.fromarray(pictures.RGB).save(tmp_path / "a.jpg", exif=exif, dpi=(300, 300))
    assert restore(tmp_path / "a.jpg", tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "a_gen.png") as result:
        assert result.size == (80, 112) and result.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        tags = result.getexif()
        assert (tags[0x0132], tags[0x0112], tags.get_ifd(0x8825)[1]) == ("2020:02:03 04:05:06", 1, "N")


def test_results_in_the_folder_itself_are_not_restored_again(tmp_path, capsys):
    Image.fromarray(pictures.RGB).save(tmp_path / "a.png")
    for _ in range(2):
        assert restore(tmp_path, tmp_path / ".") == 0
    names = {path.relative_to(tmp_path).as_posix() for path in images.list_images(tmp_path)}
    assert names == {"a.png", "a_gen.png", "a_bicubic.jpg", "thumbnails/a.jpg"}
    said = capsys.readouterr().out
    assert f"Left out of {tmp_path} (--input): 3 results (a_bicubic.jpg, a_gen.png, a.jpg) of this program." in said


def test_what_can_not_begin_is_said_at_once(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(utils.UserError, match="holds no image"):
        evaluate.photos_to_restore([tmp_path / "photos"], tmp_path / "out", "srgan")
    Image.fromarray(pictures.RGB).save(tmp_path / "photos" / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(utils.UserError, match="can't be written"):
        evaluate.photos_to_restore([tmp_path / "photos"], tmp_path / "file" / "out", "srgan")
    for missing in ("nothing.png", "x" * 300, "link"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to("nowhere")
        with pytest.raises(utils.UserError, match="does not exist"):
            evaluate.photos_to_restore([tmp_path / missing], tmp_path / "out", "srgan")


def test_a_photo_that_does_not_fit_into_memory_does_not_stop_the_others(tmp_path, capsys):
    for name, size in (("1.png", 4), ("2.png", 8), ("3.png", 4)):
        Image.new("RGB", (size, size)).save(tmp_path / name)

    def small_only(lr, report):
        if lr.shape[0] > 4:
            raise MemoryError
        return nearest(lr)

    photos = evaluate.photos_to_restore([tmp_path], tmp_path / "out", "srgan")
    assert evaluate.restore(photos, [{"srgan": small_only}], tmp_path / "out") == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("*_gen.png")) == ["1_gen.png", "3_gen.png"]
    assert "1 of 3 failed." in capsys.readouterr().err


KINDS = {"png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "bmp": ("1", "L", "P", "RGB"), "gif": ("L", "P"),
         "jpg": ("L", "RGB", "CMYK"), "webp": ("RGB", "RGBA"),
         "tif": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F")}


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40),
       st.sampled_from([(form, mode) for form in KINDS for mode in KINDS[form]]),
       st.integers(0, 8), st.one_of(st.none(), st.floats(0, 1)),
       st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=3))
def test_the_result_is_four_times_the_input_or_the_input_is_refused(
        tmp_path_factory, width, height, kind, orientation, cut, flips):
    form, mode = kind
    folder = tmp_path_factory.mktemp("property")
    image = Image.fromarray(np.resize(pictures.RGB, (height, width, 3)))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    image.save(data, "jpeg" if form == "jpg" else "tiff" if form == "tif" else form,
               **({} if form in ("bmp", "gif") else {"exif": exif}))
    data = bytearray(data.getvalue())
    for place, value in flips:
        data[int(place * (len(data) - 1))] ^= value
    (folder / f"a.{form}").write_bytes(data[:None if cut is None else int(cut * len(data))])
    code = restore(folder / f"a.{form}", folder / "out")
    results = list((folder / "out").glob("*_gen.png"))
    if cut is None and not flips:
        turned = orientation >= 5 and form not in ("bmp", "gif")
        assert code == 0
        assert Image.open(results[0]).size == ((4 * height, 4 * width) if turned else (4 * width, 4 * height))
    elif code == 0:  # damage that a format does not notice
        lr = images.read_image(folder / f"a.{form}", native=True)
        assert pictures.read_png(results[0]).shape == (4 * lr.shape[0], 4 * lr.shape[1], lr.shape[2])
    else:
        assert code == 1 and not results
