"""The command line as a user calls it."""
import ast
import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import main
from engine import command_line

TINY = ("--set", "TRAIN.batch_size=2", "TRAIN.hr_patch_size=48", "TRAIN.patches_per_image=1", "TRAIN.n_epoch_init=1",
        "TRAIN.n_epoch=1")


@pytest.fixture
def run(monkeypatch, capsys):
    """Call main.py in this process, without the seconds of an import; gives the exit code, stdout and stderr."""

    def call(folder, *arguments):
        monkeypatch.chdir(folder)
        capsys.readouterr()
        try:
            code = main.main(main.parse_arguments([*map(str, arguments)]))
        except SystemExit as end:
            code = end.code
        return types.SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return call


# ------------------------------------------------------------------------------------------------- a fresh clone


@pytest.fixture(scope="module")
def clone(tmp_path_factory, call):
    """A fresh clone in which both commands of the README were run, with nothing downloaded and few steps."""
    folder = tmp_path_factory.mktemp("clone")
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.html")]:
        shutil.copy(path, folder)
    for room in ("files", "engine", "study", "models"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    results = [call(folder, *arguments, script=folder / "main.py")
               for arguments in (TINY, ("--mode=evaluate", "--set", "VALID.n_figures=1"))]
    return folder, results


def test_fresh_clone_trains_both_phases(clone):
    folder, (training, _) = clone
    assert training.returncode == 0, training.stderr
    assert "--mode=download" in training.stdout and "TRAIN.hr_img_path" in training.stdout
    assert "Phase 1, epoch 1/1" in training.stdout and "Phase 2, epoch 1/1" in training.stdout
    names = {path.name for path in (folder / "checkpoint").iterdir()}
    assert {"g_srgan_init.npz", "g_srgan.npz", "d_srgan.npz", "config.json", "logs"} <= names
    assert json.loads((folder / "checkpoint" / "config.json").read_text())["TRAIN"]["batch_size"] == 2
    assert Image.open(folder / "samples" / "srgan_ginit" / "train_g_init_1.png").size == (8 * 48, 3 * 48)
    assert Image.open(folder / "samples" / "srgan_gan" / "train_g_1.png").size == (8 * 48, 3 * 48)


def test_only_the_programs_own_lines_are_on_the_screen(clone):
    for result in clone[1]:
        for noise in ("oneDNN", "cuda", "cuInit", "XLA", "0000 00:00", "WARNING", "retracing", "rebuild TensorFlow"):
            assert noise not in result.stdout + result.stderr


def test_losses_are_written_for_tensorboard(clone):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # what TensorBoard reads with
    from tensorboard.util.tensor_util import make_ndarray
    events = EventAccumulator(str(clone[0] / "checkpoint" / "logs")).Reload()
    for name in ("phase_1/mse", "phase_1/learning_rate", "phase_2/adv", "phase_2/psnr"):
        event, = events.Tensors(name)
        assert make_ndarray(event.tensor_proto) > 0
    width, height, *_ = make_ndarray(events.Tensors("phase_1/samples")[0].tensor_proto)
    assert (int(width), int(height)) == (8 * 48, 3 * 48)


def test_fresh_clone_evaluates(clone):
    folder, (_, evaluation) = clone
    assert evaluation.returncode == 0, evaluation.stderr
    output = folder / "samples" / "evaluate"
    metrics = json.loads((output / "metrics.json").read_text())
    assert list(metrics["mean"]) == ["bicubic", "lanczos", "srresnet", "srgan", "pretrained"]
    # Trained for a day, not for a minute.
    assert metrics["mean"]["pretrained"]["ssim"] > metrics["mean"]["srgan"]["ssim"] + 0.05
    assert [image["name"] for image in metrics["images"]] == ["chelsea", "china"]
    assert metrics["mean"]["bicubic"]["psnr"] == pytest.approx(26.95, abs=0.01)
    assert metrics["mean"]["srgan"]["ssim"] == pytest.approx(np.mean([i["srgan"]["ssim"] for i in metrics["images"]]))
    rows = list(csv.DictReader((output / "metrics.csv").open()))
    assert rows[-1]["name"] == "mean" and float(rows[-1]["bicubic_psnr"]) == pytest.approx(26.95, abs=0.01)
    for kind, size in (("gen", (448, 300)), ("srresnet", (448, 300)), ("bicubic", (448, 300)), ("hr", (448, 300)),
                       ("lr", (112, 75))):
        assert Image.open(output / f"chelsea_{kind}.png").size == size
    assert Image.open(output / "comparison.png").width > 1000
    assert Image.open(output / "thumbnails" / "chelsea.jpg").size == (239, 160)
    assert '"name":"chelsea"' in (output / "index.html").read_text(encoding="utf-8")
    assert "26.95 / 0.7218" in evaluation.stdout and "samples/evaluate/" in evaluation.stdout


def test_own_photo_is_not_restored_by_the_weights_of_the_demonstration(clone, run, tmp_path):
    folder = clone[0]
    photo = np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "мой снимок.png")
    result = run(folder, "--mode=evaluate", "--input", tmp_path / "мой снимок.png", "--output", tmp_path / "out")
    assert result.code == 0, result.err
    assert Image.open(tmp_path / "out" / "мой снимок_gen.png").size == (120, 84)
    assert "for show only" in result.out and "srgan: SRGAN, models/srgan.npz, for 1 lossless" in result.out
    assert "--weights checkpoint/g_srgan.npz" in result.out  # how to take them for all that


