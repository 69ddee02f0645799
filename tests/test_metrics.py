"""The metrics are those of the literature, as scikit-image and others compute them."""
import utils

import numpy as np
import pictures
import pytest
from PIL import Image, ImageFilter
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import metrics
from files import images


def photo(name):
    return images.read_image(pictures.PHOTOS / name)


def worse(image, how):
    if how == "blur":
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)))
    if how == "noise":
        return np.uint8((image + np.random.default_rng(0).normal(0, 20, image.shape)).clip(0, 255))
    if how == "dark":
        return image // 2
    return image[::-1].copy()


def lr_of(hr, scale=4):
    return hr[::scale, ::scale]


@pytest.mark.parametrize("name, scale", [("astronaut.png", 2), ("chelsea.png", 3), ("brick.png", 4), ("coffee.png", 8)])
@pytest.mark.parametrize("how", ["blur", "noise", "dark", "upside down"])
def test_psnr_and_ssim_are_those_of_scikit_image(name, scale, how):
    hr = photo(name)
    hr = hr[:hr.shape[0] // scale * scale, :hr.shape[1] // scale * scale]
    sr = worse(hr, how)
    y_sr, y_hr = (rgb2ycbcr(image)[scale:-scale, scale:-scale, 0] for image in (sr, hr))
    lr = lr_of(hr, scale)
    assert metrics.psnr(sr, hr, lr) == pytest.approx(peak_signal_noise_ratio(y_hr, y_sr, data_range=255), abs=1e-3)
    # Its map has a value where the 11x11 window reaches over the border; the literature means over the others.
    _, everywhere = structural_similarity(y_hr, y_sr, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                          data_range=255, full=True)
    assert metrics.ssim(sr, hr, lr) == pytest.approx(everywhere[5:-5, 5:-5].mean(), abs=5e-5)


def test_luminance_is_that_of_scikit_image_in_all_colours():
    colours = np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), axis=-1).reshape(18, -1, 3)
    y = metrics.luminance(colours)
    assert y.shape == (*colours.shape[:2], 1) and y.dtype == np.float32
    np.testing.assert_allclose(y[:, :, 0], rgb2ycbcr(colours)[:, :, 0], atol=1e-4)
    black_and_white = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(metrics.luminance(black_and_white).ravel(), [16, 235], atol=1e-4)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_a_border_of_one_lr_pixel_does_not_count(scale):
    hr = photo("coffee.png")[:72, :72]
    sr, lr = worse(hr, "blur"), lr_of(hr, scale)
    spoiled = sr.copy()
    spoiled[:scale], spoiled[-scale:], spoiled[:, :scale], spoiled[:, -scale:] = 0, 255, 255, 0
    for metric in (metrics.psnr, metrics.ssim):
        assert metric(spoiled, hr, lr) == metric(sr, hr, lr)
    spoiled[scale, scale] = 255 - spoiled[scale, scale]
    for metric in (metrics.psnr, metrics.ssim):
        assert metric(spoiled, hr, lr) < metric(sr, hr, lr)


def test_colour_counts_on_lr_alone_where_luminance_is_the_same():
    gray = np.full((32, 32, 3), 100, np.uint8)
    tinted = gray.copy()
    tinted[:, :, 0] += 39  # 39 * 65.481 = 19.9 * 128.553
    tinted[:, :, 1] -= 20
    measured, by_rgb = metrics.measure(tinted, gray, lr_of(gray)), peak_signal_noise_ratio(gray, tinted)
    assert measured["psnr"] > 60 and measured["lr_psnr"] == pytest.approx(by_rgb, abs=1e-3) and by_rgb < 21


def test_an_image_equals_itself():
    hr = photo("chelsea.png")[:300, :400]
    black = np.zeros_like(hr)
    assert metrics.measure(black, black, lr_of(black)) == {"psnr": 100, "ssim": 1, "lr_psnr": 100, "niqe": None}
    assert metrics.psnr(hr, hr, lr_of(hr)) == 100 and metrics.ssim(hr, hr, lr_of(hr)) == 1


def test_the_smallest_image_that_is_let_through_can_be_measured():
    hr = pictures.RGB[:20, :20]
    measured = metrics.measure(worse(hr, "noise"), hr, lr_of(hr))
    assert measured.pop("niqe") is None and all(np.isfinite([*measured.values()]))


def test_means_are_over_the_images_for_which_a_metric_is_defined():
    rows = [{"psnr": 20.0, "ssim": None, "lr_psnr": None, "niqe": None},
            {"psnr": 30.0, "ssim": 0.5, "lr_psnr": None, "niqe": 4.0}]
    assert metrics.mean(rows) == {"psnr": 25.0, "ssim": 0.5, "lr_psnr": None, "niqe": 4.0}


@pytest.mark.parametrize("name, published", [
    ("astronaut.png", 3.0205), ("chelsea.png", 2.6893), ("coffee.png", 4.0796), ("rocket.jpg", 6.7295)])
def test_niqe_is_that_of_another_implementation(name, published):
    """Of BasicSR, whose value of baboon of Set14 is MATLAB's within 0.0001."""
    hr = np.asarray(Image.open(pictures.PHOTOS / name).convert("RGB"))  # without the profile that rocket.jpg has
    lr = hr[:len(hr) // 4 * 4:4, ::4]
    assert metrics.niqe(hr, hr, lr) == pytest.approx(published, abs=0.003)


def test_niqe_finds_noise_and_blur_less_natural():
    hr = photo("coffee.png")
    natural, noisy, blurred = (metrics.niqe(sr, hr, lr_of(hr)) for sr in (hr, worse(hr, "noise"), worse(hr, "blur")))
    assert natural + 1 < min(noisy, blurred)


def test_niqe_of_a_small_image_is_a_dash_and_its_reason_is_said_once(capsys):
    utils.say_once.cache_clear()
    for hr in (photo("chelsea.png")[:100, :299], photo("chelsea.png")[:180, :180]):
        assert metrics.METRICS["niqe"].format(metrics.niqe(hr, hr, lr_of(hr))) == "-"
    assert capsys.readouterr().out.count("NIQE") == 1


def test_a_mesh_is_found_by_its_strength_and_grain_is_none():
    lr = np.repeat(np.linspace(60, 200, 80), 60).reshape(80, 60, 1).repeat(3, axis=2).astype("uint8")  # a sky
    sr = images.resize(lr.astype("float32"), 320, 240).round()
    pattern = np.tile([[6, -6, 0, 0]], (4, 1))
    meshed = np.uint8(sr + np.tile(pattern, (80, 60))[..., np.newaxis])
    grain = np.random.default_rng(0).normal(0, 6, (320, 240, 1))
    weight = (65.481 + 128.553 + 24.966) / 255  # of a level of gray in Y
    assert metrics.mesh(meshed, lr) == pytest.approx(weight * pattern.std(), abs=0.1)
    assert metrics.mesh(np.uint8(sr + grain), lr) < 0.3 and metrics.mesh(np.uint8(sr), lr) < 0.3
    assert metrics.mesh(np.roll(meshed, 1, axis=1), lr) == pytest.approx(metrics.mesh(meshed, lr), abs=0.1)
    rough = np.random.default_rng(0).integers(0, 256, lr.shape, "uint8")
    assert metrics.mesh(meshed, rough) is None
