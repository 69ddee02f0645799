"""The one way in and out for weights: files to networks, and networks to files."""
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from utils import UserError

import keras
import numpy as np

import losses
import model
from files.shipped import NAMES, SRRESNETS, find_file, srresnet_of
from files.weight_files import BATCH_NORM, OTHER_NETWORKS, TORCH_LAYERS, TORCH_NORM, Arrays, load_arrays, save_arrays
from layers import BN_EPSILON, NORM_WEIGHTS, FoldedConv, norm_of
from model import Architecture

KERAS_EPSILON = 1e-3  # of batch norms in files of Keras 2, which do not say it

VGG_URL = "https://media.githubusercontent.com/media/tensorlayer/pretrained-models/master/models/vgg19.npy"


class WeightsError(ValueError):
    """Arrays that do not fit the network; the message continues a sentence that begins with the file's name."""


class DownloadError(UserError):
    """VGG19 could not be downloaded."""


@dataclass(frozen=True)
class _Recognised:
    """The arrays of a file, recognised."""

    kind: str | None  # "generator", "discriminator", or None where both are possible
    architecture: Architecture
    bn_epsilon: float
    arrays: Arrays  # by our names, or in the order of the layers


# ------------------------------------------------------------------------------------------------- files to networks


def load_generator(path: str | Path, scale: int | None = None) -> keras.Model:
    """The generator of a weights file, or of a name: "pretrained" and "photo" (SRGAN), each also with "-srresnet".

    Files of ours, of TensorLayer and of krasserm/super-resolution, told apart by content. Raises UserError.
    scale: by default the file's. For another one the layers that fit are taken, the trunk and the tail among them. New
    is the last step of the upsampling, which scales do not share (taken, it costs 1 dB at scale 2 after 179 steps),
    and those that do not fit; a line says so.
    """
    found = _generator(path, scale or 4)
    network = model.get_G(found.architecture, bn_epsilon=found.bn_epsilon, scale=scale)
    last = f"upsample_{len(model.UPSAMPLING[network.architecture.scale])}_"
    is_other = network.architecture != found.architecture
    new = []
    for variable in network.weights:
        array = found.arrays.get(variable.path)
        if np.shape(array) == tuple(variable.shape) and not (is_other and variable.path.startswith(last)):
            variable.assign(array)
        else:
            new.append(variable.path.partition("/")[0])
    if is_other:
        print(f"{path} is of scale {found.architecture.scale}: for scale {scale} the layers that fit are taken; new "
              f"are {' and '.join(dict.fromkeys(new))}.")
    return network


def load_folded(path: str | Path, scale: int = 4) -> model.Folded:
    """The weights of a file or a name for inference alone, in a fraction of the time. Raises UserError.

    scale: as in `shipped.find_file`.
    """
    found = _generator(path, scale)
    return model.fold(found.arrays, found.architecture, found.bn_epsilon)


def load_blended(path: str | Path, blend: float = 1, scale: int = 4) -> model.Folded:
    """A generator's weights, or with `blend` below 1 those between its SRResNet (0) and itself (1).

    SRResNet's are those of `shipped.srresnet_of` for a name, otherwise g_srgan_init.npz or srresnet.npz beside the
    file. scale: as in `shipped.find_file`. Raises UserError.
    """
    folded = load_folded(path, scale)
    if blend == 1:
        return folded
    if isinstance(path, str) and (srresnet := srresnet_of(path)) in NAMES:
        return model.blend(load_folded(srresnet, scale), folded, blend)
    beside = [Path(path).with_name(name) for name in SRRESNETS]
    start = next((file for file in beside if file.exists() and file != Path(path)), None)
    if not start:
        raise UserError(f"The blend is {blend}, but {beside[0]}, the SRResNet to blend with, does not exist; put it "
                        "there or set RESTORE.blend (in scoring VALID.blend) to 1.")
    return model.blend(load_folded(start), folded, blend)


