"""Pairs that belong together, batches that are the same in every run, photos that are decoded once."""
import copy
import errno
import hashlib
import os
import re
import shutil
import time
from pathlib import Path
from unittest import mock

import utils

import numpy as np
import pictures
import pytest
import skimage.io
import tensorflow as tf
from easydict import EasyDict
from PIL import Image

import data
import degradations
from config import config
from files import images, pairing, photo_files

PATCH = 32


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def index_coded(height, width):
    """A photo and its LR that encode positions: red is the row, green the column of the LR, blue the HR pixel in it."""
    rows, columns = np.mgrid[:height // 4, :width // 4]
    lr = np.stack([rows, columns, np.zeros_like(rows)], axis=2).astype(np.uint8)
    hr = lr.repeat(4, axis=0).repeat(4, axis=1)
    hr[:, :, 2] = 1 + np.tile(np.arange(16, dtype=np.uint8).reshape(4, 4), lr.shape[:2])
    return hr, lr


@pytest.fixture
def photos(tmp_path):
    """A folder of seven photos whose blue is their number."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(7):
        save(folder / f"{number}.png", np.full((40 + 4 * number, 44, 3), (7 * number, 3 * number, number), np.uint8))
    return folder


def cache(folder, tmp_path, lr_folder="", patch=PATCH, scale=4):
    lr_files = photo_files.list_images(lr_folder) if lr_folder else []
    pairs = pairing.pair_files(photo_files.list_images(folder), folder, scale, lr_files, lr_folder)
    return data.cache_photos(pairs, str(folder), tmp_path / "cache", patch, scale)


def patches(photos, batch_size, patches_per_image=1, seed=0, recipe=None):
    return data.Patches(photos, seed, batch_size, PATCH, patches_per_image, recipe)


# --------------------------------------------------------------------------------------------------------- LR and HR


def test_a_photo_of_less_than_4_pixels_is_an_error(tmp_path):
    for shape in ((1, 1, 3), (1, 500, 3), (3, 5, 3)):
        path = save(tmp_path / "tiny.png", np.zeros(shape, np.uint8))
        with pytest.raises(utils.UserError, match=r"tiny.png is smaller than 4x4"):
            data.read_pair(path, None, 4)


def test_an_lr_whose_sides_were_rounded_up_is_cropped_like_its_hr(tmp_path):
    pixels, small = (np.uint8(pictures.RNG.integers(0, 256, (*shape, 3))) for shape in ((42, 43), (11, 11)))
    hr, lr = data.read_pair(save(tmp_path / "hr.png", pixels), save(tmp_path / "lr.png", small), 4)
    np.testing.assert_array_equal(hr, pixels[:40, :40])
    np.testing.assert_array_equal(lr, small[:10, :10])


def test_an_lr_of_the_wrong_size_is_an_error_that_names_both_sizes(tmp_path):
    hr = save(tmp_path / "hr.png", np.zeros((40, 48, 3), np.uint8))
    lr = save(tmp_path / "lr.png", np.zeros((12, 10, 3), np.uint8))
    with pytest.raises(utils.UserError, match=r"lr.png is 10x12, not 1/4 of .*hr.png .12x10."):
        data.read_pair(hr, lr, 4)


# --------------------------------------------------------------------------------------------------------- which photos


def test_lr_beside_the_hr_is_what_is_measured_and_trained_on(tmp_path, no_bar):
    hr, lr = index_coded(120, 200)
    (tmp_path / "photos").mkdir()
    save(tmp_path / "photos" / "a.png", hr)
    save(tmp_path / "photos" / "a_LR.png", lr)
    settings = config_of(VALID={"hr_img_path": str(tmp_path / "photos"), "lr_img_path": ""})
    (_, read_hr, read_lr), = data.read_pairs(data.validation_pairs(settings, 4), 4)
    np.testing.assert_array_equal(read_hr, hr)
    np.testing.assert_array_equal(read_lr, lr)
    photo, = cache(tmp_path / "photos", tmp_path)
    np.testing.assert_array_equal(photo.crop_lr(3, 5, 20), lr[3:23, 5:25])


def config_of(**sections):
    return EasyDict({"TRAIN": {"dataset": "folder", "hr_img_path": "DIV2K/DIV2K_train_HR/", "lr_img_path": "",
                               "scale": 4, **sections.get("TRAIN", {})},
                     "VALID": {"hr_img_path": "DIV2K/DIV2K_valid_HR/", "lr_img_path": "", **sections.get("VALID", {})}})


@pytest.mark.parametrize("path", ["DIV2K/DIV2K_train_HR/", "DIV2K/DIV2K_train_HR"])
def test_bundled_photos_stand_in_for_div2k_where_it_is_neither_there_nor_replaced(tmp_path, monkeypatch, path, capsys):
    monkeypatch.chdir(tmp_path)
    settings = config_of(TRAIN={"hr_img_path": path})
    assert data.is_demo(settings) and len(data.training_photos(settings)[0]) == 9
    assert not data.is_demo(config_of(TRAIN={"hr_img_path": "mine/"}))
    with pytest.raises(utils.UserError, match=r"TRAIN.hr_img_path is mine/, which is not a folder"):
        data.training_photos(config_of(TRAIN={"hr_img_path": "mine/"}))
    assert len(data.validation_pairs(settings, 4, announce=False)) == 2 and capsys.readouterr().out == ""
    assert len(data.validation_pairs(settings, 4)) == 2
    assert [len(line) < 80 for line in capsys.readouterr().out.splitlines()] == [True]
    (tmp_path / "DIV2K" / "DIV2K_train_HR").mkdir(parents=True)
    assert not data.is_demo(settings)
    with pytest.raises(utils.UserError, match=r"holds no image; python main.py --mode=download fills it"):
        data.training_photos(settings)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lr_of_div2k_is_that_of_the_scale(tmp_path, monkeypatch, scale):
    monkeypatch.chdir(tmp_path)
    settings = copy.deepcopy(config)  # names the folders of scale 4
    settings.TRAIN.scale = scale
    for part, number in (("train", "0001"), ("valid", "0801")):
        for folder, tag in (("HR", ""), *((f"LR_bicubic/X{scale}", f"x{scale}") for scale in (2, 3, 4))):
            (tmp_path / "DIV2K" / f"DIV2K_{part}_{folder}").mkdir(parents=True)
            (tmp_path / "DIV2K" / f"DIV2K_{part}_{folder}" / f"{number}{tag}.png").touch()
    for pairs in (data.training_photos(settings)[0], data.validation_pairs(settings, scale)):
        (hr, lr), = pairs
        assert lr.as_posix().endswith(f"_LR_bicubic/X{scale}/{hr.stem}x{scale}.png")


@pytest.mark.parametrize("section", ["TRAIN", "VALID"])
def test_photos_of_subfolders_are_used_and_results_of_this_program_are_not(tmp_path, section, capsys):
    for name in ("photo.png", "sub/photo.png", "sub/deeper/photo_gen.png"):  # a name alone makes no result
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / name, pictures.RGB)
    for name in ("photo_gen.png", "train_g_10.png", "sub/photo_hr.png"):
        images.write_image(tmp_path / name, pictures.RGB)
    (tmp_path / "raw.dng").touch()
    settings = config_of(**{section: {"hr_img_path": str(tmp_path)}})
    pairs = data.training_photos(settings)[0] if section == "TRAIN" else data.validation_pairs(settings, 4)
    assert {path.relative_to(tmp_path).as_posix() for path, _ in pairs} == {
        "photo.png", "sub/photo.png", "sub/deeper/photo_gen.png"}
    out = capsys.readouterr().out
    assert "3 results" in out and "raw.dng" in out


@pytest.mark.parametrize("partner, recipe", [(True, None), (False, None), (False, {"shrink": {}})])
def test_lr_and_hr_of_a_patch_show_the_same_place_in_the_same_orientation(tmp_path, partner, recipe):
    (tmp_path / "hr").mkdir()
    (tmp_path / "lr").mkdir()
    hr, lr = index_coded(120, 200)
    save(tmp_path / "hr" / "0001.png", hr)
    if partner:
        save(tmp_path / "lr" / "0001x4.png", lr)
    else:  # LR is made; the index is a ramp then, which the bicubic keeps
        lr = degradations.shrink(hr, 4)
    source = patches(cache(tmp_path / "hr", tmp_path, tmp_path / "lr" if partner else ""), 8, recipe=recipe)
    orientations, places = set(), set()
    for step in range(60):
        for lr_patch, hr_patch in zip(*source.batch(1, step), strict=True):
            mean = hr_patch[4:-4, 4:-4, :2].reshape(6, 4, 6, 4, 2).mean((1, 3))
            np.testing.assert_allclose(lr_patch[1:-1, 1:-1, :2], mean, atol=1)
            orientations.add((tuple(map(int, hr_patch[0, :2, 2])), int(hr_patch[1, 0, 2])))
            row, column = int(hr_patch[:, :, 0].min()), int(hr_patch[:, :, 1].min())
            places.add((row, column))
            part = hr[4 * row:4 * row + PATCH, 4 * column:4 * column + PATCH]
            ways = [np.rot90(side, turns) for side in (part, part[:, ::-1]) for turns in range(4)]
            assert any(np.array_equal(hr_patch, way) for way in ways)
            if partner:
                assert set(lr_patch[:, :, 2].ravel()) == {0}  # from its file, not made from HR
    assert len(orientations) == 8  # all flips and rotations
    rows, columns = zip(*places, strict=True)
    rare = 2 if recipe else 0  # a patch at the border of a crop at the border
    assert max(min(rows), min(columns), 30 - 8 - max(rows), 50 - 8 - max(columns)) <= rare


# ------------------------------------------------------------------------------------------------------------- batches


def numbers(batch):
    return [int(hr[0, 0, 2]) for hr in batch[1]]


def test_an_epoch_shows_every_photo_once_in_a_new_order(photos, tmp_path):
    source = patches(cache(photos, tmp_path), 3)
    assert source.steps_per_epoch == 3  # 7 photos; the last batch is filled up
    epochs = [[number for step in range(3) for number in numbers(source.batch(1, 3 * epoch + step))]
              for epoch in range(5)]
    for epoch in epochs:
        assert sorted(epoch[:7]) == list(range(7)) and len(epoch) == 9
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_photo_gives_patches_per_image_patches_an_epoch(photos, tmp_path):
    source = patches(cache(photos, tmp_path), 4, 6)
    assert source.steps_per_epoch == 11
    shown = [number for step in range(11) for number in numbers(source.batch(1, step))]
    assert sorted(shown[:42]) == sorted(list(range(7)) * 6)


def test_fewer_photos_than_a_batch_still_give_a_step(photos, tmp_path):
    source = patches(cache(photos, tmp_path)[:2], 16)
    assert source.steps_per_epoch == 1
    lr, hr = source.batch(1, 0)
    assert lr.shape == (16, 8, 8, 3) and hr.shape == (16, 32, 32, 3) and lr.dtype == hr.dtype == np.uint8
    assert sorted(numbers((lr, hr))) == [0] * 8 + [1] * 8


RECIPES = pytest.mark.parametrize("recipe", [None, config.DEGRADATION.photo], ids=["bicubic", "photo"])


@RECIPES
def test_a_step_has_the_same_batch_wherever_a_run_begins(photos, tmp_path, recipe):
    source = patches(cache(photos, tmp_path), 3, recipe=recipe)
    from_0, from_5 = (list(source.dataset(1, start, 8)) for start in (0, 5))
    assert (len(from_0), len(from_5)) == (8, 3)
    for one, other in zip(from_0[5:], from_5, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert len({hr.numpy().tobytes() for _, hr in from_0}) == 8
    for other in (patches(source.photos, 3, seed=1).batch(1, 0), source.batch(2, 0)):
        assert not np.array_equal(other[1], from_0[0][1])


def test_a_seed_means_the_same_batches_for_good(tmp_path):
    """A digest from before batches were made by `Patches`: a training of then continues with the photos of then."""
    rng = np.random.default_rng(5)
    photos = [data.CachedPhoto(tmp_path / f"{i}.rgb", 40 + 4 * i, 44 + 8 * i, 4) for i in range(5)]
    for photo in photos:
        photo.path.write_bytes(rng.integers(0, 256, photo.n_bytes, dtype=np.uint8).tobytes())
    source = patches(photos, 4, 3, seed=3)
    digest = hashlib.sha256(b"".join(array.tobytes() for phase in (0, 1, 2) for step in range(7)
                                     for array in source.batch(phase, step, share=1, n_shares=2)))
    assert digest.hexdigest() == "18737e0dd140aaa2f27de8f2e911a7d2cd4a675af0793e1e12e08494abc21c97"


@RECIPES
def test_shares_of_devices_make_up_the_batch(photos, tmp_path, recipe):
    source = patches(cache(photos, tmp_path), 4, recipe=recipe)
    shares = list(source.dataset(1, 2, 4, shares=(2, 3), n_shares=4))
    for (lr, hr), (step, share) in zip(shares, [(2, 2), (2, 3), (3, 2), (3, 3)], strict=True):
        whole = source.batch(1, step)
        np.testing.assert_array_equal(lr, whole[0][share:share + 1])
        np.testing.assert_array_equal(hr, whole[1][share:share + 1])


def test_the_blocks_of_jpeg_lie_anywhere_in_a_patch(tmp_path):
    (tmp_path / "photos").mkdir()
    save(tmp_path / "photos" / "a.png", np.tile(np.linspace(0, 255, 400, dtype=np.uint8)[:, np.newaxis], (400, 1, 3)))
    source = patches(cache(tmp_path / "photos", tmp_path), 16, 16, recipe={"jpeg": {"quality": [10, 10]}})
    borders = set()
    for lr in np.concatenate([source.batch(1, step)[0] for step in range(10)]).astype(int):
        steps = max((np.abs(np.diff(lr[:, :, 1], axis=axis)).sum(axis=1 - axis) for axis in (0, 1)), key=np.ptp)
        borders.add(int(steps.argmax()))
    assert borders == set(range(7))  # between any two of the eight rows or columns


def test_scoring_degrades_a_photo_of_a_name_always_the_same(tmp_path):
    recipe = {"noise": {"sigma": [5, 5]}}
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        for name in ("a.png", "b.png"):
            save(tmp_path / folder / name, np.full((64, 64, 3), 128, np.uint8))
    found = {(folder, name): data.read_pair(tmp_path / folder / name, None, 4, recipe)[1].tobytes()
             for folder in ("first", "second") for name in ("a.png", "b.png")}
    assert found["first", "a.png"] == found["second", "a.png"] != found["first", "b.png"] == found["second", "b.png"]


# --------------------------------------------------------------------------------------------------------------- cache


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded."""
    names, read = [], images.read_image
    monkeypatch.setattr(images, "read_image", lambda path: names.append(Path(path).name) or read(path))
    return names


def test_a_second_run_decodes_nothing(photos, tmp_path, decoded):
    first = cache(photos, tmp_path)
    assert sorted(decoded) == [f"{number}.png" for number in range(7)]
    decoded.clear()
    assert cache(photos, tmp_path) == first and decoded == []
    for step in range(5):
        patches(first, 3).batch(1, step)
    assert decoded == []


def test_a_photo_that_was_changed_added_renamed_or_removed_is_noticed(photos, tmp_path, decoded):
    cache(photos, tmp_path)
    decoded.clear()
    save(photos / "0.png", np.full((40, 44, 3), 200, np.uint8))
    save(photos / "new.png", np.full((40, 44, 3), 100, np.uint8))
    (photos / "1.png").rename(photos / "one.png")
    (photos / "2.png").unlink()
    source = patches(cache(photos, tmp_path), 1)
    assert sorted(decoded) == ["0.png", "new.png", "one.png"]
    assert sorted(number for step in range(7) for number in numbers(source.batch(1, step))) == [1, 3, 4, 5, 6, 100, 200]


def test_a_partner_that_was_changed_is_noticed(tmp_path):
    (tmp_path / "hr").mkdir()
    (tmp_path / "lr").mkdir()
    save(tmp_path / "hr" / "1.png", np.zeros((40, 40, 3), np.uint8))
    for value in (10, 20):
        save(tmp_path / "lr" / "1x4.png", np.full((10, 10, 3), value, np.uint8))
        os.utime(tmp_path / "lr" / "1x4.png", (value, value))
        assert patches(cache(tmp_path / "hr", tmp_path, tmp_path / "lr"), 1).batch(1, 0)[0].max() == value


@pytest.mark.parametrize("module, version", [(images, "DECODER_VERSION"), (degradations, "VERSION")])
def test_photos_that_were_decoded_or_shrunk_in_another_way_are_decoded_again(
        photos, tmp_path, decoded, monkeypatch, module, version):
    cache(photos, tmp_path)
    decoded.clear()
    monkeypatch.setattr(module, version, 99)
    cache(photos, tmp_path)
    assert len(decoded) == 7


def test_lr_of_a_file_is_not_taken_for_lr_that_was_made(photos, tmp_path):
    (tmp_path / "lr").mkdir()
    for number in range(7):
        save(tmp_path / "lr" / f"{number}x4.png", np.full((10 + number, 11, 3), 250, np.uint8))
    for lr_folder, is_made in ((tmp_path / "lr", False), ("", True), (tmp_path / "lr", False)):
        lr, _ = patches(cache(photos, tmp_path, lr_folder), 7).batch(1, 0)
        assert (lr.max() < 250) == is_made


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_photos_of_two_scales_lie_side_by_side(photos, tmp_path, decoded, scale):
    first = cache(photos, tmp_path)
    other = cache(photos, tmp_path, scale=scale)
    assert len(decoded) == 14
    assert cache(photos, tmp_path) == first and cache(photos, tmp_path, scale=scale) == other and len(decoded) == 14
    size = 24 // scale
    lr, hr = data.Patches(other, 0, 7, 24, 1).batch(1, 0)
    assert lr.shape == (7, size, size, 3) and hr.shape == (7, 24, 24, 3)
    np.testing.assert_allclose(lr.mean(axis=(1, 2)), hr.mean(axis=(1, 2)), atol=1)  # of the same photo


def test_equal_names_in_subfolders_are_cached_apart(tmp_path):
    for value in (10, 20):
        (tmp_path / "photos" / str(value)).mkdir(parents=True)
        save(tmp_path / "photos" / str(value) / "1.png", np.full((40, 40, 3), value, np.uint8))
    pairs = [(path, None) for path in sorted((tmp_path / "photos").rglob("*.png"))]
    found = data.cache_photos(pairs, "photos", tmp_path / "cache", PATCH, 4)
    assert [photo.crop_hr(0, 0, 8).max() for photo in found] == [10, 20]


def test_pixels_of_the_cache_are_those_of_the_files(tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(pictures.PHOTOS / "coffee.png", tmp_path / "photos")
    photo, = cache(tmp_path / "photos", tmp_path)
    assert (photo.height, photo.width) == (400, 600)
    coffee = skimage.io.imread(pictures.PHOTOS / "coffee.png")
    np.testing.assert_array_equal(photo.crop_hr(81, 203, 157), coffee[81:238, 203:360])
    np.testing.assert_array_equal(photo.crop_lr(20, 50, 40), degradations.shrink(coffee, 4)[20:60, 50:90])
    np.testing.assert_array_equal(photo.crop_hr(240, 440, 160), coffee[240:, 440:])  # the last rows and columns


def test_every_kind_of_picture_can_be_trained_on_and_what_can_not_is_left_out_by_name(tmp_path, no_bar, capfd):
    (tmp_path / "photos").mkdir()
    good, bad = pictures.good(tmp_path / "photos"), pictures.bad(tmp_path / "photos")
    good |= pictures.lossy(tmp_path / "photos")
    found = cache(tmp_path / "photos", tmp_path, patch=16)
    out, err = capfd.readouterr()
    small = [path for path, pixels in good.items() if min(pixels.shape[:2]) < 16]
    assert len(found) == len(good) - len(small) and len(small) == 4
    tiny = 4  # below 4 pixels, so that they are left out with those that can't be read
    lines = [line for line in out.splitlines() if line.startswith("Left out")]
    assert len(lines) == 1 and lines[0].startswith(f"Left out, {len(bad) + tiny} of {len(good) + len(bad)} photos")
    assert sum(path.name in lines[0] for path in [*bad, *small]) == 3
    assert lines[0].endswith(f" And {len(bad) + tiny - 3} more.")
    assert err == ""
    assert data.Patches(found, 0, len(found), 16, 1).batch(1, 0)[1].shape == (len(found), 16, 16, 3)


def test_photos_whose_partner_does_not_match_are_left_out_by_name(photos, tmp_path, no_bar, capfd):
    (tmp_path / "lr").mkdir()
    for number in range(6):  # number 6 has none
        save(tmp_path / "lr" / f"{number}x4.png", np.full((10 + number + (number == 2), 11, 3), number, np.uint8))
    found = cache(photos, tmp_path, tmp_path / "lr")
    out, _ = capfd.readouterr()
    assert len(found) == 6 and "1 of 7 photos have no partner" in out and "6.png" in out
    assert f"Left out, 1 of 7 photos: {tmp_path}/lr/2x4.png is 11x13, not 1/4 of {photos}/2.png (11x12)" in out


def test_photos_smaller_than_a_patch_are_left_out_by_name(photos, tmp_path, no_bar, capfd):
    save(photos / "narrow.png", np.zeros((200, 31, 3), np.uint8))
    assert len(cache(photos, tmp_path)) == 7
    assert "Left out, 1 of 8 photos smaller than a patch of 32 pixels: narrow.png" in capfd.readouterr().out
    with pytest.raises(utils.UserError, match="None of the 8 photos can be used"):
        cache(photos, tmp_path, patch=400)


@pytest.mark.parametrize("damage, reason", [
    (lambda path: os.truncate(path, 1000), "it is shorter than it was"), (os.remove, "No such file or directory")])
def test_a_cached_photo_that_is_damaged_in_use_is_a_sentence_and_the_next_run_restores_it(
        photos, tmp_path, decoded, damage, reason):
    first = cache(photos, tmp_path)
    decoded.clear()
    damage(first[3].path)
    source = patches(first, 7)
    sentence = f"{first[3].path} can't be read ({reason}); the decoded photos"
    with pytest.raises(utils.UserError, match=re.escape(sentence)), source.user_errors():
        list(source.dataset(1, 0, 3))  # of TensorFlow, which makes an error of its own out of it
    assert cache(photos, tmp_path) == first and decoded == ["3.png"]
    first[3].crop_hr(0, 0, 8)


def test_other_errors_of_tensorflow_are_not_taken_for_a_users(photos, tmp_path):
    source = patches(cache(photos, tmp_path), 7)
    with pytest.raises(tf.errors.ResourceExhaustedError), source.user_errors():
        raise tf.errors.ResourceExhaustedError(None, None, "UserError: no memory")


def test_photos_are_read_where_files_can_not_be_mapped(photos, tmp_path, monkeypatch):
    """As on shared folders of Docker Desktop and virtual machines; see ENODEV in mmap(2)."""
    monkeypatch.setattr("mmap.mmap", mock.Mock(side_effect=OSError(errno.ENODEV, "No such device")))
    assert sorted(numbers(patches(cache(photos, tmp_path), 7).batch(1, 0))) == list(range(7))


def test_names_that_are_not_text_are_cached_too(tmp_path):
    (tmp_path / "photos").mkdir()
    save(tmp_path / "photos" / os.fsdecode(b"\xff.png"), np.zeros((40, 40, 3), np.uint8))
    assert len(cache(tmp_path / "photos", tmp_path)) == 1


def test_a_cache_that_can_not_be_written_is_an_error(photos, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(utils.UserError, match="can't be written"):
        cache(photos, tmp_path)


def test_a_run_that_is_killed_while_decoding_leaves_no_half_photo(photos, tmp_path, monkeypatch):
    sizes, fsync = [], os.fsync

    def visible(descriptor):  # the last moment before a photo is whole
        sizes.extend((path.name, path.stat().st_size) for path in (tmp_path / "cache").glob("*/[!.]*"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", visible)
    cached = {photo.path.name: photo.n_bytes for photo in cache(photos, tmp_path)}
    assert sizes and all(size == cached[name] for name, size in sizes)
    folder, = (tmp_path / "cache").iterdir()
    for name, age in (("old", 7200), ("new", 60)):  # what a kill leaves; the new one may be another run's
        (folder / f".{name}.partial.rgb").touch()
        os.utime(folder / f".{name}.partial.rgb", (time.time() - age,) * 2)
    cache(photos, tmp_path)
    assert [path.name for path in folder.glob(".*")] == [".new.partial.rgb"]


def test_a_second_run_takes_nothing_from_the_first(photos, tmp_path, capsys):
    first = cache(photos, tmp_path)
    os.utime(photos / "3.png", (1, 1))
    (photos / "4.png").unlink()
    second = cache(photos, tmp_path)
    assert "1 new or changed, 2 gone or changed" in capsys.readouterr().out
    assert cache(photos, tmp_path) == second and "gone" not in capsys.readouterr().out
    assert len({photo.path for photo in first} - {photo.path for photo in second}) == 2
    assert sorted(numbers(patches(first, 7).batch(1, 0))) == list(range(7))
    for photo in first:  # a month later
        os.utime(photo.path, (time.time() - 31 * 86400,) * 2)
    assert cache(photos, tmp_path) == second
    assert {photo.path for photo in second} == set((tmp_path / "cache").glob("*/*.rgb"))


# ---------------------------------------------------------------------------------------------------------- validation


def test_what_can_not_be_measured_is_said_and_left_out(tmp_path, capsys):
    photo = save(tmp_path / "photo.png", pictures.RGB)
    small = save(tmp_path / "small.png", pictures.RGB[:18])
    (tmp_path / "empty.png").touch()
    pairs = [(small, None), (tmp_path / "empty.png", None), (photo, None), (tmp_path / "nothing.png", None)]
    (path, hr, lr), = data.read_pairs(pairs, 4)
    assert path == photo and hr.shape == (20, 28, 3) and lr.shape == (5, 7, 3)
    err = capsys.readouterr().err.splitlines()
    assert [line.split("/")[-1].split(" ")[0] for line in err] == ["small.png", "empty.png", "nothing.png"]
    assert all(line.startswith("Left out: ") for line in err)
    with pytest.raises(utils.UserError, match="None of the validation images"):
        list(data.read_pairs(pairs[:2], 4))
