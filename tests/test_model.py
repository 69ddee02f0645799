"""The networks against the article's figures, TensorLayer's own layers and keras.applications."""
import dataclasses
import itertools

from utils import UserError

import keras
import numpy as np
import pytest
import tensorflow as tf

import layers
import model


def randomize(network, seed=0):
    """Weights of the size that training leaves, with batch norms that are far from trivial."""
    rng = np.random.default_rng(seed)
    for weight in network.weights:
        if weight.path.endswith("kernel"):
            weight.assign(rng.normal(0, np.sqrt(1 / np.prod(weight.shape[:-1])), weight.shape))
        elif weight.path.endswith("bn_2/gamma"):  # the sum of 16 blocks is to stay of the size of one
            weight.assign(rng.uniform(0.05, 0.25, weight.shape))
        elif weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        else:
            weight.assign(rng.uniform(-0.3, 0.3, weight.shape))
    return network


def picture(height, width, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def upscale_whole(generator, lr):
    return generator(model.normalize_lr(lr[np.newaxis], generator.architecture))[0]


def test_paper_networks_have_the_weights_of_figure_4():
    block = 2 * (3 * 3 * 64 * 64) + 2 * 2 * 64 + 64  # two convolutions without bias, two batch norms, PReLU
    generator = ((9 * 9 * 3 * 64 + 64) + 64 + 16 * block + (3 * 3 * 64 * 64 + 2 * 64)
                 + 2 * (3 * 3 * 64 * 256 + 256 + 64) + (9 * 9 * 64 * 3 + 3))
    assert sum(int(np.prod(w.shape)) for w in model.get_G().trainable_weights) == generator
    channels = [64, 64, 128, 128, 256, 256, 512, 512]
    convolutions = 3 * 3 * 3 * 64 + 64 + sum(9 * a * b + 2 * b for a, b in itertools.pairwise(channels))
    dense = (6 * 6 * 512 * 1024 + 1024) + (1024 + 1)
    discriminator = model.get_D(model.PAPER, 96)
    assert sum(int(np.prod(w.shape)) for w in discriminator.trainable_weights) == convolutions + dense
    assert discriminator(np.zeros((2, 96, 96, 3), "float32")).shape == (2, 1)


def torch_unet(torch, features=32):
    """UNetDiscriminatorSN of https://github.com/xinntao/Real-ESRGAN, realesrgan/archs/discriminator_arch.py."""
    from torch import nn
    from torch.nn import functional
    from torch.nn.utils import spectral_norm

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            n = features
            self.conv0 = nn.Conv2d(3, n, 3, 1, 1)
            down, up = [(n, 2 * n), (2 * n, 4 * n), (4 * n, 8 * n)], [(8 * n, 4 * n), (4 * n, 2 * n), (2 * n, n)]
            for number, (a, b) in enumerate(down, start=1):
                setattr(self, f"conv{number}", spectral_norm(nn.Conv2d(a, b, 4, 2, 1, bias=False)))
            for number, (a, b) in enumerate([*up, (n, n), (n, n)], start=4):
                setattr(self, f"conv{number}", spectral_norm(nn.Conv2d(a, b, 3, 1, 1, bias=False)))
            self.conv9 = nn.Conv2d(n, 1, 3, 1, 1)

        def forward(self, x):
            def act(number, x):
                return functional.leaky_relu(getattr(self, f"conv{number}")(x), 0.2)

            def double(x):
                return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

            x0 = act(0, x)
            x1 = act(1, x0)
            x2 = act(2, x1)
            x3 = act(3, x2)
            x4 = act(4, double(x3)) + x2
            x5 = act(5, double(x4)) + x1
            x6 = act(6, double(x5)) + x0
            return self.conv9(act(8, act(7, x6)))

    return UNet()


def test_the_unet_is_real_esrgans_in_training():
    torch = pytest.importorskip("torch")
    ours = randomize(model.get_D(model.with_discriminator(model.PAPER, "unet"), 32))
    theirs, by_number = torch_unet(torch), dict(enumerate([*(f"conv_{n}" for n in range(1, 10)), "logits"]))
    for number, name in by_number.items():
        layer, target = ours.get_layer(name), getattr(theirs, f"conv{number}")
        kernel = torch.tensor(layer.kernel.numpy().transpose(3, 2, 0, 1))
        with torch.no_grad():
            getattr(target, "weight_orig", target.weight).copy_(kernel)
            if target.bias is not None:
                target.bias.copy_(torch.tensor(layer.bias.numpy()))
            if hasattr(target, "weight_u"):
                target.weight_u.copy_(torch.tensor(layer.left.numpy()))
    hr, sr = np.random.default_rng(0).uniform(-1, 1, (2, 2, 32, 32, 3)).astype("float32")
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(ours(hr, training=True) ** 2) - tf.reduce_mean(ours(sr, training=True))
    gradients = dict(zip([weight.path for weight in ours.trainable_variables],
                         tape.gradient(value, ours.trainable_variables), strict=True))
    as_theirs = [torch.tensor(image.transpose(0, 3, 1, 2)) for image in (hr, sr)]
    expected = torch.mean(theirs(as_theirs[0]) ** 2) - torch.mean(theirs(as_theirs[1]))
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-4)
    for number, name in by_number.items():
        target = getattr(theirs, f"conv{number}")
        gradient = getattr(target, "weight_orig", target.weight).grad.numpy().transpose(2, 3, 1, 0)
        np.testing.assert_allclose(gradients[f"{name}/kernel"], gradient, atol=1e-4 * np.abs(gradient).max())
        if hasattr(target, "weight_u"):  # of the singular vectors, after two steps of the power iteration
            np.testing.assert_allclose(ours.get_layer(name).left, target.weight_u.numpy(), atol=1e-5)
    left = ours.get_layer("conv_2").left.numpy()
    assert ours(hr).shape == (2, 32, 32, 1)  # not in training
    np.testing.assert_array_equal(ours.get_layer("conv_2").left, left)


