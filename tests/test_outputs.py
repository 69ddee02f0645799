"""What the user made is never touched, whatever lies where a command writes, and results of our own are replaced."""
import json
import shutil
from pathlib import Path
from unittest import mock

import utils

import numpy as np
import pictures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from restoring import photo, stand_in

import config
import evaluate
import export
import main
import restore
from files import images, photo_files
from files.outputs import LIST

pytestmark = pytest.mark.usefixtures("tensorflow_has_started")

# Names that commands write, and some that they do not.
NAMES = ("cat.png", "cat_gen.png", "cat_bicubic.jpg", "cat_bicubic.png", "cat_lanczos.png", "cat_lr.png", "cat_hr.png",
         "cat_blend_0.5.png", "thumbnails/cat.jpg", "thumbnails/dog.jpg", "dog_gen.png", "index.html", "metrics.json",
         "metrics.csv", "comparison.png", "README.md", "srgan.py", "srgan.json", "srgan.onnx", "srgan.tflite",
         "srgan_saved_model/saved_model.pb", "srgan_saved_model/notes.txt", "key.json", "mos.json", "mos.csv",
         "mos.png", "study/index.html", "study/pictures/0123456789ab.png", "thumbnails", "study",
         "notes.txt")


def write(path, seed):
    """A file of the user's: a photo, or a text that even speaks of this program."""
    if any(map(Path.is_file, path.parents)) or path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if photo_files.is_image_name(path):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    else:
        path.write_text(f'{{"made by": "the user, {seed}", "with": "SRGAN 4x super-resolution"}}')


def command(*arguments):
    return main.main(main.parse_arguments([str(argument) for argument in arguments]))


