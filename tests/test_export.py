"""What is exported runs in its own runtime, by the README that comes with it, and equals what the program computes."""
import base64
import functools
import http.server
import importlib.util
import io
import os
import re
import shutil
import subprocess
import threading
import time

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
from files import images
from files.outputs import LIST
from restore import Restorer

WEIGHTS = os.fsdecode("重み".encode() + b"\xff.npz")  # no text in any encoding


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
    weights.save_network(folder / WEIGHTS, generator)
    arguments = main.parse_arguments(["--mode=export", "--output", str(folder), "--weights", str(folder / WEIGHTS)])
    assert export.export(arguments, config.config) == 0
    return folder


@pytest.fixture(scope="module")
def restorer(generator):
    """What the program itself computes."""
    return Restorer(generator, back_project=False, precision="float32")


@pytest.fixture
def portable(exported, tmp_path):
    """srgan.py as a module, beside the network of one runtime only: `portable("onnxruntime")`."""
    networks = {"onnxruntime": "srgan.onnx", "ai_edge_litert": "srgan.tflite", "tensorflow": "srgan_saved_model"}

    def load(runtime="onnxruntime"):
        pytest.importorskip(runtime)
        for name in ("srgan.py", "srgan.json", networks[runtime]):
            (tmp_path / name).symlink_to(exported / name)
        return load_module(tmp_path / "srgan.py")

    return load