def test_a_unet_takes_patches_of_any_size():
    discriminator = model.get_D(model.with_discriminator(model.TENSORLAYER, "unet"), 42)
    assert discriminator(np.zeros((1, 42, 42, 3), "float32")).shape == (1, 42, 42, 1)


def test_a_new_generator_starts_with_identity_blocks():
    generator = model.get_G(n_blocks=3)
    assert not generator.get_layer("block_3_bn_2").gamma.numpy().any()
    assert generator.get_layer("block_3_bn_1").gamma.numpy().all()
    np.testing.assert_allclose(generator.get_layer("head_act").alpha.numpy(), 0.25)


def tensorlayer_generator(n_blocks):
    """The generator of tensorlayer/srgan, which has 16 blocks, in TensorLayer's layers."""
    import tensorlayer as tl
    from tensorlayer.layers import BatchNorm2d, Conv2d, Elementwise, Input, SubpixelConv2d
    nin = Input((None, None, None, 3))
    n = skip = Conv2d(64, (3, 3), (1, 1), act=tf.nn.relu)(nin)
    for _ in range(n_blocks):
        m = BatchNorm2d(act=tf.nn.relu)(Conv2d(64, (3, 3), (1, 1), b_init=None)(n))
        m = BatchNorm2d()(Conv2d(64, (3, 3), (1, 1), b_init=None)(m))
        n = Elementwise(tf.add)([n, m])
    n = Elementwise(tf.add)([BatchNorm2d()(Conv2d(64, (3, 3), (1, 1), b_init=None)(n)), skip])
    for _ in range(2):
        n = SubpixelConv2d(scale=2, n_out_channels=None, act=tf.nn.relu)(Conv2d(256, (3, 3), (1, 1))(n))
    n = Conv2d(3, (1, 1), (1, 1), act=tf.nn.tanh)(n)
    return tl.models.Model(inputs=nin, outputs=n)


