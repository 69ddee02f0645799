"""Weights files of every format to arrays, and arrays to our own format. Nothing in a file is ever executed."""
import io
import json
import math
import os
import pickle
import re
import struct
import typing
import zipfile
from pathlib import Path
from typing import BinaryIO

import utils
from utils import UserError

import h5py
import numpy as np

Arrays = dict[str, np.ndarray]

WEIGHTS_LIMIT = 2 ** 30  # bytes that a weights file may unpack to; the largest there is, vgg19.npy, has 575 MB
# The order of a batch norm's arrays in files without names; other layers' have 0. TensorLayer writes moving_var.
BATCH_NORM = {"beta": 1, "gamma": 2, "moving_mean": 3, "moving_var": 4, "moving_variance": 4}

# All that a pickle of arrays asks for (NumPy 2 says numpy._core for numpy.core), and the opcodes that it never uses.
PICKLE_NAMES = {"numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar",
                "_codecs.encode"}
# ... and all that a checkpoint of PyTorch asks for: tensors, and what optimizers and schedulers keep.
TORCH_STORAGES = {"torch.FloatStorage": "<f4", "torch.HalfStorage": "<f2", "torch.BFloat16Storage": "<u2",
                  "torch.DoubleStorage": "<f8", "torch.LongStorage": "<i8", "torch.IntStorage": "<i4"}
TORCH_NAMES = PICKLE_NAMES | set(TORCH_STORAGES) | {
    "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "torch.Size", "torch.device", "torch.float32",
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict", "builtins.int",
    "__builtin__.dict", "__builtin__.int"}
TORCH_CONTAINERS = ("params_ema", "ema_state_dict", "params", "state_dict", "model_state_dict", "model", "generator")
SAFETENSORS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8", "I64": "<i8", "I32": "<i4"}

PICKLE_UNUSED = (pickle.EXT1 + pickle.EXT2 + pickle.EXT4 + pickle.EMPTY_SET + pickle.ADDITEMS + pickle.FROZENSET
                 + pickle.BYTEARRAY8)

GIVE_WEIGHTS = "give the generator's weights as .npz, .h5, .pth or .safetensors"
# What other files are, by their first bytes, and other archives, by the names in them.
OTHER_FILES = {
    rb"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.": "a checkpoint of PyTorch before 1.6; save it again with a "
                                                  "newer one: torch.save(torch.load(path), path)",
    rb".{4}TFL3": f"a TensorFlow Lite model, a program besides its weights; {GIVE_WEIGHTS}",
    rb"\x08[\x01-\x14][\x12\x1a\x22\x3a]": f"an ONNX model, a program besides its weights; {GIVE_WEIGHTS}",
    rb"\s*model_checkpoint_path": "TensorFlow's list of the states of a training; give the g_srgan.npz beside it"}
OTHER_ARCHIVES = {
    "model.weights.h5": f"a Keras 3 model (.keras), a program besides its weights; {GIVE_WEIGHTS}",
    "/constants.pkl": "a TorchScript program; save the state_dict() of its model by torch.save"}

# Whose networks of PyTorch are read: patterns of their layers' names, our names, what to add to the number in a name.
TORCH_LAYERS = {
    "pytorch": (  # Lornatang/SRGAN-PyTorch since 2022
        (r"conv(?:_block)?1\.0", "head_conv", 0), (r"conv(?:_block)?1\.1", "head_act", 0),
        (r"trunk\.(\d+)\.rcb\.0", "block_{}_conv_1", 1), (r"trunk\.(\d+)\.rcb\.1", "block_{}_bn_1", 1),
        (r"trunk\.(\d+)\.rcb\.2", "block_{}_act", 1),
        (r"trunk\.(\d+)\.rcb\.3", "block_{}_conv_2", 1), (r"trunk\.(\d+)\.rcb\.4", "block_{}_bn_2", 1),
        (r"conv(?:_block)?2\.0", "trunk_conv_1", 0), (r"conv(?:_block)?2\.1", "trunk_bn_1", 0),
        (r"upsampling\.(\d+)\.upsample_block\.0", "upsample_{}_conv", 1),
        (r"upsampling\.(\d+)\.upsample_block\.2", "upsample_{}_act", 1),
        (r"conv(?:_block)?3", "tail_conv", 0)),
    "paper": (  # leftthomas/SRGAN
        (r"block1\.0", "head_conv", 0), (r"block1\.1", "head_act", 0),
        (r"block([2-6])\.(conv|bn)(\d)", "block_{}_{}_{}", -1), (r"block([2-6])\.prelu", "block_{}_act", -1),
        (r"block7\.0", "trunk_conv_1", 0), (r"block7\.1", "trunk_bn_1", 0),
        (r"block8\.(\d+)\.conv", "upsample_{}_conv", 1), (r"block8\.(\d+)\.prelu", "upsample_{}_act", 1),
        (r"block8\.2", "tail_conv", 0))}
TORCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
# Other networks, by the names of their layers.
OTHER_NETWORKS = {
    r"(?i).*\brdb\d": "the RRDB network of ESRGAN and Real-ESRGAN",
    r".*relative_position": "a transformer such as SwinIR",
    r"(features|net|classifier)\.": "a discriminator",
    r"(head|body|tail)\.": "a network such as EDSR or RCAN"}


def load_arrays(path: str | Path) -> Arrays:
    """All arrays of a file, in the order of its layers, as `{name: array}`.

    Reads our own `.npz`, those of TensorLayer 1.x, 2.x and TensorLayerX, the `.h5` of TensorLayer 2.x and Keras 2,
    PyTorch's `.pth`, `.safetensors` and `vgg19.npy` (its convolutions), told apart by content. Names, shapes and dtypes
    (floats, integers, text) are the file's, but float16 and bfloat16 of PyTorch become float32. Arrays without a name
    are "0", "1", ..., those of vgg19.npy "conv1_1/kernel", "conv1_1/bias", ...; batch norms of TensorLayer and Keras
    come as beta, gamma, moving mean, moving variance. Arrays may be read-only.
    Raises UserError for a file that can't be opened, holds no weights, is damaged or too large, asks for a function or
    an object, or points outside of itself.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 (entered below, outside of this try)
    except OSError as error:
        if Path(path, "saved_model.pb").exists():
            what = "a SavedModel, which holds a program besides its weights"
            raise UserError(f"{path} is {what}; {GIVE_WEIGHTS}.") from error
        raise UserError(f"{path} can't be opened ({error.strerror}); name a weights file that is there.") from error
    with file:
        try:
            _check_size(os.fstat(file.fileno()).st_size)
            arrays = dict(_reader(file)(file))
            if not arrays:
                raise UserError("holds no arrays; name a weights file.")
            return arrays if "architecture" in arrays else _in_layer_order(arrays)
        except UserError as error:
            raise UserError(f"{path} {_printable(error)}") from error
        except Exception as error:  # zipfile, pickle, NumPy and HDF5 each fail in their own ways on damaged bytes
            reason = _printable(error)[:100] or type(error).__name__
            raise UserError(f"{path} is damaged or cut off ({reason}); copy or download it again.") from error


def save_arrays(path: str | Path, arrays: Arrays) -> None:
    """Write arrays as `.npz` without pickles, whole or not at all.

    Equal arrays give equal bytes. Raises UserError where `path` can't be written, ValueError for an array of objects.
    The format: https://numpy.org/doc/stable/reference/generated/numpy.savez.html
    """
    with utils.atomic_write(path) as partial, open(partial, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _reader(file: BinaryIO):
    """The function that yields name and array of each weight of an open file, told by the first bytes."""
    start = file.read(512)
    file.seek(0)
    for magic, reader in ((b"PK", _read_zip), (b"\x93NUMPY", _read_npy), (b"\x89HDF\r\n\x1a\n", _read_h5)):
        if start.startswith(magic):
            return reader
    if start[8:9] == b"{" and start[5:8] == bytes(3):  # its first 8 bytes are the length of the text that follows
        return _read_safetensors
    if not start:
        raise UserError("is empty; copy or download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise UserError("is a Git LFS pointer, not the weights; run `git lfs pull` or download the file itself.")
    if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        raise UserError("is a web page, not the weights; open it in a browser and download the file from there.")
    for pattern, what in OTHER_FILES.items():
        if re.match(pattern, start, re.DOTALL):
            raise UserError(f"is {what}.")
    raise UserError("is not a weights file; name an .npz, .h5, .pth or .safetensors.")


def _check_size(size):
    if size > WEIGHTS_LIMIT:
        raise UserError(f"unpacks to {size / 2 ** 30:,.1f} GiB, which no weights need; get it from a source you trust.")


def _in_layer_order(arrays):
    """Layers by number or as they first appear in the file, each batch norm in the order of BATCH_NORM."""
    if all(name.isdecimal() for name in arrays):
        return {name: arrays[name] for name in sorted(arrays, key=int)}
    layers = {}

    def place(name):
        layer, _, weight = name.replace(".", "/").rpartition("/")
        return layers.setdefault(layer, len(layers)), BATCH_NORM.get(weight.removesuffix(":0"), 0)

    return {name: arrays[name] for name in sorted(arrays, key=place)}


def _read_zip(file):
    """The arrays of an `.npz`, or of a checkpoint of PyTorch."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        _check_size(sum(entry.file_size for entry in archive.infolist()))
        for suffix, what in OTHER_ARCHIVES.items():
            if any(name.endswith(suffix) for name in entries):
                raise UserError(f"is {what}.")
        pickled = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if pickled:
            yield from _read_torch(archive, entries, pickled[0])
            return
        if not all(name.endswith(".npy") for name in entries):
            raise UserError("is an archive of other files than arrays; name a weights file.")
        for name, entry in entries.items():
            yield from _read_npy(io.BytesIO(_unpack(archive, entry)), name.removesuffix(".npy"))