def load_discriminator(path: str | Path, patch_size: int) -> keras.Model:
    """The discriminator in a weights file, or the one that was trained with the generator in it.

    That is `d_srgan.npz` beside the generator's file, and the package's for all generators with a name: they descend
    from its SRResNet, and a discriminator that knows photos already keeps the first steps from weaving a mesh. Raises
    UserError if there is none for patches of `patch_size`.
    """
    file = find_file("pretrained-discriminator" if path in NAMES else path)
    found = _recognise_file(file)
    if _is_generator(found):
        names = file.name.replace("g", "d", 1), "d_srgan.npz"
        beside = next(filter(Path.exists, map(file.with_name, names)), None)
        if not beside:
            raise UserError(f"{path} is a generator without a discriminator beside it; put its d_srgan.npz into "
                            f"{file.parent}/.")
        file, found = beside, _recognise_file(beside)
    network = model.get_D(found.architecture, patch_size, found.bn_epsilon)
    try:
        arrays = _fit_file(file, found, "discriminator", _shapes(network))
    except UserError as error:
        raise UserError(f"{str(error).removesuffix('.')} for TRAIN.hr_patch_size={patch_size}.") from error
    for variable in network.weights:
        variable.assign(arrays[variable.path])
    return network


def load_vgg(layers: Iterable[str], path: str | Path) -> keras.Model:
    """`losses.get_vgg(layers)` with the weights of the file `path`, or of keras.applications where there is none.

    Keras downloads its copy, the same numbers, once. Raises UserError for a file that is not VGG19's, DownloadError
    where Keras can't download.
    """
    if not Path(path).exists():
        try:
            return losses.get_vgg(layers, "imagenet")
        except Exception as error:  # keras.utils.get_file raises no narrower class where the download fails
            raise DownloadError(
                f"{path} (config.VGG.path) is not there, and Keras could not download its copy of VGG19: train without "
                f"it by --set TRAIN.loss=srgan_mse, or get the file from {VGG_URL} (more in vgg19.npy.md; the reason: "
                f"{error})."
            ) from error
    arrays = load_arrays(path)
    extractor = losses.get_vgg(layers)
    try:
        for variable in extractor.weights:
            name = re.sub(r"^block(\d)_conv(\d)/", r"conv\1_\2/", variable.path)
            variable.assign(_checked(arrays, name, tuple(variable.shape)))
    except WeightsError as error:
        raise UserError(f"{path} {error}.") from error
    return extractor


def save_network(path: str | Path, network: keras.Model) -> None:
    """Write all weights of a generator or discriminator as `.npz`, with its architecture, scale, kind and epsilon.

    Raises UserError where `path` can't be written.
    """
    facts = {"architecture": network.architecture.name, "scale": network.architecture.scale, "network": network.name,
             "bn_epsilon": network.bn_epsilon}
    if (kind := model.discriminator_kind(network.architecture)) != "own":
        facts["discriminator"] = kind
    save_arrays(path, {name: np.array(fact) for name, fact in facts.items()}
                | {weight.path: weight.numpy() for weight in network.weights})


# ------------------------------------------------------------------------------------------------- arrays to networks


def _generator(path, scale=4):
    """The weights of a generator, by our names, checked; raises UserError."""
    file = find_file(path, scale)
    found = _recognise_file(file)
    architecture = replace(found.architecture, n_blocks=_count_blocks(found))
    arrays = _fit_file(file, found, "generator", _generator_shapes(architecture))
    return replace(found, architecture=architecture, arrays=arrays)


@functools.cache
def _generator_shapes(architecture):
    return _shapes(model.inference_generator(architecture, "float32"))  # built in half the time of `get_G`


def _shapes(network):
    """Shapes of a network's weights by name, in the order of weights files: by layer, a batch norm's beta first.

    Of an `inference_generator` those of `get_G`, whose batch norms it has folded.
    """
    shapes = {}
    for layer in network.layers:
        for weight in sorted(layer.weights, key=lambda weight: BATCH_NORM.get(weight.name, 0)):
            shapes[weight.path] = tuple(weight.shape)
        if isinstance(layer, FoldedConv):
            shape = shapes.pop(f"{layer.name}/bias")
            shapes |= {f"{norm_of(layer.name)}/{name}": shape for name in NORM_WEIGHTS}
    return shapes


