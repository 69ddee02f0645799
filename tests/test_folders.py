"""Folders of photos: what is there already is left alone, and several processes share the work."""
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import conftest
import numpy as np
import pytest
from PIL import Image
from restoring import EXACTLY, check_page, nearest, page_of, photo, run

import restore
import results
from files import images
from files.outputs import OutputFolder

pytestmark = pytest.mark.usefixtures("tensorflow_has_started")


def numbered(number):
    """Photos of one size, for which the network is traced once."""
    return np.roll(photo(60, 80), number, axis=1)


def write_photos(folder, n):
    folder.mkdir()
    for number in range(n):
        Image.fromarray(numbered(number)).save(folder / f"{number}.png")


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*_gen.*")}


def test_a_folder_goes_on_where_it_was_killed(trained, tmp_path, capsys):
    n, out = 16, tmp_path / "out"
    write_photos(tmp_path / "in", n)
    arguments = ["--weights", trained / "g_srgan.npz", "--output", out, "--input", tmp_path / "in", *EXACTLY]
    with subprocess.Popen([sys.executable, conftest.ROOT / "main.py", "--mode=evaluate", *arguments]) as process:
        while len(times(out)) < 4 and process.poll() is None:
            time.sleep(0.005)
        process.kill()
    before = {name: when for name, when in times(out).items()
              if (out / "thumbnails" / name.replace("_gen.png", ".jpg")).exists()}
    assert 3 <= len(before) < n and not (out / "index.html").exists()
    assert run("--skip-existing", *arguments) == 0
    said = capsys.readouterr().out
    assert f"{len(before)} of {n} results are there already, made with these settings.\n" in said
    assert said.count(" -> ") == n - len(before)
    after = times(out)
    assert len(after) == n and before.items() <= after.items()
    restorer = restore.Restorer(trained / "g_srgan.npz", precision="float32")
    for number in range(n):
        result = images.read_image(out / f"{number}_gen.png")
        np.testing.assert_array_equal(result, restorer(numbered(number)))
    assert set(check_page(out)[1]) == set(map(str, range(n))) and not list(out.rglob(".*.partial*"))


