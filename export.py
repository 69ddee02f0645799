"""Export: the generator as ONNX, TFLite and SavedModel, for use without this project."""
import importlib.util
import json
import shutil
import tarfile
import tempfile
import warnings
from pathlib import Path

import utils

import numpy as np

with utils.quiet():
    import keras
    import tensorflow as tf

    import layers
    import model
    import weights
    from engine import graph
    from files import shipped
    from files.outputs import OutputFolder

README = """# SRGAN, exported

{scale}x super-resolution by the weights `{weights}`. To use it elsewhere, take `srgan.py`, `srgan.json` and one of the
networks, such as `srgan.onnx`:

```
pip install onnxruntime numpy pillow
python srgan.py photo.jpg photo_x{scale}.png
```

```python
from PIL import Image
from srgan import upscale

upscale(Image.open("photo.jpg")).save("photo_x{scale}.png")
```

Gray, transparency, 16 bits and the EXIF orientation are taken care of. `upscale` also takes NumPy arrays, uint8 or
uint16, (H, W) or (H, W, 1 to 4). Photos of any size go through the network in tiles of at most 256 pixels a side, which
take {gb:.1f} GB with ONNX Runtime, and twice that with the others; `upscale(image, tile=384)` is faster and takes more.
Colours may drift slightly: they are not corrected by back-projection, which `--mode=evaluate --input` does by default.

## The networks

| | runs by |
|---|---|
| `srgan.onnx` | `onnxruntime` and others that know opset 18 |
| `srgan.tflite` | `ai-edge-litert`, `tensorflow` |
| `srgan_saved_model/` | `tensorflow`, by `tf.saved_model.load(...).serve` |

`srgan.py` takes the first for which both the file and the package are there. Each maps RGB, float32 (N, H, W, 3) in
[0, 1], to (N, {scale} H, {scale} W, 3) in [0, 1], for any N, H and W. A pixel of the result sees {field} pixels of the
photo to each side: by so much tiles have to overlap, but for the edges of the photo, which the network pads itself.

## The page

`web/` is a page that enlarges photos in the visitor's browser, by the GPU where WebGPU is, and sends nothing anywhere:

```
python -m http.server --directory web
```

and open http://localhost:8000. Any host of plain files will do, such as GitHub Pages. If it lets you set headers,
`Cross-Origin-Opener-Policy: same-origin` and `Cross-Origin-Embedder-Policy: require-corp` give a browser without WebGPU
several threads instead of one. If `web/ort/` is empty, run `npm pack {runtime}` and export again from the same folder.

## Licence

`srgan.py` and `web/` are under the Apache License 2.0, ONNX Runtime Web in `web/ort/` under the MIT License. The
weights: {licence}.
"""
HERE = Path(__file__).parent
KRASSERM = "Apache License 2.0, as those of https://github.com/krasserm/super-resolution, which they are or start from"

# ONNX Runtime Web: what the page takes from it, with WebGPU and without.
WEB_RUNTIME = "onnxruntime-web@1.30.0"
WEB_FILES = [f"ort{name}" for name in (
    ".webgpu.min.mjs", "-wasm-simd-threaded.asyncify.mjs", "-wasm-simd-threaded.asyncify.wasm",
    ".wasm.min.mjs", "-wasm-simd-threaded.mjs", "-wasm-simd-threaded.wasm")]
FILES = ("README.md", "srgan.json", "srgan.py", "srgan_saved_model", "srgan.tflite", "srgan.onnx", "web/index.html",
         "web/compare.html", "web/srgan.onnx", "web/srgan.json", *(f"web/ort/{name}" for name in WEB_FILES))


def export(arguments, config) -> int:
    """Write srgan.onnx, srgan.tflite, srgan_saved_model/, srgan.py that runs each, web/ and README.md to `--output`.

    The generator is the one that would restore a JPEG. Returns the exit code, 1 if a package was missing.
    """
    output = Path(arguments.output or "exported")
    found = shipped.find_generators(arguments.weights, Path(config.TRAIN.checkpoint_path), scoring=False)
    name, path = next(iter(found.items()))
    has_onnx = importlib.util.find_spec("tf2onnx") is not None
    names = [name for name in FILES if has_onnx or not name.startswith(("srgan.onnx", "web/"))]
    results, paths = OutputFolder(output), [output / name for name in names]
    results.check(paths)
    folded = weights.load_blended(path, config.RESTORE.blend)
    print(f"{name}: {shipped.describe(path)}")
    with utils.quiet():
        network = image_network(folded)
    with results.replacing(*paths):
        save_module(output, folded, path)
        save_folder(network, output / "srgan_saved_model")
        save_file(network, output / "srgan.tflite", "litert")
        if has_onnx:
            save_file(network, output / "srgan.onnx", "onnx")
            save_page(output)
    print(f"The exported networks are in {output.absolute()}/; its README.md shows how to use them.")
    if has_onnx:
        return 0
    print("srgan.onnx was not written, as the package tf2onnx is not installed; run: pip install tf2onnx")
    return 1