def load_module(path):
    spec = importlib.util.spec_from_file_location("srgan", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def largest_difference(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    return np.abs(a.astype(int) - b).max()


@pytest.mark.parametrize("runtime", ["onnxruntime", "ai_edge_litert", "tensorflow"])
def test_its_module_restores_in_tiles_as_the_program_does(portable, restorer, runtime):
    module = portable(runtime)
    for box in ((100, 100, 137, 124), (200, 60, 311, 153)):  # smaller than a tile, and larger
        lr = np.asarray(Image.open(pictures.PHOTOS / "chelsea.png").crop(box))
        assert largest_difference(module.upscale(lr, tile=60), restorer(lr)) <= 1


@pytest.mark.parametrize("kind", [(pictures.RGB,), (pictures.GRAY,), (pictures.GRAY, pictures.ALPHA),
                                  (pictures.RGB, pictures.ALPHA), (pictures.GRAY.repeat(3, axis=2), pictures.ALPHA)])
def test_gray_alpha_and_16_bits_stay(portable, restorer, kind):
    module, lr = portable(), np.dstack(kind)
    if len(kind) > 1:
        lr[5:, :9, -1] = 0  # hides some colours
    sr, expected = module.upscale(lr), restorer(lr)
    visible = expected[:, :, -1:] > 0 if len(kind) > 1 else np.ones_like(expected, bool)
    assert largest_difference(sr * visible, expected * visible) <= 1
    deep = module.upscale(lr.astype(np.uint16) * 257)
    assert deep.dtype == np.uint16 and np.abs(deep / 257 - sr)[np.broadcast_to(visible, sr.shape)].max() <= 0.6
    picture = Image.fromarray(lr.squeeze())
    assert module.upscale(picture).mode == picture.mode
    assert np.array_equal(np.atleast_3d(module.upscale(picture)), sr)


def test_no_tile_is_larger_than_asked(portable, monkeypatch):
    module, seen = portable(), []
    monkeypatch.setattr(module, "_network", lambda: lambda lr: seen.append(lr.shape) or lr.repeat(4, 1).repeat(4, 2))
    lr = np.random.default_rng(0).integers(0, 256, (97, 211, 3), np.uint8)
    assert np.array_equal(module.upscale(lr, tile=50), lr.repeat(4, 0).repeat(4, 1))
    assert max(height for _, height, *_ in seen) <= 50 and max(width for _, _, width, _ in seen) <= 50
    with pytest.raises(ValueError, match="tile is 20"):
        module.upscale(lr, tile=20)


def test_a_photo_from_the_command_line_is_upright_and_keeps_its_metadata(exported, restorer, tmp_path, call):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    Image.fromarray(pictures.RGB).save(tmp_path / "photo.png", exif=exif)
    process = call(tmp_path, "photo.png", "photo_x4.png", script=exported / "srgan.py")
    assert process.returncode == 0, process.stderr
    assert "photo_x4.png: 80x112" in process.stdout
    with Image.open(tmp_path / "photo_x4.png") as sr:
        assert largest_difference(np.asarray(sr), restorer(images.read_image(tmp_path / "photo.png"))) <= 1
        assert sr.getexif()[0x010F] == "Camera" and 0x0112 not in sr.getexif()


def test_the_code_of_its_readme_upscales_a_photo(exported, restorer, tmp_path, monkeypatch):
    for name in ("srgan.py", "srgan.json", "srgan.onnx"):
        (tmp_path / name).symlink_to(exported / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Image.fromarray(pictures.RGB).save("photo.jpg")
    code, = re.findall(r"```python\n([^`]*)```", (exported / "README.md").read_text(encoding="utf-8"))
    exec(code, {})
    assert largest_difference(images.read_image("photo_x4.png"), restorer(images.read_image("photo.jpg"))) <= 1


def test_a_network_of_another_kind_and_scale_is_exported_as_it_is():
    folded = model.fold_network(model.get_G(model.TENSORLAYER, n_blocks=1, scale=3))
    lr = np.random.default_rng(0).random((1, 9, 11, 3), np.float32)
    sr = export.image_network(folded)(lr)
    assert sr.shape == (1, 27, 33, 3)
    np.testing.assert_allclose(sr, (folded.network()(2 * lr - 1) + 1) / 2, atol=1e-5)


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
    assert {path.name for path in exported.iterdir()} - {WEIGHTS, "__pycache__", LIST} == {
        "README.md", "srgan.py", "srgan.json", "srgan.onnx", "srgan.tflite", "srgan_saved_model", "web"}


def test_a_missing_package_is_said_and_the_rest_is_written(generator, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name))
    monkeypatch.setattr(export, "_export", lambda network, path, form: path.write_text(form))
    weights.save_network(tmp_path / "weights" / "g.npz", generator)
    arguments = main.parse_arguments(["--mode=export", "--output", str(tmp_path / "out"),
                                      "--weights", str(tmp_path / "weights" / "g.npz")])
    assert export.export(arguments, config.config) == 1
    assert "pip install tf2onnx" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} - {LIST} == {
        "README.md", "srgan.py", "srgan.json", "srgan.tflite", "srgan_saved_model"}


def test_where_nothing_can_be_written_it_is_said_at_once(exported, tmp_path):
    (tmp_path / "file").touch()
    arguments = main.parse_arguments(["--mode=export", "--output", str(tmp_path / "file" / "out"), "--weights",
                                      str(exported / WEIGHTS)])
    with pytest.raises(utils.UserError, match="can't be written"):
        export.export(arguments, config.config)


# -------------------------------------------------------------------------------------------------------- web page

NEAREST = """
export const env = { wasm: {} };
export class Tensor {
  constructor(type, data, dims) { Object.assign(this, { data, dims }); }
  getData() { return this.data; }
  dispose() {}
}
globalThis.seen = [];
const inputNames = ["lr"], outputNames = ["sr"];
export const InferenceSession = { create: async () => ({ inputNames, outputNames, run: async ({ lr }) => {
  const [, height, width] = lr.dims, sr = new Float32Array(16 * lr.data.length);
  seen.push(Math.max(height, width));
  for (let y = 0, i = 0; y < 4 * height; y++) for (let x = 0; x < 4 * width; x++) for (let c = 0; c < 3; c++) {
    sr[i++] = lr.data[3 * ((y >> 2) * width + (x >> 2)) + c];
  }
  return { sr: new Tensor("float32", sr) };
} }) };
"""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """A folder with what `npm pack` fetches."""
    folder = tmp_path_factory.mktemp("npm")
    if not shutil.which("npm"):
        pytest.skip("the exported page is not tested in WebAssembly: no npm")
    if subprocess.run(["npm", "pack", "--silent", export.WEB_RUNTIME], cwd=folder, timeout=120).returncode:
        pytest.skip(f"the exported page is not tested in WebAssembly: npm can't fetch {export.WEB_RUNTIME}")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory, start_chromium):
    return start_chromium(tmp_path_factory.mktemp("profile"))


@pytest.fixture
def page(exported, browser, tmp_path, monkeypatch):
    """The page in the browser: `page(folder of npm's archive)`, or with a runtime that repeats pixels."""
    def start(archive=None):
        monkeypatch.chdir(archive or tmp_path)
        export.save_page(exported)
        shutil.copytree(exported / "web", tmp_path / "web")
        if not archive:
            (tmp_path / "web" / "ort" / "ort.wasm.min.mjs").write_text(NEAREST)
        handler = functools.partial(Quiet, directory=tmp_path / "web")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        browser.get(f"http://127.0.0.1:{server.server_port}")
        return WebPage(browser, tmp_path)

    servers = []
    yield start
    for server in servers:
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


