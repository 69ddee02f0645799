"""Progress on screens and in log files, files that are whole or absent, a quiet stderr."""
import errno
import io
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import utils

import pytest
from conftest import ROOT

PRINTS = """
import sys, time, utils
with utils.progress("Phase 1, step", 40) as bar:
    for done in range(1, 41):
        time.sleep(0.01)
        bar.update(done, mse=0.0123)
        if done % 10 == 0:
            print("line", done)
        if done == 25:
            print("a complaint", file=sys.stderr)
    print("the ", end="")
print("end")
"""


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def screen(text):
    """What a terminal shows, as lines."""
    lines, column = [""], 0
    for character in text:
        if character == "\n":
            lines.append("")
            column = 0
        elif character == "\r":
            column = 0
        else:
            lines[-1] = lines[-1].ljust(column)[:column] + character + lines[-1][column + 1:]
            column += 1
    return [line.rstrip() for line in lines]


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand, and a screen of 80 columns."""
    clock = {"now": 1000.0}
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("tqdm.std.time", lambda: clock["now"])
    return clock


def train(clock, stream, n_steps, seconds, monkeypatch, **losses):
    monkeypatch.setattr(sys, "stderr", stream)
    with utils.progress("Phase 2, step", 100_000) as bar:
        for step in range(1, n_steps + 1):
            clock["now"] += seconds
            bar.update(step, **losses)
    return stream.getvalue()


def test_a_bar_with_four_losses_and_days_to_go_fits_80_columns(clock, monkeypatch):
    losses = {"mse": 0.00123456, "vgg": 0.0456789, "adv": 0.693147, "d": 1.386294}
    shown = train(clock, Terminal(), 9, 8.0, monkeypatch, **losses)
    bars = [part for part in shown.split("\r") if "ETA" in part]
    assert len(bars) == 9 and all(len(bar) < 80 for bar in bars)
    assert "9/100000" in bars[-1] and "ETA 9 days mse 0.0012 vgg 0.046 adv 0.69 d 1.4" in bars[-1]
    shown = train(clock, Terminal(), 9, 8.0, monkeypatch, mse=1.2345e-5, vgg=1.2345e-5, adv=1.2345e-5, d=1.2345e-5)
    assert all(len(part) < 80 for part in shown.split("\r"))


def test_a_narrow_terminal_is_not_overrun(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    shown = train(clock, Terminal(), 9, 8.0, monkeypatch, mse=0.00123456, vgg=0.0456789)
    assert "9/100000" in shown and all(len(part) < 40 for part in shown.split("\r"))


def test_a_log_file_gets_a_plain_line_every_30_seconds(clock, monkeypatch):
    lines = train(clock, io.StringIO(), 10, 10.0, monkeypatch, mse=0.0123).splitlines()
    assert [line.split(" |")[0] for line in lines] == [f"Phase 2, step {step}/100000" for step in (3, 6, 9)]
    assert all(line.isascii() and line.endswith("mse 0.0123") for line in lines) and "\r" not in "".join(lines)


def test_a_short_task_leaves_a_log_file_alone(clock, monkeypatch):
    assert train(clock, io.StringIO(), 10, 1.0, monkeypatch) == ""


def test_processes_that_are_not_the_chief_show_nothing(clock, monkeypatch):
    monkeypatch.setattr(utils.progress, "visible", False)
    assert train(clock, Terminal(), 10, 10.0, monkeypatch) == ""


def test_progress_works_without_stderr(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with utils.progress("Image", 2) as bar:
        bar.update(1)


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal of Unix")
def test_lines_that_are_printed_on_a_terminal_stay_whole(monkeypatch):
    import fcntl
    import struct
    import termios
    reader, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    monkeypatch.setenv("COLUMNS", "80")
    process = subprocess.Popen([sys.executable, "-c", PRINTS], cwd=ROOT, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(reader, 4096)
        except OSError:  # Linux says so that the other side is closed
            break
        if not part:
            break
        shown += part
    assert process.wait() == 0
    shown = shown.decode()
    assert "█" in shown and all(len(line) < 80 for line in re.split(r"[\r\n]+", shown))
    assert screen(shown) == ["line 10", "line 20", "a complaint", "line 30", "line 40", "the end", ""]


def test_a_bar_within_a_bar_is_not_shown(clock, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with utils.progress("Image", 2) as outer:
        with utils.progress("Pixel", 100) as inner:
            clock["now"] += 1
            inner.update(50)
        print("a line", file=sys.stderr)
        outer.update(1)
    assert "Pixel" not in screen.getvalue() and sys.stderr is screen
    lines = re.split(r"[\r\n]+", screen.getvalue())
    assert [line for line in lines if line.strip() and "Image" not in line] == ["a line"]


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "weights.npz"
    with utils.atomic_write(path) as partial:
        partial.write_text("old")
        assert not path.exists()
    with pytest.raises(KeyError), utils.atomic_write(path) as partial:
        partial.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    with pytest.raises(utils.UserError, match=r"weights\.npz can't be written: No space"), utils.atomic_write(path):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("number, fix", [
    (errno.ENOSPC, "; free space or name another folder."), (errno.EACCES, "; change its permissions or name another"),
    (errno.EROFS, "; mount it for writing or name"), (errno.ENAMETOOLONG, "name too long; name another folder."),
])
def test_advice_fits_the_reason(tmp_path, number, fix):
    with pytest.raises(utils.UserError) as caught, utils.atomic_write(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    assert fix in str(caught.value)


@pytest.mark.parametrize("where", ["checkpoint", ".", "../here"])
def test_files_are_moved_aside_and_no_others(tmp_path, monkeypatch, capsys, where):
    (tmp_path / "here" / "checkpoint").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    folder = Path(where)
    names = ("lock", "g_srgan.npz", "logs/events", "logs/notes", "samples/1.png")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    utils.move_aside(folder, "training", [folder / name for name in names if name not in ("lock", "logs/notes")])
    aside, = (tmp_path / "here" if where == "checkpoint" else tmp_path).glob("*_2*")
    assert {path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file()} == {
        "g_srgan.npz", "logs/events", "samples/1.png"}
    assert (folder / "lock").exists() and (folder / "logs/notes").exists() and not (folder / "samples").exists()
    assert aside.name in capsys.readouterr().out


def test_numbers_in_names_are_sorted_as_numbers():
    assert sorted(["im10.png", "im2.png", "IM1.png"], key=utils.natural_key) == ["IM1.png", "im2.png", "im10.png"]


def test_notes_of_tensorflow_are_shown_on_request(capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with utils.quiet():
        os.write(2, b"W0000 00:00:1 gpu.cc:1] Cannot dlopen some GPU libraries.\n")
    assert "Cannot dlopen" in capfd.readouterr().err


def test_notes_of_tensorflow_are_dropped_and_complaints_are_not(capfd):
    with utils.quiet():
        os.write(2, b"2026-01-01 00:00:00.000000: I tensorflow/core/util/port.cc:153] oneDNN operations are on.\n"
                    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
                    b"E0000 00:00:1 cuda.cc:1] failed call to cuInit: (303)\nSegmentation fault\n")
        print("from Python", file=sys.stderr)
    assert sorted(capfd.readouterr().err.splitlines()) == ["Segmentation fault", "from Python"]


@pytest.mark.parametrize("path", ["gs://bucket/run", "https://a.org/b.jpg", "file:///tmp/a", "s3:/bucket"])
def test_urls_are_no_paths(path):
    with pytest.raises(utils.UserError, match=r"--input is .* a URL"):
        utils.local_path(path, "--input")


def test_tilde_is_the_home_folder_and_a_drive_is_no_url(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert utils.local_path("~/photos/", "--input") == f"{tmp_path}/photos/"
    for path in ("C:/photos", "a~b", "", "2:1/x"):
        assert utils.local_path(path, "--input") == path


def test_an_error_is_not_lost_while_another_thread_keeps_libraries_off_the_screen(capfd):
    begun = threading.Event()

    def read():
        with open(os.devnull, "wb") as nowhere, utils.redirect_stderr(nowhere):
            begun.set()
            time.sleep(0.2)

    thread = threading.Thread(target=read)
    thread.start()
    begun.wait()
    utils.print_error("a.png can't be read.")
    thread.join()
    assert capfd.readouterr().err == "a.png can't be read.\n"
