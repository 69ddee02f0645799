"""LR as cameras and messengers make it: each step beside SciPy, Pillow, TensorFlow or a mean taken by hand."""
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
    ({"blurr": {}}, "R names blurr, which is no step; the nearest is blur"),
    ({"blur": [1, 2]}, r"R.blur is \[1, 2\]; it must be the step's parameters"),
    ({"blur": {}}, "R.blur lacks sigma"),
    ({"blur": {"sgma": [1, 2]}}, "R.blur has no sgma; the nearest is sigma"),
    ({"blur": {"sigma": 2}}, "R.blur.sigma is 2; it must be two numbers, lowest and highest, from 0.01 to 100"),
    ({"blur": {"sigma": [0, 2]}}, "R.blur.sigma is"),
    ({"blur": {"sigma": [2, 1]}}, "R.blur.sigma is"),
    ({"jpeg": {"quality": [1, 101]}}, "R.jpeg.quality is"),
    ({"jpeg": {"quality": ["a", "b"]}}, "R.jpeg.quality is"),
    ({"noise": {"sigma": [1, 2], "probability": 50}}, "R.noise.probability is 50; it must be a number from 0 to 1"),
    ({"shrink": {"probability": 0.5}}, "R.shrink has no probability"),
    ({"shrink": {"size": [3, 3]}}, "R.shrink has no size"),
    ({"shrink": {"methods": ["lanczos"]}}, "R.shrink.methods is"),
    ({"clean": 2}, "R.clean is 2; it must be a number from 0 to 1")], ids=str)
def test_a_recipe_with_a_mistake_is_answered_by_a_sentence(recipe, message):
    with pytest.raises(UserError, match=message):
        degradations.check_recipe(recipe, "R")


def test_the_recipes_that_come_with_the_program_have_no_mistakes():
    for name, recipe in config.DEGRADATION.items():
        degradations.check_recipe(recipe, name)
