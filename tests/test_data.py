"""What training sees: pairs that belong together, the same in every run, each photo decoded once."""
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import utils

import numpy as np
import pictures
import pytest
import skimage.io
from PIL import Image

import data
import images

PATCH, SEED = 32, (0, 1)


def cubic(x):
    """Keys' kernel with a = -0.5, as MATLAB's imresize has it."""
    x = np.abs(x)
    return (1.5 * x ** 3 - 2.5 * x ** 2 + 1) * (x <= 1) + (-0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2) * ((x > 1) & (x <= 2))


def imresize(image, scale):
    """MATLAB's `imresize(image, scale)`, after its source: antialiased bicubic; at the border the image is mirrored."""
    for axis in (0, 1):
        n = image.shape[axis]
        stretch = min(scale, 1)
        centre = (np.arange(round(n * scale)) + 0.5) / scale - 0.5
        near = np.floor(centre - 2 / stretch).astype(int)[:, np.newaxis] + np.arange(int(4 / stretch) + 2)
        weights = cubic((centre[:, np.newaxis] - near) * stretch)
        weights /= weights.sum(axis=1, keepdims=True)
        near = np.concatenate([np.arange(n), np.arange(n)[::-1]])[near % (2 * n)]
        image = np.moveaxis(np.einsum("ok,ok...->o...", weights, np.moveaxis(image.astype(float), axis, 0)[near]), 0, axis)
        image = image.clip(0, 255).round() if axis else image
    return image.astype(np.uint8)


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def index_coded(height, width):
    """A photo and its LR whose pixels say where they are: red the row, green the column of the LR, blue which it is."""
    rows, columns = np.mgrid[:height // 4, :width // 4]
    lr = np.stack([rows, columns, np.zeros_like(rows)], axis=2).astype(np.uint8)
    hr = lr.repeat(4, axis=0).repeat(4, axis=1)
    hr[:, :, 2] = 1 + np.arange(16, dtype=np.uint8).reshape(4, 4)[np.arange(height)[:, np.newaxis] % 4, np.arange(width) % 4]
    return hr, lr


@pytest.fixture
def photos(tmp_path):
    """A folder of seven photos whose blue says which one it is."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(7):
        save(folder / f"{number}.png", np.full((40 + 4 * number, 44, 3), (7 * number, 3 * number, number), np.uint8))
    return folder


def cache(folder, tmp_path, lr_folder="", patch=PATCH):
    return data.cache_photos(images.list_images(folder), lr_folder, tmp_path / "cache", patch)


# --------------------------------------------------------------------------------------------------------- LR and HR


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "brick.png", "rocket.jpg"])
def test_lr_is_what_matlab_would_make_of_the_whole_photo(name):
    hr, lr = data.read_pair(pictures.PHOTOS / name)
    difference = np.abs(lr.astype(int) - imresize(hr, 1 / 4))
    inner = difference[3:-3, 3:-3]
    assert inner.max() <= 1 and (inner > 0).mean() < 1e-3  # rounding of 0.5
    assert difference.max() < 16  # MATLAB mirrors the border, TensorFlow leaves it out


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png"])
def test_bicubic_is_that_of_matlab_there_and_back(name):
    hr, lr = data.read_pair(pictures.PHOTOS / name)
    ours, matlabs = images.resize(lr, *hr.shape[:2]), imresize(imresize(hr, 1 / 4), 4)
    inner = np.abs(ours.astype(int) - matlabs)[16:-16, 16:-16]
    assert inner.max() <= 2 and inner.mean() < 0.02
    psnr = [images.psnr_ssim(back, hr)[0] for back in (ours, matlabs)]
    assert abs(psnr[0] - psnr[1]) < 0.03


@pytest.mark.parametrize("height, width", [(4, 4), (5, 11), (7, 100), (42, 43)])
def test_sides_are_cut_at_right_and_bottom_to_multiples_of_4(tmp_path, height, width):
    pixels = np.uint8(pictures.RNG.integers(0, 256, (height, width, 3)))
    hr, lr = data.read_pair(save(tmp_path / "a.png", pixels))
    np.testing.assert_array_equal(hr, pixels[:height // 4 * 4, :width // 4 * 4])
    assert lr.shape == (height // 4, width // 4, 3)


def test_a_photo_of_less_than_4_pixels_is_named(tmp_path):
    for shape in ((1, 1, 3), (1, 500, 3), (3, 5, 3)):
        path = save(tmp_path / "tiny.png", np.zeros(shape, np.uint8))
        with pytest.raises(utils.UserError, match=r"tiny.png is smaller than 4x4"):
            data.read_pair(path)


def test_partners_of_another_size_are_named_with_both_sizes(tmp_path):
    hr = save(tmp_path / "hr.png", np.zeros((40, 48, 3), np.uint8))
    lr = save(tmp_path / "lr.png", np.zeros((12, 10, 3), np.uint8))
    with pytest.raises(utils.UserError, match=r"lr.png is 10x12, not a quarter of .*hr.png .12x10."):
        data.read_pair(hr, lr)


def test_partners_are_found_by_the_names_of_div2k_and_a_missing_one_is_said(tmp_path, capsys):
    (tmp_path / "lr").mkdir()
    for name in ("0001x4.png", "0002.png", "0003x4.jpg", "0009x4.png"):
        (tmp_path / "lr" / name).touch()
    files = [Path(f"{name}.png") for name in ("0001", "0002", "0003", "0004")]
    partners = data.find_partners(files, tmp_path / "lr")
    assert [partner and partner.name for partner in partners] == ["0001x4.png", "0002.png", "0003x4.jpg", None]
    out = capsys.readouterr().out
    assert out.startswith("1 of 4 photos have no partner") and out.endswith("0004.png\n")
    assert data.find_partners(files, "") == [None] * 4 and capsys.readouterr().out == ""


@pytest.mark.parametrize("partner", [True, False])
def test_lr_and_hr_of_a_patch_show_the_same_place_in_the_same_attitude(tmp_path, partner):
    (tmp_path / "hr").mkdir()
    (tmp_path / "lr").mkdir()
    hr, lr = index_coded(120, 200)
    save(tmp_path / "hr" / "0001.png", hr)
    if partner:
        save(tmp_path / "lr" / "0001x4.png", lr)
    else:  # LR is made; the index is a ramp then, which the bicubic keeps
        lr = images.resize(hr, 30, 50)
    data = cache(tmp_path / "hr", tmp_path, tmp_path / "lr" if partner else "")
    attitudes, places = set(), set()
    for step in range(60):
        for lr_patch, hr_patch in zip(*data.batch(data, SEED, step, 8, PATCH, 1), strict=True):
            mean = hr_patch[4:-4, 4:-4, :2].reshape(6, 4, 6, 4, 2).mean((1, 3))
            np.testing.assert_allclose(lr_patch[1:-1, 1:-1, :2], mean, atol=1)
            corner = tuple(map(int, hr_patch[0, :2, 2])), int(hr_patch[1, 0, 2])
            attitudes.add(corner)
            row, column = int(hr_patch[:, :, 0].min()), int(hr_patch[:, :, 1].min())
            places.add((row, column))
            part = hr[4 * row:4 * row + PATCH, 4 * column:4 * column + PATCH]
            assert any(np.array_equal(hr_patch, np.rot90(side, turns)) for side in (part, part[:, ::-1]) for turns in range(4))
            if partner:
                assert set(lr_patch[:, :, 2].ravel()) == {0}  # from its file, not made from HR
    assert len(attitudes) == 8  # flips and turns, all of them
    rows, columns = zip(*places, strict=True)
    assert min(rows) == min(columns) == 0 and max(rows) == 30 - 8 and max(columns) == 50 - 8


# ------------------------------------------------------------------------------------------------------------- batches


def numbers(batch):
    return [int(hr[0, 0, 2]) for hr in batch[1]]


def test_an_epoch_shows_every_photo_once_in_a_new_order(photos, tmp_path):
    data = cache(photos, tmp_path)
    assert data.steps_per_epoch(data, 3, 1) == 3  # 7 photos; the last batch is filled up
    epochs = [[number for step in range(3) for number in numbers(data.batch(data, SEED, 3 * epoch + step, 3, PATCH, 1))]
              for epoch in range(5)]
    for epoch in epochs:
        assert sorted(epoch[:7]) == list(range(7)) and len(epoch) == 9
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_photo_gives_as_many_patches_an_epoch_as_are_asked_for(photos, tmp_path):
    data = cache(photos, tmp_path)
    assert data.steps_per_epoch(data, 4, 6) == 11
    shown = [number for step in range(11) for number in numbers(data.batch(data, SEED, step, 4, PATCH, 6))]
    assert sorted(shown[:42]) == sorted(list(range(7)) * 6)


def test_fewer_photos_than_a_batch_still_give_a_step(photos, tmp_path):
    data = cache(photos, tmp_path)[:2]
    assert data.steps_per_epoch(data, 16, 1) == 1
    lr, hr = data.batch(data, SEED, 0, 16, PATCH, 1)
    assert lr.shape == (16, 8, 8, 3) and hr.shape == (16, 32, 32, 3) and lr.dtype == hr.dtype == np.uint8
    assert sorted(numbers((lr, hr))) == [0] * 8 + [1] * 8


def test_the_batch_of_a_step_is_the_same_wherever_a_run_begins_and_in_another_process(photos, tmp_path):
    data = cache(photos, tmp_path)
    from_0 = [pair for pair, _ in zip(data.batches(data, SEED, 0, 8, 3, PATCH, 1), range(9), strict=False)]
    from_5 = [pair for pair, _ in zip(data.batches(data, SEED, 5, 8, 3, PATCH, 1), range(9), strict=False)]
    for one, other in zip(from_0[5:], from_5, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert len({hr.numpy().tobytes() for _, hr in from_0}) == 8
    for other in ((1, 1), (0, 2)):  # another seed, another phase
        assert not np.array_equal(data.batch(data, other, 0, 3, PATCH, 1)[1], from_0[0][1])
    program = ("import hashlib, sys; sys.path.insert(0, sys.argv[1]); import utils\n"
               "data = data.cache_photos(images.list_images(sys.argv[2]), '', sys.argv[3], 32)\n"
               "print([hashlib.sha256(x).hexdigest() for step in (5, 0) for x in data.batch(data, (0, 1), step, 3, 32, 1)])")
    run = subprocess.run([sys.executable, "-c", program, os.path.dirname(utils.__file__), photos, tmp_path / "cache"],
                         capture_output=True, text=True)
    assert run.stdout.strip() == str([hashlib.sha256(x.numpy()).hexdigest() for step in (5, 0) for x in from_0[step]]), run.stderr


# --------------------------------------------------------------------------------------------------------------- cache


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded."""
    names, decode = [], images._decode
    monkeypatch.setattr(utils, "_decode", lambda path: names.append(Path(path).name) or decode(path))
    return names


def test_a_second_run_decodes_nothing(photos, tmp_path, decoded):
    first = cache(photos, tmp_path)
    assert sorted(decoded) == [f"{number}.png" for number in range(7)]
    decoded.clear()
    assert cache(photos, tmp_path) == first and decoded == []
    for step in range(5):
        data.batch(first, SEED, step, 3, PATCH, 1)
    assert decoded == []


def test_a_photo_that_was_changed_added_renamed_or_removed_is_noticed(photos, tmp_path, decoded):
    cache(photos, tmp_path)
    decoded.clear()
    save(photos / "0.png", np.full((40, 44, 3), 200, np.uint8))
    save(photos / "new.png", np.full((40, 44, 3), 100, np.uint8))
    (photos / "1.png").rename(photos / "one.png")
    (photos / "2.png").unlink()
    data = cache(photos, tmp_path)
    assert sorted(decoded) == ["0.png", "new.png", "one.png"]
    shown = sorted(number for step in range(7) for number in numbers(data.batch(data, SEED, step, 1, PATCH, 1)))
    assert shown == [1, 3, 4, 5, 6, 100, 200]
    assert len(list((tmp_path / "cache").rglob("*.*"))) == 7  # nothing of what is gone


def test_a_partner_that_was_changed_is_noticed(tmp_path):
    (tmp_path / "hr").mkdir()
    (tmp_path / "lr").mkdir()
    save(tmp_path / "hr" / "1.png", np.zeros((40, 40, 3), np.uint8))
    for value in (10, 20):
        save(tmp_path / "lr" / "1x4.png", np.full((10, 10, 3), value, np.uint8))
        os.utime(tmp_path / "lr" / "1x4.png", (value, value))
        assert data.batch(cache(tmp_path / "hr", tmp_path, tmp_path / "lr"), SEED, 0, 1, PATCH, 1)[0].max() == value


def test_pixels_of_the_cache_are_those_of_the_files(tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(pictures.PHOTOS / "coffee.png", tmp_path / "photos")
    photo, = cache(tmp_path / "photos", tmp_path)
    assert (photo.height, photo.width) == (400, 600)
    lr, hr = photo.crop(20, 50, 40)
    coffee = skimage.io.imread(pictures.PHOTOS / "coffee.png")
    np.testing.assert_array_equal(hr, coffee[80:240, 200:360])
    inner = lr.astype(int) - imresize(coffee, 1 / 4)[20:60, 50:90]
    assert np.abs(inner).max() <= 1


def test_every_kind_of_picture_can_be_trained_on_and_what_can_not_is_left_out_by_name(tmp_path, no_bar, capfd):
    (tmp_path / "photos").mkdir()
    good, bad = pictures.good(tmp_path / "photos"), pictures.bad(tmp_path / "photos")
    good |= pictures.lossy(tmp_path / "photos")
    data = cache(tmp_path / "photos", tmp_path, patch=16)
    out, err = capfd.readouterr()
    small = [path for path, pixels in good.items() if min(pixels.shape[:2]) < 16]
    assert len(data) == len(good) - len(small) and len(small) == 4
    tiny = 4  # below 4 pixels, so that they are left out with those that can't be read
    lines = [line for line in out.splitlines() if line.startswith("Left out")]
    assert len(lines) == 1 and lines[0].startswith(f"Left out, {len(bad) + tiny} of {len(good) + len(bad)} photos")
    assert all(path.name in lines[0] for path in [*bad, *small])
    assert err == ""
    assert data.batch(data, SEED, 0, len(data), 16, 1)[1].shape == (len(data), 16, 16, 3)


def test_photos_whose_partner_does_not_fit_are_left_out_by_name(photos, tmp_path, no_bar, capfd):
    (tmp_path / "lr").mkdir()
    for number in range(6):  # number 6 has none
        save(tmp_path / "lr" / f"{number}x4.png", np.full((10 + number + (number == 2), 11, 3), number, np.uint8))
    data = cache(photos, tmp_path, tmp_path / "lr")
    out, _ = capfd.readouterr()
    assert len(data) == 6 and "1 of 7 photos have no partner" in out and "6.png" in out
    assert f"Left out, 1 of 7 photos: {tmp_path}/lr/2x4.png is 11x13, not a quarter of {photos}/2.png (11x12)" in out


def test_photos_smaller_than_a_patch_are_left_out_by_name(photos, tmp_path, no_bar, capfd):
    save(photos / "narrow.png", np.zeros((200, 31, 3), np.uint8))
    assert len(cache(photos, tmp_path)) == 7
    assert "Left out, 1 of 8 photos smaller than a patch of 32 pixels: narrow.png" in capfd.readouterr().out
    with pytest.raises(utils.UserError, match="holds no photo that can be used"):
        cache(photos, tmp_path, patch=400)


def test_a_cached_photo_that_became_shorter_is_said_and_made_anew(photos, tmp_path, decoded):
    first = cache(photos, tmp_path)
    decoded.clear()
    os.truncate(first[3].path, 1000)
    with pytest.raises(utils.UserError, match=r"it is shorter than it was.* makes them anew"):
        first[3].crop(0, 0, 8)
    assert cache(photos, tmp_path) == first and decoded == ["3.png"]
    first[3].crop(0, 0, 8)


def test_names_that_are_no_text_are_cached_too(tmp_path):
    (tmp_path / "photos").mkdir()
    save(tmp_path / "photos" / os.fsdecode(b"\xff.png"), np.zeros((40, 40, 3), np.uint8))
    assert len(cache(tmp_path / "photos", tmp_path)) == 1


def test_a_cache_that_can_not_be_written_is_said(photos, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(utils.UserError, match="can't be written"):
        cache(photos, tmp_path)


def test_a_killed_run_leaves_nothing_in_the_cache_that_is_taken_for_whole(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(40):
        save(tmp_path / "photos" / f"{number}.bmp", np.uint8(pictures.RNG.integers(0, 256, (600, 800, 3))))
    program = ("import sys; sys.path.insert(0, sys.argv[1]); import utils; print('begins', flush=True)\n"
               "data.cache_photos(images.list_images(sys.argv[2]), '', sys.argv[3], 32)")
    run = subprocess.Popen([sys.executable, "-c", program, os.path.dirname(utils.__file__), tmp_path / "photos",
                            tmp_path / "cache"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    run.stdout.readline()
    while not list((tmp_path / "cache").glob("*/[!.]*.rgb")):
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.wait()
    left = list((tmp_path / "cache").glob("*/[!.]*.rgb"))
    assert 0 < len(left) < 40
    assert all(path.stat().st_size == 600 * 800 * 3 * 17 // 16 for path in left)
    data = cache(tmp_path / "photos", tmp_path)
    hr = [photo.crop(0, 0, 150)[1] for photo in data]
    for number, (path, pixels) in enumerate(zip(images.list_images(tmp_path / "photos"), hr, strict=True)):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(path))[:600, :600], str(number))


# ---------------------------------------------------------------------------------------------------------- validation


def test_what_can_not_be_measured_is_said_and_left_out(tmp_path, capsys):
    photo = save(tmp_path / "photo.png", pictures.RGB)
    small = save(tmp_path / "small.png", pictures.RGB[:18])
    (tmp_path / "empty.png").touch()
    pairs = [(small, None), (tmp_path / "empty.png", None), (photo, None), (tmp_path / "nothing.png", None)]
    (path, hr, lr), = data.read_pairs(pairs)
    assert path == photo and hr.shape == (20, 28, 3) and lr.shape == (5, 7, 3)
    err = capsys.readouterr().err.splitlines()
    assert [line.split("/")[-1].split(" ")[0] for line in err] == ["small.png", "empty.png", "nothing.png"]
    assert all(line.startswith("Left out: ") for line in err)
    with pytest.raises(utils.UserError, match="None of the validation images"):
        list(data.read_pairs(pairs[:2]))