def tensorlayer_discriminator():
    """The discriminator of tensorlayer/srgan at a patch of 64."""
    import tensorlayer as tl
    from tensorlayer.layers import BatchNorm2d, Conv2d, Dense, Elementwise, Flatten, Input

    def lrelu(x):
        return tl.act.lrelu(x, 0.2)

    nin = Input((None, 64, 64, 3))
    n = Conv2d(64, (4, 4), (2, 2), act=lrelu)(nin)
    for filters, size in ((128, 4), (256, 4), (512, 4), (1024, 4), (2048, 4), (1024, 1)):
        n = BatchNorm2d(act=lrelu)(Conv2d(filters, (size, size), (2, 2) if size == 4 else (1, 1), b_init=None)(n))
    n = m = BatchNorm2d()(Conv2d(512, (1, 1), (1, 1), b_init=None)(n))
    for size in (1, 3):
        m = BatchNorm2d(act=lrelu)(Conv2d(128, (size, size), (1, 1), b_init=None)(m))
    m = BatchNorm2d()(Conv2d(512, (3, 3), (1, 1), b_init=None)(m))
    n = Elementwise(tf.add, act=lrelu)([n, m])
    return tl.models.Model(inputs=nin, outputs=Dense(1)(Flatten()(n)))


def assign_in_order(tl_network, network):
    """Give TensorLayer's network our weights, in the order of its files."""
    order = ("beta", "gamma", "moving_mean", "moving_variance")
    by_layer = [weight for layer in network.layers for weight in sorted(
        layer.weights, key=lambda weight: order.index(weight.name) if weight.name in order else 0)]
    assert [tuple(w.shape) for w in tl_network.all_weights] == [tuple(w.shape) for w in by_layer]
    for theirs, ours in zip(tl_network.all_weights, by_layer, strict=True):
        theirs.assign(ours.value)


def test_tensorlayer_networks_equal_those_of_tensorlayer():
    ours = randomize(model.get_G(model.TENSORLAYER, n_blocks=2))
    theirs = tensorlayer_generator(n_blocks=2)
    assign_in_order(theirs, ours)
    theirs.eval()
    lr = np.random.default_rng(2).uniform(-1, 1, (1, 20, 17, 3)).astype("float32")
    np.testing.assert_allclose(ours(lr), theirs(lr), atol=2e-5)

    ours = randomize(model.get_D(model.TENSORLAYER, 64))
    theirs = tensorlayer_discriminator()
    assign_in_order(theirs, ours)
    theirs.eval()
    hr = np.random.default_rng(3).uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(ours(hr), theirs(hr), atol=2e-5)