def save_module(output: Path, folded: model.Folded, path: str | Path) -> None:
    """Write srgan.py, which runs the exported networks, srgan.json, which says what it needs to know, and README.md."""
    parts = graph.parts(model.inference_generator(folded.architecture))
    is_known = path in shipped.NAMES
    facts = {"scale": folded.architecture.scale, "field": graph.fields(parts)[0], "weights": shipped.describe(path),
             "licence": KRASSERM if is_known else "that of whoever trained them"}
    tile_gb = 1.35 * max(part.widest() for part in parts) * 256 ** 2 / 1e9  # as measured with ONNX Runtime
    texts = {"README.md": README.format(gb=tile_gb, runtime=WEB_RUNTIME, **facts),
             "srgan.json": json.dumps(facts, indent=2),
             "srgan.py": (HERE / "engine" / "portable.py").read_text(encoding="utf-8")}
    for name, text in texts.items():
        with utils.atomic_write(output / name) as partial:
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # paths that are no text


def save_page(output: Path) -> None:
    """Write web/: a page that enlarges photos in the browser, by srgan.onnx and the ONNX Runtime Web of `npm pack`.

    Says which command fetches that where it is not in the current folder. Raises UserError if it can't be read.
    """
    web, archive = output / "web", Path(WEB_RUNTIME.replace("@", "-") + ".tgz")
    (web / "ort").mkdir(parents=True, exist_ok=True)
    for source, name in {HERE / "web.html": "index.html", HERE / "page.html": "compare.html",
                         output / "srgan.onnx": "srgan.onnx", output / "srgan.json": "srgan.json"}.items():
        with utils.atomic_write(web / name) as partial:
            shutil.copyfile(source, partial)
    if archive.exists():
        try:
            with tarfile.open(archive) as package:
                for name in WEB_FILES:
                    with utils.atomic_write(web / "ort" / name) as partial:
                        partial.write_bytes(package.extractfile(f"package/dist/{name}").read())
        except (tarfile.TarError, KeyError, EOFError) as error:
            raise utils.UserError(f"{archive} can't be read ({error}); run again: npm pack {WEB_RUNTIME}") from error
    complete = all((web / "ort" / name).exists() for name in WEB_FILES)
    print(f"{web}/: a page that enlarges photos in the browser; " + (
        f"show it with: python -m http.server --directory {web}" if complete else
        f"it lacks ONNX Runtime Web, for which run, then export again: npm pack {WEB_RUNTIME}"))


def image_network(folded: model.Folded) -> keras.Model:
    """The generator as a network of images: RGB (N, H, W, 3) to (N, scale H, scale W, 3), both float32 in [0, 1]."""
    low, high = folded.architecture.lr_range
    lr = keras.Input((None, None, 3), name="lr")
    network = folded.network("float32")
    for layer in network.layers:
        if isinstance(layer, layers.PReLU):
            layer.form = "portable"
    x = low + (high - low) * lr
    *_, conv, act, tail, output = network.layers
    if isinstance(conv, keras.layers.Conv2D) and isinstance(tail, layers.SubpixelConv) and act.input is conv.output:
        x = keras.Model(network.inputs, conv.input)(x)
        sr = output(_in_parts(conv, act, tail)(x))
    else:
        sr = network(x)
    return keras.Model(lr, (sr + 1) / 2, name="srgan")


def _in_parts(conv, act, tail):
    """`tail(act(conv(x)))`, whose maps take most of the memory, computed for one sub-pixel after the other."""
    n = tail.factor ** 2
    parts = [np.split(conv.kernel, n, axis=3), np.split(conv.bias, n), np.split(tail.lower_kernel(), n, axis=2)]
    tail_bias = np.tile(tail.bias, n)

    def run(x):
        total = tf.constant(0.0)
        for kernel, bias, lower in zip(*parts, strict=True):
            with tf.control_dependencies([total]):
                y = act(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias))
                total += tf.nn.conv2d(y, lower, 1, "SAME")
        return tf.nn.depth_to_space(tf.nn.bias_add(total, tail_bias), tail.factor)

    return keras.layers.Lambda(run, output_shape=(None, None, tail.filters))


def save_file(network: keras.Model, path: Path, form: str) -> None:
    """Write `network` in a format of Keras's `export` that is one file; raises UserError if it can't be written."""
    with utils.atomic_write(path) as partial:
        _export(network, partial, form)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def save_folder(network: keras.Model, path: Path) -> None:
    """Write `network` as a SavedModel, whole or not at all; raises UserError if it can't be written."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as partial:
            _export(network, Path(partial, "new"), "tf_saved_model")
            if path.exists():
                path.rename(Path(partial, "old"))
            Path(partial, "new").rename(path)
    except OSError as error:
        raise utils.cannot_write(f"{path}/", error) from error
    print(f"{path}/: {sum(file.stat().st_size for file in path.rglob('*') if file.is_file()) / 1e6:.1f} MB")


def _export(network, path, form):
    with utils.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx asks NumPy for names of old
        network.export(path, format=form, verbose=False, **{"opset_version": 18} if form == "onnx" else {})