def test_only_results_of_the_same_photo_and_settings_are_left_alone(trained, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_photos(tmp_path / "in", 4)
    arguments = ["--weights", trained / "g_srgan.npz", "--output", out, "--input", tmp_path / "in", "--skip-existing"]

    def redone(*more):
        before = times(out)
        assert run(*arguments, *more) == 0 and set(check_page(out)[1]) == {"0", "1", "2", "3"}
        return {name[0] for name, when in times(out).items() if before.get(name) != when}

    assert redone() == {"0", "1", "2", "3"}
    with monkeypatch.context() as patch:
        patch.setattr("engine.restorer.Restorer", lambda *_, **__: pytest.fail("a network is loaded for nothing"))
        assert redone() == set()
    Image.fromarray(numbered(9)[:, :70]).save(tmp_path / "in" / "1.png")
    now = time.time() + 2
    os.utime(tmp_path / "in" / "2.png", (now, now))
    (out / "3_bicubic.jpg").unlink()
    assert redone() == {"1", "2", "3"}
    os.utime(tmp_path / "in" / "2.png", (1, 1))
    assert redone("--set", "RESTORE.back_project=false") == {"0", "1", "2", "3"}
    assert redone("--weights", trained / "g_srgan_init.npz") == {"0", "1", "2", "3"}


# ------------------------------------------------------------------------------------------------- kinds of files


@pytest.mark.parametrize("form, kind", [("jpg", "JPEG"), ("webp", "WEBP"), ("tif", "TIFF"), ("avif", "AVIF")])
def test_results_are_of_the_kind_and_the_quality_that_are_asked_for(trained, tmp_path, form, kind):
    write_photos(tmp_path / "in", 2)
    arguments = ["--weights", trained / "g_srgan.npz", "--input", tmp_path / "in", "--format", form, *EXACTLY]
    sr, sizes, errors = restore.Restorer(trained / "g_srgan.npz", precision="float32")(numbered(1)), [], []
    for quality in [["--quality", "30"], []][form == "tif":]:
        out = tmp_path / "-".join(["out", *quality])
        assert run(*arguments, *quality, "--output", out) == 0
        assert set(times(out)) == {f"0_gen.{form}", f"1_gen.{form}"} and set(check_page(out)[1]) == {"0", "1"}
        with Image.open(out / f"1_gen.{form}") as result:
            assert result.format == kind
            errors.append(np.abs(np.asarray(result).astype(int) - sr).mean())
        sizes.append((out / f"1_gen.{form}").stat().st_size)
        before = times(out)
        assert run(*arguments, *quality, "--output", out, "--skip-existing") == 0 and times(out) == before
    assert errors == [0] if form == "tif" else errors[1] < 0.9 * errors[0] and sizes[0] < 0.6 * sizes[1]


def test_a_format_or_a_quality_that_can_not_be_is_said_in_a_sentence(trained, tmp_path, capsys):
    write_photos(tmp_path / "in", 1)
    arguments = ["--weights", trained / "g_srgan.npz", "--input", tmp_path / "in" / "0.png"]
    for wrong, said in ((["--quality", "80"], "but the results are .png; add --format jpg, webp or avif."),
                        (["--format", "jpg", "--output", tmp_path / "a.png"], "does not end in .jpg, the --format"),
                        (["--part", "2/2"], "--part is 2/2, but there is no more than 1 photo; make fewer parts.")):
        assert run(*arguments, *wrong) == 2 and said in capsys.readouterr().err
    for wrong, said in ((["--quality", "0"], "0 is not a whole number from 1 to 100"),
                        (["--part", "3/2"], "3/2 is not a part of several, such as 2/4"),
                        (["--format", "gif"], "invalid choice: 'gif'")):
        with pytest.raises(SystemExit):
            run(*arguments, *wrong)
        assert said in capsys.readouterr().err


def test_all_frames_are_restored_to_the_same_kind_of_file(trained, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    frames = [numbered(20 * step) for step in range(3)]
    for name in ("a.gif", "b.webp", "c.png"):
        Image.fromarray(frames[0]).save(tmp_path / "in" / name, save_all=True, duration=[70, 200, 130], loop=0,
                                        append_images=list(map(Image.fromarray, frames[1:])), lossless=True)
    Image.fromarray(frames[0]).save(tmp_path / "in" / "d.png")
    arguments = ["--weights", trained / "g_srgan.npz", "--input", tmp_path / "in", *EXACTLY]
    assert run(*arguments, "--output", tmp_path / "first") == 0
    assert "c.png holds several frames; the first is taken (to restore all of them: --f" in capsys.readouterr().out
    assert run(*arguments, "--output", tmp_path / "out", "--frames") == 0
    said, before = capsys.readouterr().out, times(tmp_path / "out")
    assert "a_gen.gif 320x240, 3 frames\n" in said and "d_gen.png 320x240\n" in said and "first is taken" not in said
    assert set(before) == {"a_gen.gif", "b_gen.webp", "c_gen.png", "d_gen.png"}
    assert set(check_page(tmp_path / "out")[1]) == {"d"}
    restorer = restore.Restorer(trained / "g_srgan.npz", precision="float32")
    with Image.open(tmp_path / "out" / "c_gen.png") as result:
        for number, frame in enumerate(frames):
            result.seek(number)
            np.testing.assert_array_equal(np.asarray(result.convert("RGB")), restorer(frame))
    for name in before.keys() - {"d_gen.png"}:
        with Image.open(tmp_path / "out" / name) as result:
            for number, duration in enumerate((70, 200, 130)):
                result.seek(number)
                result.load()
                assert (result.info["duration"], result.size) == (duration, (320, 240))
    assert run(*arguments, "--output", tmp_path / "out", "--frames", "--skip-existing") == 0
    assert times(tmp_path / "out") == before
    single = ["--weights", trained / "g_srgan.npz", "--input", tmp_path / "in" / "a.gif", "--frames", "--output"]
    assert run(*single, tmp_path / "large.png") == 2
    assert "large.png (--output) does not end in .gif" in capsys.readouterr().err
    assert run(*single, tmp_path / "large.gif") == 0 and Image.open(tmp_path / "large.gif").n_frames == 3


# ------------------------------------------------------------------------------------------------- several processes


def test_parts_share_a_folder_and_its_page(trained, tmp_path, capsys):
    write_photos(tmp_path / "in", 5)
    arguments = ["--weights", trained / "g_srgan.npz", "--input", tmp_path / "in", "--output", tmp_path / "out"]
    for part in (1, 2):
        assert run(*arguments, "--part", f"{part}/2") == 0
        said = capsys.readouterr().out
        assert f"Part {part} of 2: {4 - part} of 5 photos.\n" in said and said.count(" -> ") == 4 - part
    assert set(check_page(tmp_path / "out")[1]) == {"0", "1", "2", "3", "4"}


def test_pages_that_are_written_at_once_hold_all_photos(tmp_path):
    def write(name):
        output = OutputFolder(tmp_path)
        lr = numbered(3)
        with output.replacing(target := tmp_path / f"{name}_gen.png"):
            images.write_image(target, nearest(lr))
        results.write_bicubic(output, tmp_path / name, lr, 240, 320)
        entry = results.page_entry(tmp_path, tmp_path / name, 240, 320)
        results.write_restored_page(output, [entry])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, "abcdef"))
    assert [image["name"] for image in page_of(tmp_path)["images"]] == list("abcdef")
    OutputFolder(tmp_path).check([tmp_path / "index.html"])
