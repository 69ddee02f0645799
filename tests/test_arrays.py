"""Whatever plainly is an image in Python is taken as one, and nothing else."""
import utils

import numpy as np
import pictures
import pytest
from PIL import Image

from files import arrays, images


@pytest.mark.parametrize("wrap", [lambda a: a, np.asfortranarray, lambda a: np.pad(a, 1)[1:-1, 1:-1],
                                  lambda a: a[::-1][::-1], lambda a: a.astype(a.dtype.newbyteorder(">"))])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_arrays_that_are_plainly_images_are_taken(tmp_path, dtype, wrap):
    white = {"b": 1, "u": np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 0, "f": 1}[np.dtype(dtype).kind]
    gray = (pictures.GRAY[:, :, 0] > 100).astype(dtype) * dtype(white)
    array = wrap(gray)
    array.flags.writeable = False
    pixels = arrays.to_pixels(array)
    assert pixels.dtype == (np.uint8 if dtype in (bool, np.uint8) else np.uint16)
    np.testing.assert_array_equal(pixels[:, :, 0], (gray > 0) * np.iinfo(pixels.dtype).max)
    images.write_image(tmp_path / "a.png", array)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png", native=True), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "I;16"])
def test_pillow_images_are_taken(mode):
    image = Image.fromarray(pictures.RGB)
    image = Image.fromarray(pictures.GRAY16[:, :, 0]) if mode == "I;16" else image.convert(mode)
    pixels = arrays.to_pixels(image)
    assert pixels.shape[2] == {"1": 1, "L": 1, "LA": 2, "RGBA": 4, "PA": 4, "I;16": 1}.get(mode, 3)
    if mode != "I;16":
        like = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
        np.testing.assert_array_equal(np.squeeze(pixels), np.asarray(image.convert(like)))


@pytest.mark.parametrize("array", [
    pictures.RGB.astype(np.int64), pictures.RGB.astype(np.int16), pictures.RGB.astype(np.uint32),
    np.moveaxis(pictures.RGB, 2, 0), np.zeros((9, 9, 5), np.uint8), np.zeros((1, 9, 9, 3), np.uint8),
    np.zeros((0, 9, 3), np.uint8), np.float32(pictures.RGB), np.full((9, 9), np.nan), np.full((9, 9), -0.1),
    np.zeros((9, 9), complex), np.array("photo.jpg"), None, Image.new("I", (9, 9)), np.zeros(9, np.uint8)])
def test_arrays_that_may_mean_anything_are_refused_with_one_sentence(array):
    with pytest.raises(utils.UserError, match=r"^An image is \(H, W\) or \(H, W, C\), .*; this is [^\n]*\)[^\n]*\.$"):
        arrays.to_pixels(array)


@pytest.mark.parametrize("low, high, stretched", [
    (0, 231, True), (0, 4095, True), (31_768, 35_768, True), (65_000, 65_535, True), (0, 1, True), (0, 65_535, False),
    (0, 16_383, True), (100, 20_000, False), (7, 7, False)])
def test_measurements_of_a_small_range_are_stretched_and_nothing_else(low, high, stretched):
    colours = pictures.RNG.integers(low, high, (20, 30, 3), np.uint16, endpoint=True)
    colours[0, 0] = low, high, low
    wide, limits = arrays.stretch(colours)
    assert limits == ((low, high) if stretched else None)
    assert (wide.min(), wide.max()) == ((0, 65_535) if stretched else (low, high))
    if limits:
        np.testing.assert_array_equal(arrays.undo_stretch(wide, *limits), colours)
    dark = (colours % 40).astype(np.uint8)
    assert arrays.stretch(dark) == (dark, None)


def test_hidden_colours_become_those_of_the_nearest_visible_pixel():
    alpha = np.zeros((40, 50, 1), np.uint8)
    alpha[10:20, 5:15], alpha[30, 40] = 255, 1
    colours = np.where(alpha > 0, pictures.RNG.integers(0, 256, (40, 50, 3)), 0).astype(np.uint8)
    spread = arrays.spread_colours(colours, alpha, 48)
    np.testing.assert_array_equal(spread[alpha[:, :, 0] > 0], colours[alpha[:, :, 0] > 0])
    visible = np.argwhere(alpha[:, :, 0])
    for y, x in pictures.RNG.integers(0, (40, 50), (50, 2)):
        distance = ((visible - (y, x)) ** 2).sum(axis=1)
        nearest_ones = visible[distance == distance.min()]
        assert any((spread[y, x] == colours[tuple(place)]).all() for place in nearest_ones)
    nothing = np.zeros_like(alpha)
    np.testing.assert_array_equal(arrays.spread_colours(colours, nothing, 48), colours)
    np.testing.assert_array_equal(arrays.spread_colours(colours, nothing + 1, 48), colours)


@pytest.mark.parametrize("reach", [48, 100])
def test_colours_spread_across_the_bands_of_a_tall_picture(reach):
    alpha = np.zeros((3000, 8, 1), np.uint8)
    alpha[1020:1030] = 255
    spread = arrays.spread_colours(np.where(alpha > 0, np.uint8([200, 100, 50]), np.uint8(0)), alpha, reach)
    assert (spread[1020 - reach:1030 + reach] == (200, 100, 50)).all()
