"""Whole images in tiles against the network on all of the image at once."""
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from test_model import picture, randomize, upscale_whole

import model
import weights
from engine import graph, upscaling
from engine.upscaling import Upscaler, cut, grid


def equals_the_whole(upscaler, generator, lr):
    tiled = upscaler(lr).astype(int)
    whole = model.quantize(upscale_whole(generator, lr)).numpy().astype(int)
    assert tiled.shape == whole.shape
    return np.abs(tiled - whole).max() <= 1


@pytest.mark.parametrize("architecture", [model.PAPER, model.TENSORLAYER], ids=str)
def test_tiles_give_the_picture_of_the_whole(architecture):
    generator = randomize(model.get_G(architecture, n_blocks=5))
    upscaler = Upscaler(generator, memory_mb=3)
    for size, n_tiles in (((1, 1), 1), ((7, 130), 1), ((67, 133), 6)):
        assert len(upscaler.tiles(*size)) == n_tiles
        assert equals_the_whole(upscaler, generator, picture(*size))


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_tiles_of_each_scale_are_no_wider_than_the_picture_of_the_whole_needs(scale):
    generator = randomize(model.get_G(n_blocks=1, scale=scale))
    upscaler = Upscaler(generator, memory_mb=1)
    assert upscaler.scale == scale and len(upscaler.tiles(40, 70)) > 1
    assert equals_the_whole(upscaler, generator, picture(40, 70))
    x = tf.Variable(np.full((1, 25, 25, 3), 0.5, "float32"))
    with tf.GradientTape() as tape:
        sr = generator(x)[0, 12 * scale, 12 * scale, 0]
    seen = np.flatnonzero(np.abs(tape.gradient(sr, x)).sum((0, 2, 3)))
    assert 12 - seen.min() == graph.fields(graph.parts(upscaler.network))[0] == 10


def narrow_generator(lr, architecture, kit):
    """32 channels, dense connections, an upsampling by nearest neighbour and a tail of Keras's own."""
    x = head = kit.relu(kit.conv(lr, 32, 5, "head_conv"), "head_act")
    for block in range(1, architecture.n_blocks + 1):
        y = kit.prelu(kit.conv_norm(x, 32, 3, f"block_{block}_conv"), f"block_{block}_act", channels=32)
        x = kit.add(x, y, f"block_{block}_sum")
    x = layers.Concatenate(name="trunk", dtype=kit.dtype)([x, head])
    x = layers.UpSampling2D(architecture.scale, name="upsample", dtype=kit.dtype)(x)
    x = kit.conv(x, 3, 7, "tail_conv")
    return layers.Activation("tanh", name="sr", dtype="float32")(x), ["block_3_sum", "trunk"]


def test_a_network_of_another_shape_takes_a_builder_and_an_entry(tmp_path, monkeypatch):
    narrow = model.Architecture("narrow", narrow_generator, model.PAPER.discriminator, (-1, 1), n_blocks=8)
    monkeypatch.setitem(model.ARCHITECTURES, "narrow", narrow)
    for n_blocks, scale in ((8, 4), (4, 3)):
        generator = randomize(model.get_G(narrow, n_blocks=n_blocks, scale=scale))
        weights.save_network(tmp_path / "g.npz", generator)
        loaded, lr = weights.load_generator(tmp_path / "g.npz"), picture(40, 75)
        assert loaded.architecture == generator.architecture
        upscaler = Upscaler(weights.load_folded(tmp_path / "g.npz"), memory_mb=1)
        assert len(upscaler.tiles(40, 75)) > 1
        assert graph.fields(graph.parts(upscaler.network))[0] == 2 + n_blocks + 1
        assert equals_the_whole(upscaler, generator, lr)
        for weight, other in zip(loaded.weights, generator.weights, strict=True):
            np.testing.assert_array_equal(weight, other)


def test_layers_that_see_all_of_an_image_are_not_cut(monkeypatch):
    def generator(lr, architecture, kit):
        x = kit.conv(lr, 3, 3, "conv")
        return layers.Multiply()([x, layers.GlobalAveragePooling2D(keepdims=True, name="mean")(x)]), []

    architecture = model.Architecture("global", generator, None, (0, 1), scale=1)
    with pytest.raises(ValueError, match="mean, GlobalAveragePooling2D"):
        Upscaler(model.fold_network(model.get_G(architecture)))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_gives_nearly_the_same_picture(precision):
    generator = randomize(model.get_G(n_blocks=2))
    lr = picture(40, 70)
    exact = Upscaler(generator)(lr).astype(int)
    upscaler = Upscaler(generator, memory_mb=1, precision=precision)
    assert {str(weight.dtype) for weight in upscaler.network.weights} == {precision}
    difference = np.abs(upscaler(lr) - exact)
    assert 0 < difference.mean() < 1


def test_slopes_above_one_are_upscaled_right():
    generator = randomize(model.get_G(n_blocks=1))
    generator.get_layer("upsample_2_act").alpha.assign(np.linspace(-1, 3, 64))
    assert equals_the_whole(Upscaler(generator), generator, picture(9, 12))


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
    assert equals_the_whole(Upscaler(generator, memory_mb=1), generator, picture(35, 70))


def test_an_untrained_network_of_its_folded_weights_is_the_same():
    generator = randomize(model.get_G(n_blocks=1))
    lr = picture(20, 30)
    np.testing.assert_array_equal(Upscaler(generator)(lr), Upscaler(model.fold_network(generator))(lr))


def test_refreshed_weights_are_those_that_upscale():
    first, second = (randomize(model.get_G(n_blocks=1), seed) for seed in (0, 1))
    upscaler, lr = Upscaler(first), picture(20, 30)
    assert equals_the_whole(upscaler, first, lr)
    for generator in (second, first):
        upscaler.refresh(generator)
        assert equals_the_whole(upscaler, generator, lr)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN's kernels are others there")
@pytest.mark.parametrize("scale", [3, 4])
def test_processors_with_avx2_alone_convolve_by_quick_kernels(scale):
    code = ("import utils, model, numpy; from engine.upscaling import Upscaler; "
            f"Upscaler(model.get_G(n_blocks=1, scale={scale}))(numpy.zeros((30, 40, 3), 'uint8'))")
    onednn = {"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2", "ONEDNN_VERBOSE": "profile_exec"}
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(upscaling.__file__).parents[1], capture_output=True,
                         text=True, env=os.environ | onednn)
    convolutions = [line for line in run.stdout.splitlines() if ",exec,cpu,convolution," in line]
    assert convolutions and not [line for line in convolutions if "gemm" in line]


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