# ---------------------------------------------------------------------------------------------------------- help


def test_help_is_quick(call, tmp_path):
    began = time.perf_counter()
    result = call(tmp_path, "--help")
    assert time.perf_counter() - began < 2 and result.returncode == 0
    assert "python main.py --mode=evaluate --input photo.jpg" in result.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_the_screen(run, monkeypatch, tmp_path, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run(tmp_path, "--help").out.splitlines()
    assert columns - 20 < max(map(len, lines)) < columns


# ---------------------------------------------------------------------------------------------- mistakes of users


@pytest.mark.parametrize("words, meant", [
    (["photo.jpg"], "--mode=evaluate --input photo.jpg"),
    (["my photo.jpg", "--output", "out"], "--mode=evaluate --input 'my photo.jpg'"),
    (["evaluate", "--input", "a.jpg"], "--mode=evaluate"),
    (["TRAIN.batch_size=8"], "--set TRAIN.batch_size=8"),
    (["--restart", "batch_size=8"], "--set TRAIN.batch_size=8"),
    (["--TRAIN.batch_size=8"], "--set TRAIN.batch_size=8"),
    (["--batch_size", "8"], "--set TRAIN.batch_size=VALUE"),
    (["--imput", "a.jpg"], "--input"),
    (["--restrat"], "--restart"),
    (["--verbose"], "--help"),
])
def test_a_word_without_its_option_is_answered_by_what_was_meant(run, tmp_path, words, meant):
    result = run(tmp_path, *words)
    assert result.code == 2 and result.err.endswith(f" is no option; did you mean {meant}?\n") and not result.out


def test_what_is_meant_is_understood(run, tmp_path):
    result = run(tmp_path, "--mode=evaluate", "--input", "a.jpg", "b.jpg", "--weights", "pretrained")
    assert "a.jpg (--input)" in result.err


@pytest.mark.parametrize("arguments, words", [
    (["--mode=evalute"], "did you mean --mode=evaluate?"),
    (["--mode=mos", "--input", "a.json", "b.json"], "one --input"),
    (["--mode=app", "--input", "a.jpg"], "drop the photos into its window"),
    (["--share-on-network"], "for the window, --mode=app"),
    (["--input"], "expected at least one argument"),
    (["--mode=evaluate", "--input", "https://a.org/photo.jpg"], "--input is https://a.org/photo.jpg, a URL"),
    (["--mode=evaluate", "--output", "gs://bucket/"], "--output is gs://bucket/, a URL"),
    (["--weights", "hf://hub/g.npz"], "--weights is hf://hub/g.npz, a URL"),
    (["--set", "TRAIN.checkpoint_path=s3://bucket/run"], "TRAIN.checkpoint_path is s3://bucket/run, a URL"),
    (["--input", "my photo.jpg"], "--mode=evaluate --input 'my photo.jpg'"),
    (["--set", "TRAIN.batchsize=8"], "TRAIN.batch_size"),
    (["--mode=evaluate", "--input", "a.jpg", "--set", "VALID.blend=0.5"], "here it is RESTORE.blend"),
    (["--mode=evaluate", "--set", "RESTORE.back_project=0"], "here it is VALID.back_project"),
])
def test_a_wrong_option_is_one_sentence(run, tmp_path, arguments, words):
    result = run(tmp_path, *arguments)
    assert result.code == 2 and words in result.err and len(result.err.splitlines()) == 1 and not result.out


@pytest.mark.parametrize("arguments, words", [
    (["--mode=evaluate", "--input", "gone.jpg"], "gone.jpg (--input) does not exist; name a photo"),
    (["--mode=evaluate", "--input", "a.png", "my", "photo.png"], "put quotes around 'my photo.png'"),
    (["my", "photo.png"], "did you mean --mode=evaluate --input 'my photo.png'"),
    (["--mode=evaluate", "--input", "empty"], "empty (--input) holds no image"),
    (["--mode=evaluate", "--set", "VALID.hr_img_path=empty"], "empty (VALID.hr_img_path) holds no image"),
    (["--set", "TRAIN.hr_img_path=gone/"], "TRAIN.hr_img_path is gone/, which is not a folder"),
    (["--mode=evaluate", "--weights", "gone.npz"], "gone.npz (--weights) does not exist"),
    (["--mode=evaluate", "--input", "a.png", "--output", "a.png/out"], "a.png/out/ (--output) can't be written: Not a"),
    (["--mode=export", "--output", "a.png/out"], "a.png/out/ (--output) can't be written: Not a"),
    (["--mode=evaluate", "--input", "a.png", "--output", "b.bmp"], "b.bmp can't be written as that kind of file"),
])
def test_a_wrong_path_is_answered_before_tensorflow_is_imported(run, tmp_path, monkeypatch, arguments, words):
    (tmp_path / "empty").mkdir()
    for name in ("a.png", "my photo.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    monkeypatch.setattr(command_line.importlib, "import_module", lambda name: pytest.fail(f"{name} is imported"))
    result = run(tmp_path, *arguments)
    assert result.code == 2 and words in result.err and len(result.err.splitlines()) == 1 and not result.out


def test_the_paths_of_a_run_are_checked_without_tensorflow():
    script = ("import sys; from engine import command_line; from files import photo_files;"
              "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


def test_tilde_is_the_home_folder_in_every_path_option(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    arguments = main.parse_arguments(["--mode=evaluate", "--input", "~/a", "~/b", "--output=~/c", "--weights=~/d"])
    assert [*arguments.input, arguments.output, arguments.weights] == [f"{tmp_path}/{name}" for name in "abcd"]


def no_image(folder):
    (folder / "empty").mkdir()
    (folder / "empty" / "notes.txt").write_text("no image")


def lfs_pointer(folder):
    (folder / "vgg19.npy").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 574670860\n")


def no_weights(folder):
    (folder / "g.npz").write_bytes(b"<!DOCTYPE html><html></html>")


class Touches:
    def __reduce__(self):
        return os.system, ("touch executed",)


def weights_that_execute(folder):
    (folder / "checkpoint").mkdir()
    np.savez(folder / "checkpoint" / "g_srgan.npz", params=np.array([Touches()], object))


@pytest.mark.parametrize("prepare, arguments, words", [
    (None, ("--set", "TRAIN.hr_img_path=nowhere/"), ("TRAIN.hr_img_path", "nowhere/")),
    (None, ("--set", "TRAIN.img_path=nowhere/"), ("TRAIN.hr_img_path", "nowhere/")),
    (no_image, ("--set", "TRAIN.hr_img_path=empty/"), ("TRAIN.hr_img_path", "empty/")),
    (None, ("--mode=evaluate", "--weights", "g.npz"), ("g.npz",)),
    (no_weights, ("--mode=evaluate", "--weights", "g.npz"), ("g.npz", "web page")),
    (lfs_pointer, ("--set", "TRAIN.n_epoch_init=1"), ("vgg19.npy", "LFS")),
    (weights_that_execute, ("--mode=evaluate",), ("checkpoint/g_srgan.npz", "posix.system", "nothing was run")),
    (no_weights, ("--mode=evaluate", "--weights", "g.npz", "--input", "a.jpg"), ("a.jpg (--input) does not exist",)),
])
def test_a_users_mistake_is_one_sentence(prepare, arguments, words, run, tmp_path):
    if prepare:
        prepare(tmp_path)
    result = run(tmp_path, *arguments)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    for word in words:
        assert word in result.err
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("line, words", [
    ("config.TRIAN.batch_size = 8", "TRIAN"),
    ("config.TRAIN.batch_size = 8 +", "invalid syntax"),
    ("config.TRAIN.batch_size = eight", "eight"),
    ("config.TRAIN.batch_size = 8 / 0", "division by zero"),
])
def test_a_config_that_python_cannot_read_is_one_sentence_with_the_line(call, tmp_path, line, words):
    shutil.copytree(ROOT / "engine", tmp_path / "engine")
    for name in ("main.py", "utils.py"):
        shutil.copy(ROOT / name, tmp_path)
    source = (ROOT / "config.py").read_text()
    (tmp_path / "config.py").write_text(f"{source}{line}\n")
    result = call(tmp_path, script=tmp_path / "main.py")
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1 and words in result.stderr
    assert f"config.py can't be read, line {len(source.splitlines()) + 1}: " in result.stderr
    assert result.stderr.count("line") == 1


@pytest.mark.parametrize("package, arguments", [("tqdm", ()), ("requests", ("--mode=download",))])
def test_a_missing_package_is_named(package, arguments, tmp_path):
    script = f"import runpy, sys; sys.modules[{package!r}] = None; runpy.run_path('main.py', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == f"The package {package} is not installed; run: pip install -r requirements.txt\n"


def test_an_environment_that_is_not_active_is_named(tmp_path):
    shutil.copy(ROOT / "main.py", tmp_path)
    (tmp_path / "venv").mkdir()
    script = "import runpy, sys; sys.modules['utils'] = None; runpy.run_path('main.py', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    activate = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "activate"
    assert result.returncode == 2 and result.stderr.endswith(f"{activate}\n") and "not active" in result.stderr


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 12)])
def test_an_old_python_is_one_sentence(version):
    script = f"import runpy, sys; sys.version_info = {version}; runpy.run_path('main.py', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("This needs Python 3.11") and not result.stdout
    assert len(result.stderr.splitlines()) == 1


def test_the_oldest_python_can_read_main():
    tree = ast.parse((ROOT / "main.py").read_text(encoding="ascii"))
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match, ast.Starred, ast.AsyncFunctionDef, ast.Nonlocal)
    assert not [node for node in ast.walk(tree) if isinstance(node, newer)]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.cause]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.arg) and node.annotation]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.returns]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "print"]