class WebPage:
    def __init__(self, driver, folder):
        self.driver, self.folder = driver, folder

    def find(self, name):
        return self.driver.find_element("id", name)

    def wait(self, condition):
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, self.find("message").text
            time.sleep(0.05)

    def choose(self, content):
        """Choose a file: an array, or bytes that are no image."""
        path = self.folder / f"photo{len(list(self.folder.iterdir()))}.png"
        path.write_bytes(content) if isinstance(content, bytes) else Image.fromarray(content).save(path)
        self.find("file").send_keys(str(path))
        return path.name

    def restore(self, photo):
        name = self.choose(photo)
        self.wait(lambda: (self.find("download").get_attribute("download") or "").startswith(name[:-4])
                  and self.find("download").is_displayed())
        data = self.driver.execute_async_script("""const [done] = arguments, reader = new FileReader();
            reader.onload = () => done(reader.result.split(",")[1]);
            fetch(document.querySelector("#download").href).then(x => x.blob()).then(x => reader.readAsDataURL(x));""")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_its_page_restores_in_webassembly_as_the_program_does(page, runtime, restorer):
    page = page(runtime)
    photo = np.asarray(Image.open(pictures.PHOTOS / "chelsea.png"))
    for lr in (photo[60:140, 100:200], photo[:61, :90]):
        sr = page.restore(lr)
        assert largest_difference(sr[:, :, :3], restorer(lr)) <= 2 and sr[:, :, 3].min() == 255
    gray = pictures.GRAY.repeat(3, axis=2)
    assert largest_difference(page.restore(gray)[:, :, :3], restorer(gray)) <= 2
    alpha = np.dstack([photo[60:140, 100:200], np.full((80, 100), 255, np.uint8)])
    alpha[:30, :40] = 255, 0, 255, 0  # hidden, and of a colour that must not show
    sr, expected = page.restore(alpha), restorer(alpha)
    opaque = expected[:, :, 3] == 255
    difference = np.abs(sr.astype(int) - expected)
    assert np.quantile(difference[opaque], 0.999) <= 2 and difference[:, :, 3].mean() < 1
    addresses = page.driver.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert addresses and all(re.match(r"(blob:)?http://127\.0\.0\.1:", address) for address in addresses)


def test_its_page_cuts_large_photos_and_compares_them(page):
    page = page()
    lr = np.random.default_rng(0).integers(0, 256, (750, 1000, 3), np.uint8)
    assert np.array_equal(page.restore(lr)[:, :, :3], lr.repeat(4, 0).repeat(4, 1))
    assert 200 < max(page.driver.execute_script("return seen")) <= 256
    assert re.fullmatch(r"Done in \d+ s", page.find("title").text)
    page.driver.switch_to.frame(page.find("comparison"))
    page.wait(lambda: page.find("slider").is_displayed())
    assert "4000 \N{MULTIPLICATION SIGN} 3000" in page.find("size").text
    page.driver.switch_to.default_content()


def test_its_page_says_what_is_wrong_and_can_be_used_again(page):
    page = page()
    name = page.choose(b"no image")
    page.wait(lambda: f"{name} can't be read" in page.find("message").text)
    lr = pictures.RGB
    assert np.array_equal(page.restore(lr)[:, :, :3], lr.repeat(4, 0).repeat(4, 1))


def test_its_page_says_that_it_needs_a_server(page, tmp_path):
    page = page()
    page.driver.get((tmp_path / "web" / "index.html").as_uri())
    page.wait(lambda: "python -m http.server" in page.find("message").text)


def test_its_page_says_where_the_runtime_is_missing(page, tmp_path):
    page = page()
    (tmp_path / "web" / "ort" / "ort.wasm.min.mjs").unlink()
    page.choose(pictures.RGB)
    page.wait(lambda: "ONNX Runtime Web is not" in page.find("message").text)


def test_a_damaged_archive_of_the_runtime_is_refused(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "onnxruntime-web-1.30.0.tgz").write_bytes(b"no archive")
    with pytest.raises(utils.UserError, match="npm pack onnxruntime-web"):
        export.save_page(exported)
