"""What is exported runs in its own runtime, by the README that comes with it, and equals what the program computes."""
import importlib.util
import os
import re

import utils

import numpy as np
import pictures
import pytest
from PIL import Image

import config
import export
import main
import model
import weights
from engine import upscaling


@pytest.fixture(scope="module")
def generator():
    """Two blocks, whose batch norms and slopes do something."""
    generator = model.get_G(n_blocks=2, bn_epsilon=1e-3)
    rng = np.random.default_rng(0)
    for weight in generator.weights:
        weight.assign(abs(weight + rng.normal(0, 0.1, weight.shape)) if "variance" in weight.path else
                      weight + rng.normal(0, 0.02, weight.shape))
    return generator


@pytest.fixture(scope="module")
def exported(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    weights.save_network(folder / "g.npz", generator)
    arguments = main.parse_arguments(["--mode=export", "--output", str(folder), "--weights", str(folder / "g.npz")])
    assert export.export(arguments, config.config) == 0
    return folder


@pytest.mark.parametrize("name, runtime", [("onnx", "onnxruntime"), ("tflite", "ai_edge_litert"),
                                           ("saved_model", "tensorflow")])
def test_the_code_of_its_readme_upscales_photos_of_two_sizes(generator, exported, monkeypatch, name, runtime):
    if not importlib.util.find_spec(runtime):
        pytest.skip(f"{runtime} is not installed")
    monkeypatch.chdir(exported)
    code, = re.findall(rf"```python\n([^`]*photo_{name}\.png[^`]*)```", (exported / "README.md").read_text())
    photo = Image.open(pictures.PHOTOS / "chelsea.png")
    for box in ((100, 100, 137, 124), (200, 60, 261, 140)):
        lr = np.asarray(photo.crop(box))
        Image.fromarray(np.rot90(lr)).save("photo.png", exif=pictures.exif(6))  # as phones write what is upright
        exec(code.replace("photo.jpg", "photo.png"), {})  # without the loss of a JPEG
        sr = np.asarray(Image.open(f"photo_{name}.png")).astype(int)
        assert np.abs(sr - upscaling.Upscaler(generator)(lr)).max() <= 1
        os.remove(f"photo_{name}.png")


def test_batches_are_upscaled_too(generator, exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    lr = np.random.default_rng(0).random((2, 9, 11, 3), np.float32)
    session = onnxruntime.InferenceSession(exported / "srgan.onnx")
    both, = session.run(None, {"lr": lr})
    one, = session.run(None, {"lr": lr[1:]})
    assert both.shape == (2, 36, 44, 3) and both.min() >= 0 and both.max() <= 1
    np.testing.assert_allclose(both[1:], one, atol=1e-5)


def test_batch_norms_are_folded(exported):
    onnx = pytest.importorskip("onnx")
    operations = {node.op_type for node in onnx.load(exported / "srgan.onnx").graph.node}
    assert "Conv" in operations and not {"BatchNormalization", "If"} & operations


def test_only_results_are_in_the_folder(exported):
    assert {path.name for path in exported.iterdir()} - {"g.npz", "photo.png"} == {
        "README.md", "srgan.onnx", "srgan.tflite", "srgan_saved_model"}


def test_a_missing_package_is_said_and_the_rest_is_written(generator, exported, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name))
    monkeypatch.setattr(export, "_export", lambda network, path, form: path.write_text(form))
    arguments = main.parse_arguments(["--mode=export", "--output", str(tmp_path), "--weights", str(exported / "g.npz")])
    assert export.export(arguments, config.config) == 1
    assert "pip install tf2onnx" in capsys.readouterr().out
    assert "18 KB" in (tmp_path / "README.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "srgan.tflite", "srgan_saved_model"}


def test_where_nothing_can_be_written_it_is_said_at_once(exported, tmp_path):
    (tmp_path / "file").touch()
    arguments = main.parse_arguments(["--mode=export", "--output", str(tmp_path / "file" / "out"), "--weights",
                                      str(exported / "g.npz")])
    with pytest.raises(utils.UserError, match="can't be written"):
        export.export(arguments, config.config)