# ------------------------------------------------------------------------------------------- unusual surroundings


@pytest.mark.skipif(sys.platform == "win32", reason="redirections of a Unix shell")
@pytest.mark.parametrize("closed, said_on", [(">&-", "stderr"), ("2>&-", "stdout"), ("<&- >&-", "stderr")])
def test_a_closed_stream_does_not_matter(closed, said_on, tmp_path):
    command = f"exec {sys.executable} {ROOT / 'main.py'} --set TRAIN.seed=x {closed}"
    result = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and "TRAIN.seed takes a whole number" in getattr(result, said_on)
    assert len((result.stdout + result.stderr).splitlines()) == 1


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    script = "import utils; utils.prepare_streams(); file = open('weights', 'w'); print(file.fileno(), file=file)"
    command = f"PYTHONPATH={ROOT} exec {sys.executable} -c \"{script}\" >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path).returncode == 0
    assert int((tmp_path / "weights").read_text()) > 2


def test_the_end_of_whoever_reads_the_output_is_a_quiet_end(monkeypatch, capfd, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w", buffering=1))
    mode = types.SimpleNamespace(div2k=lambda archives: print("a line"))
    monkeypatch.setattr(command_line.importlib, "import_module", lambda name: mode)
    assert main.main(main.parse_arguments(["--mode=download"])) == 141
    print("to nobody", flush=True)
    assert capfd.readouterr().err == ""


class Notebook:
    """As Jupyter's stdout: no file descriptor, no `reconfigure`."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return False


def test_run_in_jupyter(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Notebook())
    for settings in (["--set", "TRAIN.seed=1"], []):
        monkeypatch.setattr(sys, "argv", ["main.py", "--mode=mos", "--input", "ratings", *settings])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "main.py"), run_name="__main__")
        assert end.value.code == 2
    assert sys.stderr.text.count("key.json is missing") == 2
    assert command_line.config.TRAIN.seed == 0  # the settings of a run end with it