@pytest.mark.parametrize("by_eigen", [False, True])
@pytest.mark.parametrize("size, factor", [(1, 2), (3, 2), (9, 2), (1, 3), (5, 3), (9, 3)])
def test_low_resolution_tail_equals_the_convolution_at_full_resolution(size, factor, by_eigen, monkeypatch):
    monkeypatch.setattr(layers, "_convolves_by_eigen", lambda: by_eigen)
    tail = layers.SubpixelConv(3, size, factor, "glorot_uniform", "tail")
    x = tf.Variable(np.random.default_rng(0).normal(size=(2, 9, 12, 16 * factor ** 2)).astype("float32"))
    tail(x)
    tail.bias.assign([0.1, -0.2, 0.3])
    with tf.GradientTape() as tape:
        y = tail(x)
        loss = tf.reduce_sum(y ** 2)
    gradients = tape.gradient(loss, [x, tail.kernel.value])
    kernel = tf.Variable(tail.kernel.value)
    with tf.GradientTape() as tape:
        plain = tf.nn.conv2d(tf.nn.depth_to_space(x, factor), kernel, 1, "SAME") + tf.constant([0.1, -0.2, 0.3])
        loss = tf.reduce_sum(plain ** 2)
    np.testing.assert_allclose(y, plain, atol=1e-4)
    for gradient, expected in zip(gradients, tape.gradient(loss, [x, kernel]), strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("size, strides, filters", [
    (1, 1, 40), (3, 1, 40), (3, 1, 12), (9, 1, 40), (4, 1, 40), (3, 2, 40)])
def test_convolutions_of_processors_without_onednn_have_the_same_gradients(size, strides, filters, monkeypatch):
    monkeypatch.setattr(layers, "_convolves_by_eigen", lambda: True)
    ours = layers.Conv(filters, size, strides, padding="same", bias_initializer="ones")
    x = tf.Variable(np.random.default_rng(0).normal(size=(2, 11, 14, 24)).astype("float32"))
    ours(x)
    theirs = keras.layers.Conv2D(filters, size, strides, padding="same")
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    results = []
    for layer in (ours, theirs):
        with tf.GradientTape() as tape:
            y = layer(x)
            loss = tf.reduce_sum(tf.sin(y))
        results.append((y, *tape.gradient(loss, [x, *(weight.value for weight in layer.weights)])))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_prelu_before_the_shuffle_is_keras_prelu_behind_it():
    ours, keras_prelu = layers.PReLU(64, "act"), keras.layers.PReLU(shared_axes=[1, 2])
    x = np.random.default_rng(0).normal(size=(1, 5, 4, 256)).astype("float32")
    ours(x), keras_prelu(np.zeros((1, 10, 8, 64), "float32"))
    slopes = np.linspace(-0.5, 0.9, 64, dtype="float32")
    ours.alpha.assign(slopes), keras_prelu.alpha.assign(slopes.reshape(1, 1, 64))
    x, upstream = tf.constant(x), tf.random.stateless_normal((1, 10, 8, 64), (1, 2))
    results = []
    for layer, y in ((ours, lambda: tf.nn.depth_to_space(ours(x), 2)),
                     (keras_prelu, lambda: keras_prelu(tf.nn.depth_to_space(x, 2)))):
        with tf.GradientTape() as tape:
            tape.watch(x)
            result = y()
        by_x, by_slopes = tape.gradient(result, [x, layer.alpha], output_gradients=upstream)
        results.append((result, by_x, tf.reshape(by_slopes, [64])))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ours, theirs", [
    (layers.relu, tf.nn.relu), (layers.leaky_relu, lambda x: tf.nn.leaky_relu(x, 0.2))])
def test_activations_and_their_gradients_are_tensorflows(ours, theirs):
    x, upstream = (tf.random.stateless_normal((2, 5, 4, 8), (1, seed)) for seed in (2, 3))
    results = []
    for activation in (ours, theirs):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = activation(x)
        results.append((y, tape.gradient(y, x, output_gradients=upstream)))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("bn_epsilon", [1e-5, 1e-3])
@pytest.mark.parametrize("architecture", model.ARCHITECTURES.values(), ids=model.ARCHITECTURES)
def test_folded_generator_equals_the_unfolded(architecture, bn_epsilon):
    generator = randomize(model.get_G(architecture, n_blocks=2, bn_epsilon=bn_epsilon))
    lr = np.random.default_rng(4).uniform(0, 1, (1, 24, 21, 3)).astype("float32")
    folded = model.fold_network(generator)
    np.testing.assert_allclose(folded.network()(lr), generator(lr), atol=1e-4)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_upsampling_of_each_scale_equals_pytorchs(scale):
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    generator = randomize(model.get_G(n_blocks=1, scale=scale))
    trunk = np.random.default_rng(0).normal(0, 0.3, (1, 6, 7, 64)).astype("float32")
    sr = keras.Model(generator.get_layer("trunk_sum").output, generator.output)(trunk)

    def conv(x, kernel, bias):
        return functional.conv2d(x, torch.tensor(kernel.transpose(3, 2, 0, 1)), torch.tensor(bias), padding="same")

    x = torch.tensor(trunk.transpose(0, 3, 1, 2))
    for step, factor in enumerate([3] if scale == 3 else [2] * {2: 1, 4: 2, 8: 3}[scale], start=1):
        weights = generator.get_layer(f"upsample_{step}_conv").get_weights()
        theirs = (np.moveaxis(w.reshape(*w.shape[:-1], factor ** 2, 64), -2, -1).reshape(w.shape) for w in weights)
        x = functional.pixel_shuffle(conv(x, *theirs), factor)  # whose channels have their sub-pixels side by side
        x = functional.prelu(x, torch.tensor(generator.get_layer(f"upsample_{step}_act").get_weights()[0]))
    expected = conv(x, *generator.get_layer("tail_conv").get_weights()).tanh().numpy().transpose(0, 2, 3, 1)
    assert sr.shape == (1, 6 * scale, 7 * scale, 3)
    np.testing.assert_allclose(sr, expected, atol=2e-5)


