"""Whole images in tiles against the network on all of the image at once."""
import numpy as np
import pytest
from test_model import picture, randomize, upscale_whole

import model
from engine import upscaling
from engine.upscaling import Upscaler, cut, grid


@pytest.fixture(scope="module", params=["paper", "tensorlayer"])
def generator(request):
    return randomize(model.get_G(model.ARCHITECTURES[request.param], n_blocks=5))


@pytest.mark.parametrize("size", [(1, 1), (7, 190), (131, 133)])
def test_tiles_give_the_picture_of_the_whole(generator, size):
    lr = picture(*size)
    upscaler = Upscaler(generator, memory_mb=4)
    assert len(upscaler.tiles(*size)) == {(1, 1): 1, (7, 190): 1, (131, 133): 9}[size]
    tiled = upscaler(lr).astype(int)
    whole = model.quantize(upscale_whole(generator, lr)).numpy().astype(int)
    assert tiled.shape == (4 * size[0], 4 * size[1], 3)
    assert np.abs(tiled - whole).max() <= 1


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_gives_nearly_the_same_picture(policy):
    generator = randomize(model.get_G(n_blocks=2))
    lr = picture(40, 70)
    exact = Upscaler(generator)(lr).astype(int)
    upscaler = Upscaler(generator, memory_mb=1, precision=policy)
    assert {str(weight.dtype) for weight in upscaler.network.weights} == {policy.removeprefix("mixed_")}
    difference = np.abs(upscaler(lr) - exact)
    assert 0 < difference.mean() < 1


def test_slopes_above_one_are_upscaled_right():
    generator = randomize(model.get_G(n_blocks=1))
    generator.get_layer("upsample_2_act").alpha.assign(np.linspace(-1, 3, 64))
    lr = picture(9, 12)
    whole = model.quantize(upscale_whole(generator, lr)).numpy().astype(int)
    assert np.abs(Upscaler(generator)(lr) - whole).max() <= 1


def test_a_size_that_is_upscaled_often_is_compiled_to_the_same_picture(monkeypatch):
    generator = randomize(model.get_G(n_blocks=2))
    generator.get_layer("block_1_act").alpha.assign(np.linspace(-1, 3, 64))
    upscaler, lr = Upscaler(generator), picture(30, 40)
    at_once = upscaler(lr)
    monkeypatch.setattr(upscaling, "COMPILE_AFTER", 0)
    assert np.abs(upscaler(lr).astype(int) - at_once).max() <= 1
    assert len(upscaler._compiled) == 3  # both parts of the trunk, and the upsampling


@pytest.mark.parametrize("n_blocks", [1, 2, 3])
def test_few_blocks_make_fewer_stages(n_blocks):
    generator = randomize(model.get_G(n_blocks=n_blocks))
    lr = picture(70, 140)
    whole = model.quantize(upscale_whole(generator, lr)).numpy().astype(int)
    assert np.abs(Upscaler(generator, memory_mb=2)(lr) - whole).max() <= 1


def test_an_untrained_network_of_its_folded_weights_is_the_same():
    generator = randomize(model.get_G(n_blocks=1))
    lr = picture(20, 30)
    np.testing.assert_array_equal(Upscaler(generator)(lr), Upscaler(model.fold_network(generator))(lr))


@pytest.mark.parametrize("height, width, margin, n_pixels", [
    (1356, 2040, 40, 450_000), (180, 320, 40, 450_000), (3, 9000, 40, 100_000), (700, 700, 5, 20_000),
    (300, 300, 40, 10)])
def test_a_grid_covers_the_image_in_tiles_that_fit(height, width, margin, n_pixels):
    rectangles = cut((0, height, 0, width), *grid(height, width, margin, n_pixels))
    covered = np.zeros((height, width), int)
    for y, y_stop, x, x_stop in rectangles:
        covered[y:y_stop, x:x_stop] += 1
        around = ((min(height, y_stop + margin) - max(0, y - margin))
                  * (min(width, x_stop + margin) - max(0, x - margin)))
        assert around <= n_pixels or max(y_stop - y, x_stop - x) <= 64
    assert covered.all()
    assert len({(y_stop - y, x_stop - x) for y, y_stop, x, x_stop in rectangles}) == 1
    if height * width <= n_pixels:
        assert len(rectangles) == 1
