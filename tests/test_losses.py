"""Every loss of every recipe, through the step that trains, beside NumPy."""
import copy
import functools

from utils import UserError

import keras
import numpy as np
import pytest
import skimage.data
import tensorflow as tf
from PIL import Image

import losses
import model
import train
from config import config, override, resolve
from engine.step import Networks, Step
from files import images

SIZE = 16  # of HR


class Canvas(keras.layers.Layer):
    """A generator's only layer: SR is its weight, whatever LR is."""

    def __init__(self, seed):
        super().__init__()
        self.initializer = keras.initializers.RandomUniform(-1, 1, seed)

    def build(self, input_shape):
        self.sr = self.add_weight(shape=(2, SIZE, SIZE, 3), initializer=self.initializer)

    def call(self, lr):
        return self.sr + 0 * tf.reduce_mean(lr)


def canvas(seed):
    lr = keras.Input((SIZE // 4, SIZE // 4, 3))
    network = keras.Model(lr, Canvas(seed)(lr))
    network.architecture = model.PAPER
    return network


def linear_discriminator():
    hr = keras.Input((SIZE, SIZE, 3))
    return keras.Model(hr, keras.layers.Dense(1, use_bias=False)(keras.layers.Flatten()(hr)))


@pytest.fixture(scope="module")
def vgg_kernels():
    """Random kernels and biases of VGG19's convolutions by their names; features stay in the range of pixels."""
    rng, arrays, channels = np.random.default_rng(0), {}, 3
    for block, (n, filters) in enumerate([(2, 64), (2, 128), (4, 256), (4, 512), (4, 512)], start=1):
        for number in range(1, n + 1):
            arrays[f"conv{block}_{number}"] = (
                (2 / 9 / channels) ** 0.5 * rng.standard_normal((3, 3, channels, filters), "float32"),
                rng.standard_normal(filters, "float32"))
            channels = filters
    return arrays


@pytest.fixture(scope="module")
def vgg(vgg_kernels, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg19.npy"
    np.save(path, {name: list(arrays) for name, arrays in vgg_kernels.items()}, allow_pickle=True)
    return lambda recipe: train.weights.load_vgg(losses.vgg_layers(recipe), path) if losses.vgg_layers(recipe) else None


# --------------------------------------------------------------------------------------------------------- NumPy's


def features(image, kernels, layer):
    """The feature maps of a layer of VGG19 of RGB (N, H, W, 3) in [-1, 1], in float64."""
    x = (image[..., ::-1] + 1) * 127.5 - [103.939, 116.779, 123.68]
    for name, (kernel, bias) in kernels.items():
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
        before = np.tensordot(windows, kernel, ((4, 5, 3), (0, 1, 2))) + bias
        x = np.maximum(before, 0)
        if name == layer.rstrip("-"):
            return before if layer.endswith("-") else x
        if name in ("conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4"):
            n, height, width, channels = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
            if layer == f"pool{name[4]}":
                return x


def shrunk(image):
    """A quarter of (N, H, W, 3) by Pillow's bicubic, in float64: as the matrix by which Pillow resizes."""
    unit = Image.fromarray(np.eye(SIZE, dtype="float32"))
    matrix = np.array(unit.resize((SIZE, SIZE // 4), Image.Resampling.BICUBIC))
    return np.einsum("yi,nijc,xj->nyxc", matrix, image, matrix)


def artefacts(hr, sr, averaged):
    """The weights of `ldl`, (N, H, W, 1)."""
    residual, averaged = (np.abs(hr - image).sum(-1) for image in (sr, averaged))
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(residual, ((0, 0), (3, 3), (3, 3)), mode="reflect"), (7, 7), (1, 2))
    patch = residual.var((1, 2), keepdims=True)
    return (patch ** 0.2 * windows.var((3, 4), ddof=1) * (residual >= averaged))[..., np.newaxis]


def means_by_place(hr, sr):
    """Of SR - HR in 7x7 pixels of LR, by the place within them, less the mean of all places."""
    places = [(sr - hr)[:, y::4, x::4] for y in range(4) for x in range(4)]
    padded = np.pad(places, ((0, 0), (0, 0), (3, 3), (3, 3), (0, 0)), constant_values=np.nan)
    means = np.nanmean(np.lib.stride_tricks.sliding_window_view(padded, (7, 7), (2, 3)), (-2, -1))
    return means - means.mean(0)


def softplus(x):
    return np.log1p(np.exp(x))


def by_hand(name, *, hr, sr, averaged, discriminator, kernels):
    """A loss in float64, -log(sigmoid(x)) being softplus(-x)."""
    match name.split(":"):
        case ["mse"]:
            return np.mean((hr - sr) ** 2)
        case ["l1"]:
            return np.mean(np.abs(hr - sr))
        case ["colour"]:
            return np.mean(np.abs(shrunk(hr) - shrunk(sr)))
        case ["ldl"]:
            return np.mean(artefacts(hr, sr, averaged) * np.abs(hr - sr))
        case ["weave"]:
            return np.mean(np.abs(means_by_place(hr, sr)))
        case ["adv"]:
            return np.mean(softplus(-(sr.reshape(len(sr), -1) @ discriminator)))
        case ["d"]:
            logits_hr, logits_sr = (image.reshape(len(image), -1) @ discriminator for image in (hr, sr))
            return np.mean(softplus(-logits_hr)) + np.mean(softplus(logits_sr))
        case ["vgg", layer]:
            return np.mean((features(hr, kernels, layer) - features(sr, kernels, layer)) ** 2)
        case ["vgg_l1", layer]:
            return np.mean(np.abs(features(hr, kernels, layer) - features(sr, kernels, layer)))
        case ["vgg_rel", layer]:
            hr, sr = (features(image, kernels, layer) for image in (hr, sr))
            return np.mean([np.abs(a - b).mean() / np.abs(a).mean() for a, b in zip(hr.T, sr.T, strict=True)])


def slope(function, x, direction, h=1e-6):
    return (function(x + h * direction) - function(x - h * direction)) / (2 * h)


RECIPES = [*config.LOSS.values(),
           dict.fromkeys(["l1", "colour", "adv", "vgg:conv3_1", "mse", "vgg:conv2_2", "ldl", "weave",
                          "vgg_l1:conv2_1-", "vgg:conv3_1-", "vgg:pool1"])]


@pytest.mark.parametrize("recipe", RECIPES, ids=" ".join)
def test_a_step_follows_the_slope_of_every_loss_of_a_recipe(recipe, vgg, vgg_kernels):
    """SGD of rate 1 moves SR, which is all that this generator consists of, by the gradient itself."""
    rng = np.random.default_rng(0)
    lr, hr = (rng.integers(0, 256, (2, size, size, 3), "uint8") for size in (SIZE // 4, SIZE))
    networks = Networks(canvas(1), canvas(2), linear_discriminator())
    before = [network.weights[0].numpy().astype(float) for network in networks]
    hr_float = hr / 127.5 - 1
    direction = hr_float - before[0] + rng.normal(0, 0.3, hr.shape)  # no loss is flat there
    losses_at = functools.partial(by_hand, hr=hr_float, averaged=before[1], kernels=vgg_kernels)
    slopes = {name: slope(lambda sr, name=name: losses_at(name, sr=sr, discriminator=before[2]), before[0], direction)
              for name in recipe}
    # Weights by which each loss counts, and none makes up for another.
    recipe = losses.read_recipe({name: number / abs(slopes[name]) for number, name in enumerate(recipe, 1)}, "this")
    step = Step(tf.distribute.get_strategy(), config.TRAIN, networks, [keras.optimizers.SGD(1.0) for _ in range(2)],
                recipe, vgg(recipe), tf.Variable(0, dtype=tf.int64))
    values = {name: float(value) for name, value in step(lr, hr).items()}

    shown = [*recipe, *(["d"] if "adv" in recipe else [])]
    assert list(values) == shown
    for name in shown:
        assert values[name] == pytest.approx(losses_at(name, sr=before[0], discriminator=before[2]), rel=1e-3)
    expected = sum(weight * slopes[name] for name, weight in recipe.items())
    moved = [a - network.weights[0].numpy() for a, network in zip(before, networks, strict=True)]
    assert np.sum(moved[0] * direction) == pytest.approx(expected, abs=0.1)
    direction = rng.normal(size=before[2].shape)
    expected = slope(lambda kernel: losses_at("d", sr=before[0], discriminator=kernel), before[2], direction)
    assert np.sum(moved[2] * direction) == pytest.approx(expected if "adv" in recipe else 0, rel=1e-3)


def test_colours_are_compared_as_lr_is_made():
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), "uint8")
    ours = losses.shrink(image[np.newaxis].astype("float32"), 16, 12)[0]
    np.testing.assert_allclose(ours, images.resize(image.astype("float32"), 16, 12), atol=1e-3)
    channels = [Image.fromarray(image[..., channel].astype("float32")).resize((12, 16), Image.Resampling.BICUBIC)
                for channel in range(3)]
    np.testing.assert_allclose(ours, np.stack(channels, -1), atol=1e-3)


# -------------------------------------------------------------------------------------------------- PyTorch's gradients


def torch_features(functional, torch, image, kernels, layer):
    """The features of `layer`, which is before a ReLU, of RGB (N, 3, H, W) in [-1, 1]."""
    x = (image.flip(1) + 1) * 127.5 - torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
    for name, (kernel, bias) in kernels.items():
        x = functional.conv2d(x, torch.tensor(kernel.transpose(3, 2, 0, 1)), torch.tensor(bias), padding="same")
        if layer == f"{name}-":
            return x
        x = functional.relu(x)
        if name in ("conv1_2", "conv2_2"):
            x = functional.max_pool2d(x, 2)


def in_torch(name, functional, torch, *, hr, sr, averaged, kernels):
    """A loss of images (N, 3, H, W) in PyTorch; `ldl` as in https://github.com/csjliang/LDL, where the map is made."""
    match name.split(":"):
        case ["colour"]:
            return functional.l1_loss(*(functional.interpolate(image, scale_factor=0.25, mode="bicubic", antialias=True)
                                        for image in (sr, hr)))
        case ["ldl"]:
            residual, of_averaged = (torch.sum(torch.abs(hr - image), 1, keepdim=True) for image in (sr, averaged))
            windows = functional.pad(residual, (3, 3, 3, 3), "reflect").unfold(2, 7, 1).unfold(3, 7, 1)
            weight = torch.var(residual, (-1, -2, -3), keepdim=True) ** (1 / 5) * torch.var(windows, (-1, -2))
            weight = torch.where(residual < of_averaged, 0, weight)
            return functional.l1_loss(weight * sr, weight * hr)
        case ["weave"]:
            means = functional.avg_pool2d(functional.pixel_unshuffle(sr - hr, 4), 7, 1, 3, count_include_pad=False)
            means = means.unflatten(1, (3, 16))
            return (means - means.mean(2, keepdim=True)).abs().mean()
        case ["vgg_l1", layer]:
            return functional.l1_loss(*(torch_features(functional, torch, x, kernels, layer) for x in (sr, hr)))
        case ["vgg_rel", layer]:
            sr, hr = (torch_features(functional, torch, x, kernels, layer).transpose(0, 1).flatten(1) for x in (sr, hr))
            return torch.mean((sr - hr).abs().mean(1) / hr.abs().mean(1))


@pytest.mark.parametrize("name", ["colour", "ldl", "weave", "vgg_l1:conv3_1-", "vgg_rel:conv3_1-"])
def test_the_gradient_of_a_loss_is_pytorchs(name, vgg, vgg_kernels):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    hr, sr, averaged = rng.uniform(-1, 1, (3, 2, 32, 32, 3)).astype("float32")
    ours = tf.Variable(sr)
    with tf.GradientTape() as tape:
        batch = losses.Batch(np.zeros((2, 8, 8, 3)), hr, ours, vgg=vgg([name]), averaged=lambda lr, training: averaged)
        value = losses.compute([name], batch)[name]
    theirs = {key: torch.tensor(image.transpose(0, 3, 1, 2)) for key, image in
              (("hr", hr), ("sr", sr), ("averaged", averaged))}
    theirs["sr"].requires_grad_()
    expected = in_torch(name, torch.nn.functional, torch, **theirs, kernels=vgg_kernels)
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-3)
    gradient = theirs["sr"].grad.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(tape.gradient(value, ours), gradient, atol=2e-3 * np.abs(gradient).max())


# ----------------------------------------------------------------------------------------------- what they prefer


@pytest.fixture(scope="module")
def photo():
    """A photo's crop (1, 64, 64, 3) in [-1, 1], and errors of the same mean size: of colour, and of grain."""
    hr = skimage.data.astronaut()[np.newaxis, 100:164, 100:164] / 127.5 - 1
    grain = np.random.default_rng(0).normal(size=(1, 64, 64, 1)) * np.ones(3)
    return np.float32(hr), np.float32(0.1), np.float32(0.1 * grain / np.abs(grain).mean())


def loss_of(name, hr, sr, averaged=None):
    return float(losses.compute([name], losses.Batch(np.zeros((1, 16, 16, 3)), hr, tf.constant(sr),
                                                     averaged=lambda lr, training: averaged))[name])


def test_colour_prefers_grain_to_drift(photo):
    hr, drift, grain = photo
    assert loss_of("l1", hr, hr + drift) == pytest.approx(loss_of("l1", hr, hr + grain), rel=1e-3)
    assert loss_of("colour", hr, hr + drift) > 4 * loss_of("colour", hr, hr + grain)


def test_ldl_prefers_drift_to_grain_and_detail_that_the_average_lacks(photo):
    hr, drift, grain = photo
    assert loss_of("ldl", hr, hr + grain, hr) > 100 * loss_of("ldl", hr, hr + drift, hr)
    assert loss_of("ldl", hr, hr + grain, hr + grain / 2) > 0 == loss_of("ldl", hr, hr + grain, hr + 2 * grain)


def test_ldl_of_a_patch_that_is_all_black_has_a_gradient():
    sr = tf.Variable(-tf.ones((1, 16, 16, 3)))
    with tf.GradientTape() as tape:
        value = losses.ldl_loss(losses.Batch(sr, -tf.ones_like(sr), sr, averaged=lambda lr, training: sr))
    assert not np.any(tape.gradient(value, sr))


def test_weave_prefers_grain_and_drift_to_a_mesh(photo):
    hr, drift, _ = photo
    rng = np.random.default_rng(0)
    mesh = np.tile(rng.normal(0, 0.01, (4, 4, 1)), (16, 16, 3)).astype("float32")[np.newaxis]
    grain = rng.permutation(mesh.reshape(-1, 3)).reshape(mesh.shape)
    assert loss_of("weave", hr, hr + mesh) > 4 * loss_of("weave", hr, hr + grain)
    assert loss_of("weave", hr, hr + drift) == pytest.approx(0, abs=1e-6)


def test_features_before_a_relu_tell_apart_what_is_the_same_behind_it(vgg_kernels, tmp_path):
    kernels = {name: (kernel, bias - 1e6) for name, (kernel, bias) in vgg_kernels.items()}  # nothing passes
    np.save(tmp_path / "vgg19.npy", {name: list(arrays) for name, arrays in kernels.items()}, allow_pickle=True)
    vgg = train.weights.load_vgg(["conv1_2", "conv1_1-"], tmp_path / "vgg19.npy")
    hr, sr = tf.ones((2, 1, 16, 16, 3)) * [[[[[0.0]]]], [[[[0.5]]]]]
    found = losses.compute(["vgg:conv1_2", "vgg:conv1_1-"], losses.Batch(None, hr, sr, vgg=vgg))
    assert found["vgg:conv1_2"] == 0 < found["vgg:conv1_1-"]


def test_relative_features_are_the_same_for_vgg19_of_another_scale(vgg_kernels, vgg, tmp_path):
    """As a file whose features are scaled to a mean of 1 differs from Caffe's: each channel by a factor of its own."""
    rng, scaled, before = np.random.default_rng(0), {}, np.ones(3)
    for name, (kernel, bias) in vgg_kernels.items():
        factors = rng.uniform(0.01, 1, len(bias))
        scaled[name] = [np.float32(kernel * factors / before[:, np.newaxis]), np.float32(bias * factors)]
        before = factors
    np.save(tmp_path / "vgg19.npy", scaled, allow_pickle=True)
    hr, sr = rng.uniform(-1, 1, (2, 1, 32, 32, 3)).astype("float32")
    values = []
    for name in ("vgg_rel:conv3_1-", "vgg_rel:pool2", "vgg_l1:conv3_1-"):
        extractors = vgg([name]), train.weights.load_vgg(losses.vgg_layers([name]), tmp_path / "vgg19.npy")
        values.append([float(losses.compute([name], losses.Batch(None, hr, sr, vgg=vgg))[name]) for vgg in extractors])
    for with_these, with_those in values[:2]:
        assert with_these == pytest.approx(with_those, rel=1e-3)
    assert values[2][0] > 1.5 * values[2][1]


def test_relative_features_that_hr_does_not_have_count_as_none():
    hr, sr = tf.zeros((1, 2, 2, 3)), tf.Variable(tf.ones((1, 2, 2, 3)))
    with tf.GradientTape() as tape:
        value = losses.vgg_rel_loss(losses.Batch(None, hr, sr, vgg=lambda x: {"conv1_1": x}), "conv1_1")
    assert float(value) == 0 and not np.any(tape.gradient(value, sr))


# --------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("setting, words", [
    ("LOSS.original.mes=1", "config.LOSS.original names mes, which is no loss; the nearest is mse"),
    ("LOSS.srgan_mse.vgg:conv9_9=1", "vgg:conv9_9, which is no loss; the nearest is vgg:conv"),
    ("LOSS.srgan_mse.vgg=1", "the nearest is vgg"),
    ("LOSS.srgan_mse.vgg_l1:pool1-=1", "the nearest is vgg_l1:pool1"),
    ("LOSS.mse.mse=0", "config.LOSS.mse weighs no loss"),
    ("TRAIN.loss_init=srgan_mse", "which has the loss adv, but phase 1 has no discriminator"),
])
def test_a_recipe_that_cannot_be_followed_is_one_sentence(setting, words):
    settings = copy.deepcopy(config)
    override(settings, [setting])
    resolve(settings)
    with pytest.raises(UserError) as caught:
        losses.read_recipes(settings)
    assert words in str(caught.value)


def recipe_after(*settings, name="srgan_vgg22"):
    cfg = copy.deepcopy(config)
    override(cfg, [f"LOSS.{name}.{setting}" for setting in settings])
    resolve(cfg)
    return losses.read_recipe(cfg.LOSS[name], name)


def test_names_of_earlier_versions_mean_what_they_meant():
    assert recipe_after("w_mse=5", "w_vgg=0.02") == {"mse": 5, "adv": 1e-3, "vgg:conv2_2": 0.02}
    assert recipe_after("mse=5", "vgg:conv2_2=0.02") == recipe_after("w_mse=5", "w_vgg=0.02")
    assert recipe_after("vgg_layer=conv3_1") == {"adv": 1e-3, "vgg:conv3_1": 1 / 12.75 ** 2}
    assert recipe_after("w_vgg=0", "w_adv=1") == {"adv": 1}
    assert recipe_after("w_vgg=1", name="srgan_mse") == {"mse": 1, "adv": 1e-3, "vgg:pool4": 1}


def test_the_order_in_which_losses_are_named_does_not_change_a_bit():
    assert list(recipe_after("vgg:conv1_1=1", "mse=1")) == ["mse", "adv", "vgg:conv1_1", "vgg:conv2_2"]


@pytest.mark.parametrize("recipe", ["mse", "srgan_mse"])
def test_vgg19_is_built_only_for_a_recipe_that_names_it(recipe, monkeypatch):
    settings = copy.deepcopy(config)
    resolve(settings)
    settings.TRAIN.update({"loss": recipe, "n_epoch": 1})
    monkeypatch.setattr(keras.applications, "VGG19", None)
    assert train.load_vgg(settings, losses.read_recipes(settings), demo=False)[1] is None
    settings.TRAIN.update({"loss": "original", "n_epoch": 0})  # its phase is not trained
    assert train.load_vgg(settings, losses.read_recipes(settings), demo=False)[1] is None