def _unpack(archive, entry):
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("compressed as no .npz is")  # and zipfile inflates the other kinds without a bound
    with archive.open(entry) as packed:
        return packed.read(entry.file_size)  # a bare read() inflates a gigabyte, whatever the size says


def _read_torch(archive, entries, pickled):
    """The tensors of a pickled state dict, or of one in a dict.

    https://docs.pytorch.org/docs/stable/notes/serialization.html
    """
    items = _named_items(_TorchUnpickler(io.BytesIO(_unpack(archive, entries[pickled]))).load())
    container = next((name for name in TORCH_CONTAINERS if _tensors(_named_items(items.get(name)))), None)
    tensors = _tensors(_named_items(items[container]) if container else items)
    if not tensors:
        raise UserError("holds no tensors by name; save the generator's state_dict() by torch.save.")
    storages, total = {}, 0
    for name, tensor in tensors.items():
        (_, kind, key, _, _), offset, shape, strides = tensor.args[:4]
        dtype = np.dtype(TORCH_STORAGES[kind.name])
        if key not in storages:
            storages[key] = _unpack(archive, entries[f"{pickled.removesuffix('data.pkl')}data/{key}"])
        storage = np.frombuffer(storages[key], dtype)
        end = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
        if min((offset, *shape, *strides)) < 0 or len(shape) > 8 or max(end, math.prod(shape)) > len(storage):
            raise ValueError(f"a tensor {shape} beyond its storage")
        total += 4 * math.prod(shape)
        _check_size(total)
        strides = [stride * dtype.itemsize for stride in strides]
        array = np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)
        yield name, _widen(array, kind.name)


def _named_items(value):
    """The items of a pickled dict that have names."""
    flat = value.items if isinstance(value, _Call) else value if isinstance(value, list) else []
    return {key: item for key, item in zip(flat[::2], flat[1::2], strict=False) if isinstance(key, str)}


def _tensors(items):
    """The tensors of a dict, parameters among them."""
    tensors = {name: item.args[0] if isinstance(item, _Call) and item.name.endswith("_rebuild_parameter") else item
               for name, item in items.items()}
    return {name: item for name, item in tensors.items()
            if isinstance(item, _Call) and item.name.endswith("_rebuild_tensor_v2")}


def _widen(array, kind):
    """float16 and bfloat16, which NumPy doesn't have, as float32."""
    if kind in ("BF16", "torch.BFloat16Storage"):
        return (array.astype("<u4") << 16).view("<f4")
    return array.astype("<f4") if array.dtype == "<f2" else array


def _read_safetensors(file):
    """https://huggingface.co/docs/safetensors"""
    length, = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(min(length, 10 ** 7)))
    data, total = memoryview(file.read()), 0
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            if not 0 <= start <= stop <= len(data):
                raise ValueError(f"{name:.80} outside of the file")
            total += stop - start
            _check_size(total)
            array = _array(data[start:stop], np.dtype(SAFETENSORS[entry["dtype"]]), entry["shape"], False)
            yield name, _widen(array, entry["dtype"])


def _read_npy(file, name="0"):
    """One array, or those pickled in it; https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"""
    np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)  # np.save writes version 1
    if dtype.hasobject:
        yield from _read_pickle(file)
    else:
        yield name, _array(file.read(), dtype, shape, fortran)