COMMANDS = {
    "restore": lambda folder, _: command("--mode=evaluate", "--input", folder, "--output", folder),
    "blend": lambda folder, _: command("--mode=evaluate", "--input", folder / "cat.png", "--output", folder,
                                       "--set", "RESTORE.blend=0.5"),
    "to a file": lambda folder, _: command("--mode=evaluate", "--input", folder / "cat.png",
                                           "--output", folder / "dog_gen.png"),
    "score": lambda folder, _: command("--mode=evaluate", "--output", folder, "--set", f"VALID.hr_img_path={folder}"),
    "export": lambda folder, _: command("--mode=export", "--output", folder),
    "study": lambda folder, scored: command("--mode=mos", "--set", f"MOS.path={folder}", f"MOS.sets.A={scored}"),
    "study again": lambda folder, scored: command(
        "--mode=mos", "--restart", "--set", f"MOS.path={folder}", f"MOS.sets.A={scored}"),
    "ratings": lambda folder, scored: command(
        "--mode=mos", "--input", scored / "r.json", "--set", f"MOS.path={folder}"),
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Results to make a study of, and a file of ratings that fits none."""
    folder = tmp_path_factory.mktemp("scored")
    pairs = []
    for number in range(4):
        pairs.append((folder / f"{number}.png", None))
        Image.fromarray(photo(20 + number, 24)).save(pairs[-1][0])
    assert evaluate.score(pairs, folder / "out", stand_in(), 0) == 0
    (folder / "out" / "r.json").write_text("{}")
    return folder / "out"


@pytest.fixture(scope="module")
def quick(trained):
    """Commands without networks: enlarging repeats pixels, and exported networks are texts."""
    def export_text(network, path, form):
        file = path / "saved_model.pb" if form == "tf_saved_model" else path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(form)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "progress", mock.MagicMock())
        patch.setattr(export, "_export", export_text)
        patch.setattr(export, "image_network", lambda folded: None)
        patch.setattr(restore, "make_restorers", lambda generators, *_: [
            {key: stand_in()[0]["srgan"] for key in generators}])
        patch.setattr(evaluate, "make_restorers", restore.make_restorers)
        patch.setattr(config.config.TRAIN, "checkpoint_path", f"{trained}/")
        patch.setattr(config.config.VALID, "n_figures", 0)
        yield


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_not_one_byte_of_the_users_changes(data, quick, scored, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("mine"), {}
    for step in range(data.draw(st.integers(1, 5), "steps")):
        for name in data.draw(st.sets(st.sampled_from(NAMES), max_size=4 if step else 8), "made or changed"):
            write(folder / name, step)
            if (folder / name).is_file():
                made[folder / name] = (folder / name).read_bytes()
        if not (folder / "cat.png").exists():
            write(folder / "cat.png", 9)
            made[folder / "cat.png"] = (folder / "cat.png").read_bytes()
        code = COMMANDS[data.draw(st.sampled_from(sorted(COMMANDS)), "command")](folder, scored)
        assert code in (0, 1, 2)
        for path, content in made.items():
            assert path.read_bytes() == content, path.name


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("study", "ratings")])
def test_what_the_program_wrote_is_replaced(name, quick, scored, tmp_path):
    write(tmp_path / "cat.png", 0)
    for seed in (1, 2):
        assert COMMANDS[name](tmp_path, scored) == 0
        write(tmp_path / "cat.png", seed)
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*") if path.name not in ("cat.png", LIST)}
    copy = tmp_path / "copy"  # with other times
    for path in list(tmp_path.rglob("*.*")):
        (copy / path.relative_to(tmp_path)).parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            shutil.copyfile(path, copy / path.relative_to(tmp_path))
    assert COMMANDS[name](copy, scored) == 0
    if name != "study again":
        assert {path.relative_to(copy) for path in copy.rglob("*.*") if path.name not in ("cat.png", LIST)} == written


def test_what_would_be_replaced_is_named_before_any_work(quick, tmp_path, capsys, monkeypatch):
    for name in ("cat.png", "thumbnails/cat.jpg", "index.html"):
        write(tmp_path / name, 0)
    monkeypatch.setattr(restore, "make_restorers", pytest.fail)
    assert COMMANDS["restore"](tmp_path, None) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "index.html") in said and str(tmp_path / "thumbnails" / "cat.jpg") in said
    assert "name another place with --output" in said and not (tmp_path / LIST).exists()


def test_a_result_that_was_retouched_is_the_users_though_it_has_the_mark(quick, tmp_path, capsys):
    write(tmp_path / "cat.png", 0)
    assert COMMANDS["restore"](tmp_path, None) == 0
    images.write_image(tmp_path / "cat_gen.png", pictures.RGB)
    before = (tmp_path / "cat_gen.png").read_bytes()
    assert COMMANDS["restore"](tmp_path, None) == 2 and "cat_gen.png" in capsys.readouterr().err
    assert (tmp_path / "cat_gen.png").read_bytes() == before


@pytest.mark.parametrize("name", ["g_srgan.npz", "d_srgan.npz", "config.json", "lock", "lock.txt",
                                  "samples/srgan_gan/train_g_5.png"])
def test_a_training_begins_in_no_folder_where_it_would_replace_something(name, tmp_path, capsys):
    write(tmp_path / name, 0)
    before = (tmp_path / name).read_bytes()
    for restart in ([], ["--restart"]):
        assert command(*restart, "--set", f"TRAIN.checkpoint_path={tmp_path}", "TRAIN.devices=1",
                       f"TRAIN.sample_path={tmp_path / 'samples'}", f"TRAIN.cache_path={tmp_path / 'cache'}") == 2
        assert f"{tmp_path / name} " in capsys.readouterr().err
        assert (tmp_path / name).read_bytes() == before


def test_a_torn_list_or_one_of_another_program_is_no_reason_to_fail(quick, tmp_path):
    write(tmp_path / "cat.png", 0)
    assert COMMANDS["restore"](tmp_path, None) == 0
    content = (tmp_path / LIST).read_text()
    (tmp_path / LIST).write_text(content[:-30])
    assert COMMANDS["restore"](tmp_path, None) in (0, 2)
    (tmp_path / LIST).write_text(json.dumps("of another program"))
    COMMANDS["export"](tmp_path, None)
    assert (tmp_path / LIST).read_text() == json.dumps("of another program")