def _recognise_file(file):
    arrays = load_arrays(file)
    try:
        return _recognise(arrays)
    except WeightsError as error:
        raise UserError(f"{file} {error}.") from error


def _is_generator(found):
    """Whether arrays are a generator's; TensorLayer's files do not say it."""
    if found.kind:
        return found.kind == "generator"
    try:
        _fit(found.arrays, _generator_shapes(replace(found.architecture, n_blocks=_count_blocks(found))), "generator")
    except WeightsError:
        return False
    return True


def _fit_file(file, found, kind, shapes):
    try:
        if found.kind not in (kind, None):
            raise WeightsError(f"holds a {found.kind}, not a {kind}; give a {kind[0]}_srgan.npz")
        return _fit(found.arrays, shapes, kind)
    except WeightsError as error:
        raise UserError(f"{file} {error}.") from error


def _recognise(arrays):
    """Tell whose arrays these are by their names. Raises WeightsError."""
    if "architecture" in arrays:
        arrays = dict(arrays)
        name, kind = str(arrays.pop("architecture")), str(arrays.pop("network", "generator"))
        if name not in model.ARCHITECTURES:
            raise WeightsError(f"is for the architecture {name:.80}; known are {' and '.join(model.ARCHITECTURES)}")
        bn_epsilon, scale = np.asarray(arrays.pop("bn_epsilon", BN_EPSILON)), str(arrays.pop("scale", 4))
        if bn_epsilon.shape or bn_epsilon.dtype.kind != "f" or not 0 < bn_epsilon < 1:
            raise WeightsError("has a bn_epsilon that is not a number between 0 and 1; use an earlier file")
        if scale not in map(str, model.UPSAMPLING):
            raise WeightsError(f"is for the scale {scale:.80}; known are {' and '.join(map(str, model.UPSAMPLING))}")
        architecture = replace(model.ARCHITECTURES[name], scale=int(scale))
        if (discriminator := str(arrays.pop("discriminator", "own"))) not in ("own", *model.DISCRIMINATORS):
            raise WeightsError(f"holds the discriminator {discriminator:.80}, not {' or '.join(model.DISCRIMINATORS)}")
        architecture = model.with_discriminator(architecture, discriminator)
        return _Recognised(kind, architecture, float(bn_epsilon), arrays)
    if any(name.endswith("/kernel:0") for name in arrays):  # Keras 2, krasserm/super-resolution
        kind = "discriminator" if any(name.startswith("dense") for name in arrays) else "generator"
        arrays = {name: array.reshape(-1) if name.endswith("/alpha:0") else array for name, array in arrays.items()}
        return _Recognised(kind, model.PAPER, KERAS_EPSILON, arrays)
    if any(name.endswith(".weight") for name in arrays):
        return _from_torch(arrays)
    return _Recognised(None, model.TENSORLAYER, BN_EPSILON, arrays)


def _from_torch(arrays):
    """A generator of PyTorch in our names and layouts."""
    arrays = {re.sub(r"^((module|_orig_mod)\.)+", "", name): array for name, array in arrays.items()
              if not name.endswith(("num_batches_tracked", "n_averaged"))}
    theirs = list(dict.fromkeys(name.rpartition(".")[0] for name in arrays))
    for architecture, table in TORCH_LAYERS.items():
        ours = {layer: _rename(layer, table) for layer in theirs}
        if all(ours.values()):
            converted = dict(_convert(arrays, name, ours) for name in arrays)
            return _Recognised("generator", model.ARCHITECTURES[architecture], BN_EPSILON, converted)
    found = next((what for pattern, what in OTHER_NETWORKS.items() if any(re.match(pattern, name) for name in theirs)),
                 f"with layers such as {', '.join(theirs[:2]):.80}")
    raise WeightsError(f"holds another network, {found}; of PyTorch the generators of Lornatang/SRGAN-PyTorch "
                       "(of 2022 or later) and of leftthomas/SRGAN are read")


