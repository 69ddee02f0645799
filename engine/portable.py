"""Enlarge photos: `upscale(image)` from Python, or `python srgan.py photo.jpg photo_x4.png`.

Needs NumPy, Pillow and one of onnxruntime, ai-edge-litert and tensorflow; beside it lie srgan.json and the network, as
one of srgan.onnx, srgan.tflite and srgan_saved_model/. `python main.py --mode=export` writes all of them.

Under the Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0; srgan.json names that of the weights.
"""
import argparse
import functools
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FOLDER = Path(__file__).parent


def upscale(image, tile=256, report=None):
    """Enlarge a PIL image, or an array (H, W) or (H, W, 1 to 4) of uint8 or uint16.

    Returns what was given: a PIL image, upright by its EXIF orientation, or an array of the same type. Gray stays gray,
    and alpha stays alpha.
    tile: most pixels a side that the network sees at once, those that tiles share included. Larger is faster, and takes
    more memory, by the square.
    report: called with the share that is done, from 0 to 1.
    """
    if isinstance(image, Image.Image):
        return Image.fromarray(upscale(_pixels(ImageOps.exif_transpose(image)), tile, report))
    if image.ndim == 2:
        return upscale(image[:, :, np.newaxis], tile, report)[:, :, 0]
    if image.dtype not in (np.uint8, np.uint16) or image.ndim != 3 or image.shape[2] > 4 or not image.size:
        raise ValueError(f"an image is uint8 or uint16, (H, W) or (H, W, 1 to 4), not {image.dtype} {image.shape}")
    n_colours, white = (1 if image.shape[2] < 3 else 3), np.iinfo(image.dtype).max
    colours, alpha = image[:, :, :n_colours], image[:, :, n_colours:]
    (height, width), scale = image.shape[:2], _about()["scale"]
    sr = np.empty((scale * height, scale * width, image.shape[2]), image.dtype)
    if alpha.size:
        smooth = Image.fromarray(alpha[:, :, 0].astype(np.float32)).resize((scale * width, scale * height))
        sr[:, :, -1] = np.rint(smooth).clip(0, white)
        colours = _spread(colours, alpha[:, :, 0] == 0, _about()["field"])
    is_gray = (colours == colours[:, :, :1]).all()
    rows, columns = _pieces(height, tile), _pieces(width, tile)
    for number, (y, y_stop, top, bottom) in enumerate(rows, start=1):
        for x, x_stop, left, right in columns:
            seen = np.broadcast_to(colours[y:y_stop, x:x_stop], (y_stop - y, x_stop - x, 3))
            part = _network()(seen[np.newaxis].astype(np.float32) / white)[0]
            part = part[scale * (top - y):scale * (bottom - y), scale * (left - x):scale * (right - x)]
            part = part.mean(axis=2, keepdims=True) if is_gray else part
            sr[scale * top:scale * bottom, scale * left:scale * right, :n_colours] = np.rint(white * part)
        if report:
            report(number / len(rows))
    return sr


def _pixels(image):
    """A PIL image as an array, of uint16 if it is deep, with alpha if there is any."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    colours = "L" if image.mode in ("1", "L", "LA") else "RGB"
    return np.asarray(image.convert(colours + ("A" if image.has_transparency_data else "")))


def _pieces(length, tile):
    """Cut a side into pieces of equal length: each begins and ends at 0 and 1, and is right from 2 to 3.

    Where a piece ends within the image, it is wrong as far as a pixel sees. At the edges the network pads by itself.
    """
    field = _about()["field"]
    if tile <= 2 * field:
        raise ValueError(f"tile is {tile}; take more than {2 * field}, as a pixel sees {field} to each side")
    n = max(1, math.ceil((length - 2 * field) / (tile - 2 * field)))
    size = min(length, math.ceil((length - 2 * field) / n) + 2 * field)
    starts = [min(number * (size - 2 * field), length - size) for number in range(n)]
    return [(start, start + size, start + field * (start > 0), start + size - field * (start + size < length))
            for start in starts]


def _spread(colours, hidden, reach):
    """Give each hidden pixel the colour of the nearest visible one, as the network must not mix in what is hidden."""
    if not hidden.any() or hidden.all():
        return colours
    height, width = hidden.shape
    columns, none = np.arange(width), (width + reach) ** 2  # none: more than any distance, squared
    before = np.maximum.accumulate(np.where(hidden, -none, columns), axis=1)  # the nearest ones of the same row
    after = np.minimum.accumulate(np.where(hidden, none, columns)[:, ::-1], axis=1)[:, ::-1]
    nearest = np.where(columns - before <= after - columns, before, after)
    place = np.arange(height)[:, np.newaxis] * width + nearest
    best, source = np.full(hidden.shape, none), np.arange(hidden.size).reshape(hidden.shape)
    reach = min(reach, height - 1)
    for down in range(-reach, reach + 1):
        here, there = slice(max(0, -down), height - max(0, down)), slice(max(0, down), height + min(0, down))
        distance = (nearest[there] - columns) ** 2 + down ** 2
        closer = distance < best[here]
        best[here][closer], source[here][closer] = distance[closer], place[there][closer]
    return colours.reshape(-1, colours.shape[2])[source]


@functools.cache
def _about():
    """The network's scale, and how far a pixel of its output sees to each side of its input."""
    return json.loads((FOLDER / "srgan.json").read_text(encoding="utf-8"))


@functools.cache
def _network():
    """The network, RGB float32 (1, H, W, 3) to (1, scale H, scale W, 3), by the first runtime that is there."""
    def there(package, file):
        return importlib.util.find_spec(package) and (FOLDER / file).exists()

    if there("onnxruntime", "srgan.onnx"):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.enable_mem_pattern = False  # twice the memory from the second tile on
        providers = [name for name in onnxruntime.get_available_providers() if name.startswith(("CUDA", "CPU"))]
        session = onnxruntime.InferenceSession(FOLDER / "srgan.onnx", options, providers)
        return lambda lr: session.run(None, {session.get_inputs()[0].name: lr})[0]
    if there("ai_edge_litert", "srgan.tflite"):
        from ai_edge_litert.interpreter import Interpreter
        interpreter = Interpreter(str(FOLDER / "srgan.tflite"))
        source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

        def run(lr):
            if interpreter.get_input_details()[0]["shape"].tolist() != list(lr.shape):
                interpreter.resize_tensor_input(source, lr.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(source, lr)
            interpreter.invoke()
            return interpreter.get_tensor(target)

        return run
    if there("tensorflow", "srgan_saved_model"):
        import tensorflow as tf
        network = tf.saved_model.load(FOLDER / "srgan_saved_model")
        return lambda lr: network.serve(lr).numpy()
    raise ImportError("none of onnxruntime, ai-edge-litert and tensorflow is installed; run: pip install onnxruntime")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Enlarge a photo with SRGAN.")
    parser.add_argument("photo")
    parser.add_argument("result", help="a file to write: .png, .jpg, .webp or .tif")
    arguments = parser.parse_args()
    photo = ImageOps.exif_transpose(Image.open(arguments.photo))
    result = upscale(photo, report=lambda share: print(f"\r{share:4.0%}", end="", flush=True))
    result.save(arguments.result, quality=95, exif=photo.getexif(), icc_profile=photo.info.get("icc_profile"))
    print(f"\r{arguments.result}: {result.width}x{result.height}")
