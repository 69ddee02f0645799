"""Export: the generator as ONNX, TFLite and SavedModel, for use without this project."""
import importlib.util
import tempfile
import warnings
from pathlib import Path

import utils
from utils import UserError

with utils.quiet():
    import keras

    import layers
    import model
    import weights
    from engine import graph

README = """# SRGAN, exported

{scale}x super-resolution by the weights `{weights}`, batch norms folded. Each maps RGB, float32 (N, H, W, 3)
in [0, 1], to (N, {scale} H, {scale} W, 3) in [0, 1], for any N, H and W.

With ONNX a pixel of the input takes about {kb:.0f} KB of memory, and a photo of 960x640 thus {gb:.0f} GB: cut larger
photos into parts, each with {field} more pixels to every side, which is as far as a pixel sees. Colours may drift
slightly, as they are not corrected by back-projection, which `--mode=evaluate --input` does by default.

## `srgan.onnx`

`pip install onnxruntime numpy pillow`

```python
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

lr = np.asarray(ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB"), np.float32)[np.newaxis] / 255
session = onnxruntime.InferenceSession("srgan.onnx")
sr, = session.run(None, {{session.get_inputs()[0].name: lr}})
Image.fromarray(np.uint8(np.rint(255 * sr[0]))).save("photo_onnx.png")
```

## `srgan.tflite`

`pip install ai-edge-litert numpy pillow`

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

lr = np.asarray(ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB"), np.float32)[np.newaxis] / 255
interpreter = Interpreter("srgan.tflite")
source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
interpreter.resize_tensor_input(source, lr.shape)
interpreter.allocate_tensors()
interpreter.set_tensor(source, lr)
interpreter.invoke()
Image.fromarray(np.uint8(np.rint(255 * interpreter.get_tensor(target)[0]))).save("photo_tflite.png")
```

## `srgan_saved_model/`

`pip install tensorflow numpy pillow`

```python
import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

lr = np.asarray(ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB"), np.float32)[np.newaxis] / 255
network = tf.saved_model.load("srgan_saved_model")
sr = network.serve(lr).numpy()
Image.fromarray(np.uint8(np.rint(255 * sr[0]))).save("photo_saved_model.png")
```
"""


def export(arguments, config) -> int:
    """Write srgan.onnx, srgan.tflite, srgan_saved_model/ and README.md to `--output`.

    The generator is the one that would restore photos. Returns the exit code, 1 if a package was missing.
    """
    output = Path(arguments.output or "exported")
    (name, path), = weights.find_generators(
        arguments.weights, Path(config.TRAIN.checkpoint_path), scoring=False).items()
    utils.check_writable(output, "--output")
    folded = weights.load_blended(path, config.RESTORE.blend)
    print(f"{name}: {weights.describe(path)}")
    with utils.quiet():
        network = image_network(folded)
    parts = graph.parts(model.inference_generator(folded.architecture))
    kb = 4.5 * max(part.widest() for part in parts) / 1000  # as in `Upscaler`
    with utils.atomic_write(output / "README.md") as partial:
        partial.write_text(README.format(
            weights=weights.describe(path), scale=folded.architecture.scale, field=graph.fields(parts)[0], kb=kb,
            gb=kb * 960 * 640 / 1e6))
    save_folder(network, output / "srgan_saved_model")
    save_file(network, output / "srgan.tflite", "litert")
    if importlib.util.find_spec("tf2onnx"):
        save_file(network, output / "srgan.onnx", "onnx")
    print(f"The exported networks are in {output.absolute()}/; its README.md shows how to use them.")
    if importlib.util.find_spec("tf2onnx"):
        return 0
    print("srgan.onnx was not written, as the package tf2onnx is not installed; run: pip install tf2onnx")
    return 1


def image_network(folded: model.Folded) -> keras.Model:
    """The generator as a network of images: RGB (N, H, W, 3) to (N, scale H, scale W, 3), both float32 in [0, 1]."""
    low, high = folded.architecture.lr_range
    lr = keras.Input((None, None, 3), name="lr")
    network = folded.network("float32")
    for layer in network.layers:
        if isinstance(layer, layers.PReLU):
            layer.form = "portable"
    sr = network(low + (high - low) * lr)
    return keras.Model(lr, (sr + 1) / 2, name="srgan")


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
        reason = error.strerror or error
        raise UserError(f"{path}/ can't be written: {reason}; free space or name another folder.") from error
    print(f"{path}/: {sum(file.stat().st_size for file in path.rglob('*') if file.is_file()) / 1e6:.1f} MB")


def _export(network, path, form):
    with utils.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx asks NumPy for names of old
        network.export(path, format=form, verbose=False)
