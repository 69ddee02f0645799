"""LR is HR shrunk as MATLAB does it; what cameras and messengers do is as SciPy, Pillow or TensorFlow do it."""
import io
import math

from utils import UserError

import numpy as np
import pictures
import pytest
import scipy.ndimage
import tensorflow as tf
from PIL import Image
from skimage.registration import phase_cross_correlation

import degradations
from config import config
from files import images

HR = images.read_image(pictures.PHOTOS / "astronaut.png")[100:340, 80:360]  # 240x280


def rng(seed=0):
    return np.random.default_rng(seed)


def difference(a, b, border=0):
    inside = slice(border, -border or None)
    return np.abs(a.astype(float) - b)[inside, inside]


def cubic(x):
    """Keys' kernel with a = -0.5, as in MATLAB's imresize."""
    x = np.abs(x)
    inner, outer = 1.5 * x ** 3 - 2.5 * x ** 2 + 1, -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2
    return inner * (x <= 1) + outer * ((x > 1) & (x <= 2))


def imresize(image, scale):
    """MATLAB's `imresize(image, scale)`, after its source: antialiased bicubic, mirrored at the border."""
    for axis in (0, 1):
        n = image.shape[axis]
        stretch = min(scale, 1)
        centre = (np.arange(round(n * scale)) + 0.5) / scale - 0.5
        near = np.floor(centre - 2 / stretch).astype(int)[:, np.newaxis] + np.arange(int(4 / stretch) + 2)
        weights = cubic((centre[:, np.newaxis] - near) * stretch)
        weights /= weights.sum(axis=1, keepdims=True)
        near = np.concatenate([np.arange(n), np.arange(n)[::-1]])[near % (2 * n)]
        rows = np.moveaxis(image, axis, 0).astype(np.float32)
        image = sum(w[:, np.newaxis, np.newaxis] * rows[i] for w, i in zip(weights.T, near.T, strict=True))
        image = np.moveaxis(image, 0, axis)
        image = image.clip(0, 255).round() if axis else image
    return image.astype(np.uint8)


def photo(name):
    return np.asarray(Image.open(pictures.PHOTOS / name).convert("RGB"))


@pytest.mark.parametrize("name, scale", [("astronaut.png", 2), ("chelsea.png", 3), ("brick.png", 4), ("rocket.jpg", 4),
                                         ("coffee.png", 8)])
def test_lr_is_matlabs_imresize_of_the_photo(name, scale):
    hr = degradations.crop_to_scale(photo(name), scale)
    lr = degradations.shrink(hr, scale)
    difference = np.abs(lr.astype(int) - imresize(hr, 1 / scale))
    inner = difference[3:-3, 3:-3]
    assert inner.max() <= 1 and (inner > 0).mean() < 1e-3  # rounding of 0.5
    assert difference.max() < 16  # MATLAB mirrors the border, TensorFlow leaves it out


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png"])
def test_bicubic_down_and_up_again_is_like_matlabs(name):
    hr = photo(name)
    ours = images.resize(degradations.shrink(hr, 4), *hr.shape[:2])
    matlabs = imresize(imresize(hr, 1 / 4), 4)
    inner = np.abs(ours.astype(int) - matlabs)[16:-16, 16:-16]
    assert inner.max() <= 2 and inner.mean() < 0.02
    errors = [np.mean((back - hr.astype(float)) ** 2) for back in (ours, matlabs)]
    assert abs(10 * np.log10(errors[0] / errors[1])) < 0.03  # dB


