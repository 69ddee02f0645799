"""Folders of photos: what is there already is left alone, and several processes share the work."""
import os
import subprocess
import sys
import time

import conftest
import numpy as np
import pytest
from PIL import Image
from restoring import check_page, photo, run

import restore
from files import images

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
    n, out = 30, tmp_path / "out"
    write_photos(tmp_path / "in", n)
    arguments = ["--weights", trained / "g_srgan.npz", "--output", out, "--input", tmp_path / "in"]
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
    restorer = restore.Restorer(trained / "g_srgan.npz")
    for number in range(n):
        np.testing.assert_array_equal(images.read_image(out / f"{number}_gen.png"), restorer(numbered(number)))
    assert set(check_page(out)[1]) == set(map(str, range(n)))


def test_only_results_of_the_same_photo_and_settings_are_left_alone(trained, tmp_path):
    out = tmp_path / "out"
    write_photos(tmp_path / "in", 4)
    arguments = ["--weights", trained / "g_srgan.npz", "--output", out, "--input", tmp_path / "in", "--skip-existing"]

    def redone(*more):
        before = times(out)
        assert run(*arguments, *more) == 0 and set(check_page(out)[1]) == {"0", "1", "2", "3"}
        return {name[0] for name, when in times(out).items() if before.get(name) != when}

    assert redone() == {"0", "1", "2", "3"} and redone() == set()
    Image.fromarray(numbered(9)[:, :70]).save(tmp_path / "in" / "1.png")
    now = time.time() + 2
    os.utime(tmp_path / "in" / "2.png", (now, now))
    (out / "3_bicubic.jpg").unlink()
    assert redone() == {"1", "2", "3"}
    os.utime(tmp_path / "in" / "2.png", (1, 1))
    assert redone("--set", "RESTORE.back_project=false") == {"0", "1", "2", "3"}
    assert redone("--weights", trained / "g_srgan_init.npz") == {"0", "1", "2", "3"}
