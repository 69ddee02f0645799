"""The command line as a user calls it."""
import csv
import json
import os
import shutil
import time

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

TINY = ("--set", "TRAIN.batch_size=2", "TRAIN.patches_per_image=1", "TRAIN.n_epoch_init=1", "TRAIN.n_epoch=1")


@pytest.fixture(scope="module")
def clone(tmp_path_factory, call):
    """A fresh clone in which both commands of the README were run, with nothing downloaded and few steps."""
    folder = tmp_path_factory.mktemp("clone")
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    results = [call(folder, *arguments, script=folder / "main.py")
               for arguments in (TINY, ("--mode=evaluate", "--set", "VALID.n_figures=1"))]
    return folder, results


def test_fresh_clone_trains_both_phases(clone):
    folder, (training, _) = clone
    assert training.returncode == 0, training.stderr
    assert "--mode=download" in training.stdout and "config.TRAIN.hr_img_path" in training.stdout
    assert "Phase 1, epoch 1/1" in training.stdout and "Phase 2, epoch 1/1" in training.stdout
    names = {path.name for path in (folder / "checkpoint").iterdir()}
    assert {"g_srgan_init.npz", "g_srgan.npz", "d_srgan.npz", "config.json", "logs"} <= names
    assert json.loads((folder / "checkpoint" / "config.json").read_text())["TRAIN"]["batch_size"] == 2
    assert Image.open(folder / "samples" / "srgan_ginit" / "train_g_init_1.png").size == (8 * 96, 3 * 96)
    assert Image.open(folder / "samples" / "srgan_gan" / "train_g_1.png").size == (8 * 96, 3 * 96)


def test_only_the_programs_own_lines_are_on_the_screen(clone):
    for result in clone[1]:
        for noise in ("oneDNN", "cuda", "XLA", "0000 00:00", "WARNING", "rebuild TensorFlow"):
            assert noise not in result.stdout + result.stderr


def test_losses_are_written_for_tensorboard(clone):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # what TensorBoard reads with
    events = EventAccumulator(str(clone[0] / "checkpoint" / "logs")).Reload()
    for name in ("phase_1/mse", "phase_1/learning_rate", "phase_2/adv", "phase_2/psnr"):
        event, = events.Tensors(name)
        assert event.tensor_proto.float_val[0] > 0
    width, height, *_ = events.Tensors("phase_1/samples")[0].tensor_proto.string_val
    assert (int(width), int(height)) == (8 * 96, 3 * 96)


def test_fresh_clone_evaluates(clone):
    folder, (_, evaluation) = clone
    assert evaluation.returncode == 0, evaluation.stderr
    output = folder / "samples" / "evaluate"
    metrics = json.loads((output / "metrics.json").read_text())
    assert list(metrics["mean"]) == ["bicubic", "lanczos", "srresnet", "srgan"]
    assert [image["name"] for image in metrics["images"]] == ["chelsea", "china"]
    assert metrics["mean"]["bicubic"]["psnr"] == pytest.approx(26.95, abs=0.01)
    assert metrics["mean"]["srgan"]["ssim"] == pytest.approx(np.mean([i["srgan"]["ssim"] for i in metrics["images"]]))
    rows = list(csv.DictReader((output / "metrics.csv").open()))
    assert rows[-1]["name"] == "mean" and float(rows[-1]["bicubic_psnr"]) == pytest.approx(26.95, abs=0.01)
    for kind, size in (("gen", (448, 300)), ("srresnet", (448, 300)), ("bicubic", (448, 300)), ("hr", (448, 300)),
                       ("lr", (112, 75))):
        assert Image.open(output / f"chelsea_{kind}.png").size == size
    assert Image.open(output / "comparison.png").width > 1000
    assert "26.95 / 0.7218" in evaluation.stdout and "samples/evaluate/" in evaluation.stdout


def test_own_photo_is_restored_by_the_trained_weights(clone, call, tmp_path):
    folder = clone[0]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)).save(tmp_path / "мой снимок.png")
    result = call(folder, "--mode=evaluate", "--input", tmp_path / "мой снимок.png", "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "out" / "мой снимок_gen.png").size == (120, 84)
    assert "checkpoint/g_srgan.npz" in result.stdout


def test_training_goes_on_from_given_weights(clone, call, tmp_path):
    folder = clone[0]
    result = call(tmp_path, *TINY, "TRAIN.n_epoch=0", "TRAIN.learning_rate_init=0", "--weights",
                  folder / "checkpoint" / "g_srgan.npz")
    assert result.returncode == 0, result.stderr
    given, trained = (np.load(path / "checkpoint" / name) for path, name in
                      ((folder, "g_srgan.npz"), (tmp_path, "g_srgan_init.npz")))
    np.testing.assert_allclose(given["block_5_conv_1/kernel"], trained["block_5_conv_1/kernel"], rtol=1e-5)


def test_help_is_quick(call, tmp_path):
    began = time.perf_counter()
    result = call(tmp_path, "--help")
    assert time.perf_counter() - began < 2 and result.returncode == 0
    assert "python main.py --mode=evaluate --input photo.jpg" in result.stdout


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
    (None, ("--set", "TRAIN.batchsize=8"), ("TRAIN.batchsize", "TRAIN.batch_size")),
    (None, ("--set", "batch_size=8"), ("TRAIN.batch_size",)),
    (None, ("--input", "photo.jpg"), ("--mode=evaluate --input photo.jpg",)),
    (None, ("--set", "TRAIN.batch_size=many"), ("TRAIN.batch_size", "whole number")),
    (None, ("--set", "TRAIN.batch_size=0"), ("TRAIN.batch_size", "at least 1")),
    (None, ("--set", "TRAIN.hr_patch_size=50"), ("TRAIN.hr_patch_size", "multiple of 4")),
    (None, ("--set", "TRAIN.architecture=edsr"), ("TRAIN.architecture", "tensorlayer")),
    (None, ("--set", "TRAIN.loss=vgg54"), ("TRAIN.loss", "srgan_vgg54")),
    (None, ("--set", "TRAIN.hr_img_path=nowhere/"), ("TRAIN.hr_img_path", "nowhere/")),
    (None, ("--set", "TRAIN.img_path=nowhere/"), ("TRAIN.hr_img_path", "nowhere/")),
    (no_image, ("--set", "TRAIN.hr_img_path=empty/"), ("TRAIN.hr_img_path", "empty/")),
    (None, ("--mode=evaluate",), ("python main.py", "--weights")),
    (None, ("--mode=evaluate", "--weights", "g.npz"), ("g.npz",)),
    (no_weights, ("--mode=evaluate", "--weights", "g.npz"), ("g.npz", "web page")),
    (lfs_pointer, ("--set", "TRAIN.n_epoch_init=1"), ("vgg19.npy", "LFS")),
    (weights_that_execute, ("--mode=evaluate",), ("checkpoint/g_srgan.npz", "posix.system", "nothing was run")),
    (no_weights, ("--mode=evaluate", "--weights", "g.npz", "--input", "photo.jpg"), ("photo.jpg (--input) is not there",)),
])
def test_a_users_mistake_is_one_sentence(prepare, arguments, words, call, tmp_path):
    if prepare:
        prepare(tmp_path)
    result = call(tmp_path, *arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in result.stderr
    assert not (tmp_path / "executed").exists()