def _array(data, dtype, shape, fortran):
    """An array on the bytes `data`, without a copy; ValueError unless they are just as many as dtype and shape say."""
    if dtype.kind not in "fiubU" or min((0, *shape)) < 0:  # reshape would infer a negative size
        raise ValueError(f"an array of {dtype}, {shape}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _read_h5(file):
    """Weights in the order of the attributes `layer_names` and `weight_names`, of TensorLayer 2.x and Keras 2."""
    with h5py.File(file.name, "r", locking=False) as root:  # some file systems have no locks
        if "model_weights" in root:  # Keras's model.save; save_weights writes the layers at the top
            root = _inside(root, "model_weights")
        if "layer_names" not in root.attrs:
            raise UserError("does not say the order of its layers, as TensorLayer 2.x does; save the weights as .npz.")
        total = 0
        for layer in map(_text, root.attrs["layer_names"]):
            group = _inside(root, layer)
            for name in map(_text, group.attrs["weight_names"]):
                dataset = _inside(group, name)
                if dataset.chunks or dataset.external or dataset.is_virtual or dataset.dtype.kind not in "fiu":
                    raise UserError(f"keeps {name:.80} in pieces or in another file; get it from a source you trust.")
                total += dataset.nbytes
                _check_size(total)
                yield name, dataset[()]


def _inside(group, path):
    """The object at a path in an HDF5 group; a link on the way there, which may lead to another file, is refused."""
    for part in path.split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise UserError(f"has a link or nothing at {path:.80}; get it from a source you trust.")
        group = group[part]
    return group


def _read_pickle(file):
    """A pickled list of arrays, or the convolutions of a pickled dict `{layer: [kernel, bias]}`."""
    *_, items = _Unpickler(file, encoding="bytes").load().state  # bytes: Python 2 wrote what is in arrays as text
    if not isinstance(items[0], list):
        yield from ((str(number), item.array()) for number, item in enumerate(items))
        return
    layers = zip(map(_text, items[0][::2]), items[0][1::2], strict=False)
    for layer, weights in sorted(layers, key=lambda item: utils.natural_key(item[0])):
        if not layer.startswith("fc"):
            for name, weight in zip(("kernel", "bias"), weights, strict=True):
                yield f"{layer}/{name}", weight.array()


class _Unpickler(pickle._Unpickler):
    """Reads a pickle as data: what it would call becomes an inert `_Call`; names that arrays don't need are refused.

    Built on Python's own unpickler, not the one in C, in which ten bytes (LONG_BINPUT) take 64 GB. Dicts become flat
    lists of keys and values, since the hash of a key that is nested deeply enough overflows the stack.
    """

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1].extend((key, value))

    dispatch: typing.ClassVar[dict] = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code not in PICKLE_UNUSED}
    dispatch |= {pickle.EMPTY_DICT[0]: dispatch[pickle.EMPTY_LIST[0]], pickle.DICT[0]: dispatch[pickle.LIST[0]],
                 pickle.SETITEMS[0]: dispatch[pickle.APPENDS[0]], pickle.SETITEM[0]: load_setitem}

    names, advice = frozenset(PICKLE_NAMES), "get it from a source you trust"

    def find_class(self, module, name):
        asked = f"{module}.{name}"
        if asked.replace("numpy._core", "numpy.core") not in self.names:
            raise UserError(f"asks for {asked:.80}, which no weights need; nothing was run, {self.advice}.")
        return _Call(asked)

    def persistent_load(self, pid):
        asked = _text(pid) if isinstance(pid, (str, bytes)) else type(pid).__name__
        raise UserError(f"asks for the object {asked:.80} outside of itself; get it from a source you trust.")


class _TorchUnpickler(_Unpickler):
    """... of a checkpoint of PyTorch, whose tensors refer to storages in the archive."""

    names, advice = frozenset(TORCH_NAMES), "save the generator's state_dict() by torch.save instead of all of it"

    def persistent_load(self, pid):
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], _Call)
                and isinstance(pid[2], str)):
            super().persistent_load(pid)
        return pid


class _Call:
    """A call that a pickle asks for: its arguments and the state and items of its result are noted, nothing is done."""

    state = None

    def __init__(self, name, *args):
        self.name, self.args, self.items = name, args, []

    def __call__(self, *args):
        return _Call(self.name, *args)

    def __setstate__(self, state):
        self.state = state

    def extend(self, items):
        self.items.extend(items)

    def array(self):
        """The array that NumPy would make of it; raises if arguments and state are not an array's or a scalar's."""
        _, shape, dtype, fortran, data = self.state or (1, (), self.args[0], False, self.args[1])
        dtype = np.dtype("".join((_text(dtype.state[1]), _text(dtype.args[0]))))  # byte order and kind: "<" and "f4"
        if isinstance(data, _Call):
            data = data.args[0].encode("latin1")  # so Python 3 writes bytes in protocols 0 to 2
        return _array(data, dtype, shape, fortran)


def _text(name):
    return name.decode() if isinstance(name, bytes) else name


def _printable(error):
    return "".join(char if char.isprintable() else " " for char in str(error))