def test_a_blend_is_between_its_networks():
    a, b = (model.fold_network(randomize(model.get_G(n_blocks=1), seed)) for seed in (1, 2))
    for share, end in ((0, a), (1, b)):
        for name, array in model.blend(a, b, share).arrays.items():
            np.testing.assert_array_equal(array, end.arrays[name])
    middle = model.blend(a, b, 0.5).arrays
    for name in ("block_1_conv_2/kernel", "block_1_act/alpha", "tail_conv/bias"):
        np.testing.assert_allclose(middle[name], (a.arrays[name] + b.arrays[name]) / 2, rtol=1e-6)
    with pytest.raises(UserError, match="paper with 1 blocks at scale 4 and tensorlayer with 1 "):
        model.blend(a, model.fold_network(model.get_G(model.TENSORLAYER, n_blocks=1)), 0.5)
    with pytest.raises(UserError, match="at scale 4 and paper with 1 blocks at scale 2; set"):
        model.blend(a, model.fold_network(model.get_G(n_blocks=1, scale=2)), 0.5)


@pytest.mark.parametrize("form", ["training", "inference", "portable"])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("slope", [0.25, 1.5])
def test_prelu_computes_in_the_type_of_its_policy(policy, form, slope):
    layer = layers.PReLU(4, "act", form, dtype=policy)
    x = np.random.default_rng(0).normal(size=(1, 5, 4, 4)).astype("float32")
    layer(x)
    layer.alpha.assign(np.full(4, slope))
    y = layer(x)
    assert y.dtype == layer.compute_dtype and layer.alpha.dtype == "float32"
    np.testing.assert_allclose(tf.cast(y, tf.float32), np.where(x > 0, x, slope * x), rtol=2e-2)


def test_a_network_knows_what_it_was_built_with():
    generator = model.get_G(model.TENSORLAYER, n_blocks=2, bn_epsilon=1e-3, scale=2)
    assert generator.architecture == dataclasses.replace(model.TENSORLAYER, n_blocks=2, scale=2)
    assert generator.bn_epsilon == 1e-3
    assert {layer.epsilon for layer in generator.layers if isinstance(layer, layers.BatchNorm)} == {1e-3}


def test_ranges():
    lr = np.array([0, 255], np.uint8)
    np.testing.assert_allclose(model.normalize_lr(tf.constant(lr), model.PAPER), [0, 1])
    np.testing.assert_allclose(model.normalize_lr(tf.constant(lr), model.TENSORLAYER), [-1, 1])
    np.testing.assert_allclose(model.normalize_hr(lr), [-1, 1])
    np.testing.assert_array_equal(model.quantize(tf.constant([-2, -1, 0.001, 1])), [0, 0, 128, 255])
    np.testing.assert_array_equal(model.quantize(tf.constant([-1.0, 1.0]), tf.uint16), [0, 65535])


def test_adam_is_keras_adam():
    results = []
    for optimizer in (layers.Adam(1e-2, beta_1=0.8), keras.optimizers.Adam(1e-2, beta_1=0.8)):
        weight = keras.Variable(np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4))
        optimizer.build([weight])
        for step in range(5):
            gradient = tf.random.stateless_normal((3, 4), (step, 0)) * 10.0 ** tf.range(-4.0, 0)
            optimizer.apply_gradients([(gradient, weight)])
        results.append([weight, *optimizer.variables[2:]])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-5)