@pytest.mark.parametrize("height, width, scale", [(4, 4, 4), (5, 11, 4), (7, 100, 3), (42, 43, 2), (15, 17, 8)])
def test_photos_are_cropped_at_right_and_bottom_to_multiples_of_the_scale(height, width, scale):
    pixels = np.uint8(pictures.RNG.integers(0, 256, (height, width, 3)))
    hr = degradations.crop_to_scale(pixels, scale)
    np.testing.assert_array_equal(hr, pixels[:height // scale * scale, :width // scale * scale])
    assert degradations.shrink(hr, scale).shape == (height // scale, width // scale, 3)


# --------------------------------------------------------------------------------------------- steps and recipes


@pytest.mark.parametrize("sigma", [0.2, 1.2, 2.8])
def test_a_round_blur_is_scipys(sigma):
    expected = scipy.ndimage.gaussian_filter(HR.astype(np.float64), (sigma, sigma, 0), mode="reflect")
    assert difference(degradations.blur(HR, rng(), [sigma, sigma]), expected).max() < 0.6


def test_a_blur_that_is_not_round_has_its_deviations_along_and_across_its_angle():
    kernel = degradations.gaussian(2.5, 1.0, 0.5)
    y, x = np.mgrid[:len(kernel), :len(kernel)] - len(kernel) // 2
    covariance = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
    turn = np.array([[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]])
    np.testing.assert_allclose(covariance, turn @ np.diag([2.5 ** 2, 1]) @ turn.T, atol=0.02)
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[20, 20] = 255
    blurred = degradations.blur(dot, rng(), [2, 4], isotropic=0)
    assert (blurred != blurred.swapaxes(0, 1)).any() and (blurred == blurred[::-1, ::-1]).all()


@pytest.mark.parametrize("method, expected", [
    ("area", HR.reshape(60, 4, 70, 4, 3).mean(axis=(1, 3))),
    ("bilinear", tf.image.resize(HR, (60, 70), "bilinear", antialias=True).numpy()),
    ("bicubic", images.resize(HR, 60, 70))])
def test_antialiased_shrinking_is_tensorflows(method, expected):
    found = difference(degradations.resample(HR, rng(), [method], size=(60, 70)), expected, border=3)
    assert (found > 1).mean() < 0.01 and found.max() <= 3  # Pillow rounds after the rows and again after the columns


def test_shrinking_without_antialiasing_looks_at_the_nearest_pixels_alone():
    lr = degradations.resample(HR, rng(), ["bilinear"], antialiased=0, size=(60, 70))
    middle = np.stack([HR[y::4, x::4] for y in (1, 2) for x in (1, 2)]).mean(axis=0)
    assert difference(lr, middle).max() <= 1
    assert degradations.resize(HR, rng(), [0.5, 0.5], antialiased=0).shape == (120, 140, 3)


@pytest.mark.parametrize("gray", [0, 1])
def test_noise_has_its_deviation_and_is_gray_or_not(gray):
    flat = np.full((256, 256, 3), 128, np.uint8)
    noise = degradations.noise(flat, rng(), [6, 6], gray) - 128.0
    assert abs(noise.std() - 6) < 0.1 and abs(noise.mean()) < 0.1
    correlation = np.corrcoef(noise[:, :, 0].ravel(), noise[:, :, 1].ravel())[0, 1]
    assert abs(correlation - gray) < 0.02


@pytest.mark.parametrize("full_colour, subsampling", [(0, "4:2:0"), (1, "4:4:4")])
def test_jpeg_is_pillows(full_colour, subsampling):
    file = io.BytesIO()
    Image.fromarray(HR).save(file, "JPEG", quality=60, subsampling=subsampling)
    np.testing.assert_array_equal(degradations.jpeg(HR, rng(), [60, 60], full_colour), np.asarray(Image.open(file)))


def test_jpeg_of_a_range_takes_both_of_its_ends():
    small = HR[:16, :16]
    made = {degradations.jpeg(small, rng(seed), [40, 42]).tobytes() for seed in range(40)}
    assert made == {degradations.jpeg(small, rng(), [quality] * 2).tobytes() for quality in (40, 41, 42)}


def test_the_steps_of_a_recipe_are_applied_in_its_order_and_draw_from_one_generator():
    recipe = {"blur": {"sigma": [1, 2]}, "shrink": {}, "noise": {"sigma": [2, 9]}, "jpeg": {"quality": [40, 95]}}
    generator = rng(3)
    image = HR
    generator.random()  # clean or not
    for name, parameters in recipe.items():
        generator.random()  # to be applied or not
        size = {"size": (60, 70)} if name == "shrink" else {}
        image = degradations.STEPS[name](image, generator, **parameters, **size)
    np.testing.assert_array_equal(degradations.degrade(HR, 4, recipe, rng(3)), image)


def test_a_recipe_that_names_no_shrinking_begins_with_it():
    lr = degradations.degrade(HR, 4, {"jpeg": {"quality": [50, 50]}}, rng())
    np.testing.assert_array_equal(lr, degradations.jpeg(degradations.shrink(HR, 4), rng(), [50, 50]))
    plain = degradations.degrade(HR, 4, config.DEGRADATION.bicubic, rng())
    np.testing.assert_array_equal(plain, images.resize(HR, 60, 70))


def test_a_share_of_the_photos_stays_clean_and_the_others_differ():
    hr, recipe = HR[:64, :64], config.DEGRADATION.photo
    made = [degradations.degrade(hr, 4, recipe, rng(seed)).tobytes() for seed in range(400)]
    clean = made.count(degradations.shrink(hr, 4).tobytes())
    assert 55 < clean < 105  # 20% of 400 are 80, with a deviation of 8
    assert len(set(made)) > 400 - clean - 10  # a few are neither blurred nor noisy nor saved as JPEG
    assert made[:50] == [degradations.degrade(hr, 4, recipe, rng(seed)).tobytes() for seed in range(50)]


@pytest.mark.parametrize("recipe", [
    {"blur": {"sigma": [2, 2]}, "shrink": {}},
    {"blur": {"sigma": [0.5, 3], "isotropic": 0}, "shrink": {}},
    *({"resize": {"by": [by, by], "methods": [method], "antialiased": antialiased},
       "shrink": {"methods": [method], "antialiased": antialiased}}
      for by in (0.53, 1.19) for method in degradations.METHODS for antialiased in (0, 1)),
    {"jpeg": {"quality": [60, 60]}}], ids=str)
def test_lr_lies_under_its_hr(recipe):
    """Registered by scikit-image to a hundredth of a pixel of LR."""
    lr = degradations.degrade(HR, 4, recipe, rng())
    moved, _, _ = phase_cross_correlation(
        degradations.shrink(HR, 4)[:, :, 1], lr[:, :, 1], upsample_factor=100, normalization=None)
    assert np.abs(moved).max() <= 0.02


@pytest.mark.parametrize("recipe, message", [
    ({"blurr": {}}, "blurr is no step; the nearest is blur"),
    ({"blur": [1, 2]}, r"blur is \[1, 2\]; it must be the step's parameters"),
    ({"blur": {}}, "blur lacks sigma"),
    ({"blur": {"sgma": [1, 2]}}, "blur has no sgma; the nearest is sigma"),
    ({"blur": {"sigma": 2}}, "blur.sigma is 2; it must be two numbers, lowest and highest, from 0.01 to 100"),
    ({"blur": {"sigma": [0, 2]}}, "blur.sigma is"),
    ({"blur": {"sigma": [2, 1]}}, "blur.sigma is"),
    ({"jpeg": {"quality": [1, 101]}}, "jpeg.quality is"),
    ({"jpeg": {"quality": ["a", "b"]}}, "jpeg.quality is"),
    ({"noise": {"sigma": [1, 2], "probability": 50}}, "noise.probability is 50; it must be a number from 0 to 1"),
    ({"shrink": {"probability": 0.5}}, "shrink has no probability"),
    ({"shrink": {"size": [3, 3]}}, "shrink has no size"),
    ({"shrink": {"methods": ["lanczos"]}}, "shrink.methods is"),
    ({"clean": 2}, "clean is 2; it must be a number from 0 to 1")], ids=str)
def test_a_recipe_with_a_mistake_is_answered_by_a_sentence(recipe, message):
    with pytest.raises(UserError, match=rf"config.DEGRADATION.mine.{message}"):
        degradations.find_recipe({"mine": recipe}, "mine")


def test_the_recipes_that_come_with_the_program_have_no_mistakes():
    for name, recipe in config.DEGRADATION.items():
        assert degradations.find_recipe(config.DEGRADATION, name) == recipe