def _convert(arrays, name, ours):
    """Our name and layout of an array of PyTorch: OIHW to HWIO, pixel_shuffle to depth_to_space."""
    array, (layer, _, weight) = arrays[name], name.rpartition(".")
    if f"{layer}.running_mean" in arrays:
        weight = TORCH_NORM.get(weight, weight)
    elif array.ndim == 4:
        weight, array = "kernel", array.transpose(2, 3, 1, 0)
    elif weight == "weight":  # of a PReLU, whose slope may be one for all channels
        weight, array = "alpha", np.repeat(array, 64) if array.size == 1 else array
    if ours[layer].startswith("upsample") and array.shape[-1:] == (256,):  # PyTorch: sub-pixels first
        array = array.reshape(*array.shape[:-1], 64, 4).swapaxes(-1, -2).reshape(array.shape)
    return f"{ours[layer]}/{weight}", array


def _rename(layer, table):
    """Our name of a layer of PyTorch, None if the table does not have it."""
    for pattern, ours, offset in table:
        match = re.fullmatch(pattern, layer)
        if match:
            number, *others = match.groups() or ("0",)
            return ours.format(int(number) + offset, *others)
    return None


def _count_blocks(found):
    """The number of residual blocks of a generator with these arrays, from 1 to 99.

    Without our names: `paper` has 6 layers besides its blocks and 5 in each, `tensorlayer` 13 arrays and 10.
    """
    names = found.arrays.keys()
    if any(name.startswith("block_") for name in names):
        numbered = {name.split("_")[1] for name in names if name.startswith("block_")}
        return next(n for n in range(1, 100) if n == 99 or str(n + 1) not in numbered)
    n_norms = sum("gamma" in name for name in names)  # two in each block, and one more
    return min(99, max(1, (n_norms - 1) // 2 if n_norms else (len(names) - 13) // 10))


def _fit(arrays, shapes, kind):
    """Arrays by the names of `shapes`, in float32, checked; raises WeightsError.

    arrays: by these names or in their order. Convolutions before a batch norm may have a bias.
    """
    arrays = dict(arrays)
    if not set(shapes) & set(arrays):
        names = list(shapes)
        if len(arrays) != len(names):
            names = [other for name in names for other in dict.fromkeys((name, name.replace("/kernel", "/bias")))
                     if other == name or other not in shapes]
        if len(arrays) != len(names):
            raise WeightsError(f"holds {len(arrays)} arrays; this {kind} has {len(shapes)}")
        arrays = dict(zip(names, arrays.values(), strict=True))
    # A batch norm subtracts the mean of its input, so the bias before it belongs in its moving mean.
    for bias in [name for name in arrays if name not in shapes and name.endswith("/bias")]:
        mean = f"{norm_of(bias.removesuffix('/bias'))}/moving_mean"
        if mean in shapes:
            arrays[mean] = _checked(arrays, mean, shapes[mean]) - _checked(arrays, bias, shapes[mean])
            del arrays[bias]
    surplus = sorted(set(arrays) - set(shapes))
    if surplus:
        raise WeightsError(f"holds {len(surplus)} arrays that no {kind} has, such as {surplus[0]:.80}")
    return {name: _checked(arrays, name, shape) for name, shape in shapes.items()}


def _checked(arrays, name, shape):
    if name not in arrays:
        raise WeightsError(f"lacks the array {name}")
    array = arrays[name]
    if array.dtype.kind != "f" or array.shape != shape:
        raise WeightsError(f"has {name} as {array.dtype} {array.shape}; it must be float32 {shape}")
    if not np.isfinite(array).all():
        raise WeightsError(f"has a value in {name} that is not a finite number; use an earlier file")
    return array.astype(np.float32, copy=False)
