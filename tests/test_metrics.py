"""The numbers of the tables are those of the literature, as scikit-image measures them."""
import numpy as np
import pictures
import pytest
from PIL import Image, ImageFilter
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import data
import images
import utils


def worse(image, how):
    if how == "blur":
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)))
    if how == "noise":
        return np.uint8((image + np.random.default_rng(0).normal(0, 20, image.shape)).clip(0, 255))
    if how == "dark":
        return image // 2
    return image[::-1].copy()


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "brick.png"])
@pytest.mark.parametrize("how", ["blur", "noise", "dark", "upside down"])
def test_psnr_and_ssim_are_those_of_scikit_image(name, how):
    hr = images.read_image(pictures.PHOTOS / name)
    sr = worse(hr, how)
    psnr, ssim = images.psnr_ssim(sr, hr)
    y_sr, y_hr = (rgb2ycbcr(image)[4:-4, 4:-4, 0] for image in (sr, hr))
    assert psnr == pytest.approx(peak_signal_noise_ratio(y_hr, y_sr, data_range=255), abs=1e-3)
    # Its map has a value where the 11x11 window reaches over the border; the literature means over the others.
    _, everywhere = structural_similarity(y_hr, y_sr, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                          data_range=255, full=True)
    assert ssim == pytest.approx(everywhere[5:-5, 5:-5].mean(), abs=5e-5)


def test_luminance_is_that_of_scikit_image_in_all_colours():
    colours = np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), axis=-1).reshape(18, -1, 3)
    y = images.luminance(colours)
    assert y.shape == (*colours.shape[:2], 1) and y.dtype == np.float32
    np.testing.assert_allclose(y[:, :, 0], rgb2ycbcr(colours)[:, :, 0], atol=1e-4)
    np.testing.assert_allclose(images.luminance(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)).ravel(), [16, 235], atol=1e-4)


def test_the_border_of_4_pixels_does_not_count():
    hr = images.read_image(pictures.PHOTOS / "coffee.png")[:64, :64]
    sr = worse(hr, "blur")
    spoiled = sr.copy()
    spoiled[:4], spoiled[-4:], spoiled[:, :4], spoiled[:, -4:] = 0, 255, 255, 0
    assert images.psnr_ssim(spoiled, hr) == images.psnr_ssim(sr, hr)
    spoiled[4, 4] = 255 - spoiled[4, 4]
    assert images.psnr_ssim(spoiled, hr)[0] < images.psnr_ssim(sr, hr)[0]


def test_colour_does_not_count_where_luminance_is_the_same():
    gray = np.full((32, 32, 3), 100, np.uint8)
    tinted = gray.copy()
    tinted[:, :, 0] += 39  # 39 * 65.481 = 19.9 * 128.553
    tinted[:, :, 1] -= 20
    assert images.psnr_ssim(tinted, gray)[0] > 60 and peak_signal_noise_ratio(gray, tinted) < 21


def test_an_image_equals_itself():
    hr = images.read_image(pictures.PHOTOS / "chelsea.png")
    assert images.psnr_ssim(hr, hr) == (np.inf, 1)


def test_the_smallest_image_that_is_let_through_can_be_measured():
    hr = pictures.RGB[:20, :20]
    assert all(np.isfinite(images.psnr_ssim(worse(hr, "noise"), hr)))
    with pytest.raises(utils.UserError):
        list(data.read_pairs([("no such file", None)]))
