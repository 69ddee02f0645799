"""Weights files of every format to arrays, and arrays to our own format. Nothing in a file is ever executed."""
import io
import os
import pickle
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
# The order of a batch norm's arrays in files without names; of any other layer's it is 0. TensorLayer writes moving_var.
BATCH_NORM = {"beta": 1, "gamma": 2, "moving_mean": 3, "moving_var": 4, "moving_variance": 4}

# All that a pickle of arrays asks for (NumPy 2 says numpy._core for numpy.core), and the opcodes that it never uses.
PICKLE_NAMES = {"numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar",
                "_codecs.encode"}
PICKLE_UNUSED = (pickle.EXT1 + pickle.EXT2 + pickle.EXT4 + pickle.EMPTY_SET + pickle.ADDITEMS + pickle.FROZENSET
                 + pickle.BYTEARRAY8)


def load_arrays(path: str | Path) -> Arrays:
    """All arrays of a file, in the order of its layers, as `{name: array}`.

    Reads our own `.npz`, those of TensorLayer 1.x, 2.x and TensorLayerX, the `.h5` of TensorLayer 2.x and Keras 2 and
    `vgg19.npy` (its convolutions), told apart by content. Names, shapes and dtypes (floats, integers, text) are the file's; arrays
    without a name are "0", "1", ..., those of vgg19.npy "conv1_1/kernel", "conv1_1/bias", ...; a foreign batch norm
    comes as beta, gamma, moving mean, moving variance. Arrays may be read-only.
    Raises UserError for a file that can't be opened, holds no weights, is damaged or too large, asks for a function or
    an object, or points outside of itself.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 (entered below, outside of this try)
    except OSError as error:
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
    for magic, reader in ((b"PK", _read_npz), (b"\x93NUMPY", _read_npy), (b"\x89HDF\r\n\x1a\n", _read_h5)):
        if start.startswith(magic):
            return reader
    if not start:
        raise UserError("is empty; copy or download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise UserError("is a Git LFS pointer, not the weights; run `git lfs pull` or download the file itself.")
    if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        raise UserError("is a web page, not the weights; open it in a browser and download the file from there.")
    raise UserError("is not a weights file; name an .npz, .npy or .h5.")


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


def _read_npz(file):
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_size(sum(entry.file_size for entry in entries))
        if not all(entry.filename.endswith(".npy") for entry in entries):
            raise UserError("is an archive of other files than arrays; name a weights file.")
        for entry in entries:
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("compressed as no .npz is")  # and zipfile inflates the other kinds without a bound
            with archive.open(entry) as packed:
                data = packed.read(entry.file_size)  # a bare read() inflates a gigabyte, whatever the size above says
            yield from _read_npy(io.BytesIO(data), entry.filename.removesuffix(".npy"))


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
    if dtype.kind not in "fiubU":
        raise ValueError(f"an array of {dtype}")
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
    """What lies at a path in an HDF5 group, unless a link, which may lead to another file, is on the way there."""
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
    """Reads a pickle as data: what it would call becomes an inert `_Call`, and any name that arrays don't need is refused.

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

    def find_class(self, module, name):
        asked = f"{module}.{name}"
        if asked.replace("numpy._core", "numpy.core") not in PICKLE_NAMES:
            raise UserError(f"asks for {asked:.80}, which no weights need; nothing was run, get it from a source you trust.")
        return _Call()

    def persistent_load(self, pid):
        asked = _text(pid) if isinstance(pid, (str, bytes)) else type(pid).__name__
        raise UserError(f"asks for the object {asked:.80} outside of itself; get it from a source you trust.")


class _Call:
    """A call that a pickle asks for, with its arguments, and the state that the result gets: noted, not done."""

    state = None

    def __init__(self, *args):
        self.args = args

    def __call__(self, *args):
        return _Call(*args)

    def __setstate__(self, state):
        self.state = state

    def array(self):
        """The array that NumPy would make of it; raises where arguments and state are not those of an array or a scalar."""
        _, shape, dtype, fortran, data = self.state or (1, (), self.args[0], False, self.args[1])
        dtype = np.dtype("".join((_text(dtype.state[1]), _text(dtype.args[0]))))  # byte order and kind: "<" and "f4"
        if isinstance(data, _Call):
            data = data.args[0].encode("latin1")  # so Python 3 writes bytes in protocols 0 to 2
        return _array(data, dtype, shape, fortran)


def _text(name):
    return name.decode() if isinstance(name, bytes) else name


def _printable(error):
    return "".join(char if char.isprintable() else " " for char in str(error))
