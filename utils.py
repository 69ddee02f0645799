"""Errors, atomic files, progress and a quiet screen. Imports no TensorFlow."""
import contextlib
import os
import re
import secrets
import shutil
import sys
import tempfile
import threading
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

SCALE = 4  # the article's upscaling factor, everywhere


class UserError(Exception):
    """What a user can mend; the message is one sentence that names the file or setting, what is wrong and what to do."""


@contextlib.contextmanager
def atomic_write(path):
    """Write a file whole or not at all: yields a temporary path beside `path`, which takes its place at the end.

    Raises UserError where the folder can't be written or the disk is full; what was at `path` before is then intact.
    """
    path = Path(path)
    # 255 bytes a name, 4 a character; no process id, which two machines on a shared folder may have in common.
    partial = path.with_name(f".{path.stem[:50]}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}; free space or name another folder.") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def move_aside(folder, what):
    """Move all that is in a folder, but for a lock, into a new one beside it, and say so; raises UserError."""
    aside = folder.with_name(f"{folder.name}_{datetime.now():%Y%m%d_%H%M%S}")
    try:
        aside.mkdir()
        for path in list(folder.iterdir()):
            if path.name != "lock":
                shutil.move(path, aside)  # a rename fails where a folder is mounted
    except OSError as error:
        raise UserError(f"{folder}/ can't be moved aside to {aside}/: {error.strerror or error}; move it yourself.") from error
    print(f"The {what} that was in {folder}/ is now in {aside}/.")


def _on_screen():
    return sys.stderr is not None and sys.stderr.isatty()


class progress(tqdm):
    """A progress bar with the time left, on stderr; where stderr is a file, a line every 30 seconds.

    with progress("Image", 100) as bar: bar.update(done, psnr=28.4)

    label: what is counted; total: how many there are; start: how many are already done; counter: show these numbers;
    delay: seconds before the bar appears.
    """

    visible = True  # False on processes that are not the chief

    def __init__(self, label, total, start=0, unit_scale=False, counter=True, delay=0):
        count, bar = " {n_fmt}/{total_fmt}" * counter, " |{bar}| " if _on_screen() else ", "
        super().__init__(
            desc=label, total=total, initial=start, file=sys.stderr, disable=not self.visible, unit_scale=unit_scale,
            ncols=80 if _on_screen() else None, mininterval=0.1 if _on_screen() else 30, miniters=0,
            delay=delay if _on_screen() else 30, bar_format="{desc}" + count + bar + "{remaining} left{postfix}")

    def update(self, done, **values):
        """Show that `done` of `total` are done, and the newest values, such as losses."""
        self.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
        super().update(done - self.n)

    def display(self, msg=None, pos=None):
        if self.delay and self._time() - self.start_t < self.delay:
            return
        if _on_screen():
            super().display(msg, pos)
        else:
            print(self, file=self.fp, flush=True)


def print_line(line, file=None):
    """Print a line, on stdout unless told otherwise, without breaking a progress bar that is on the screen."""
    (tqdm.write if _on_screen() else print)(line, file=file or sys.stdout)


def natural_key(path):
    """Sort key that puts `im2.jpg` before `im10.jpg`."""
    name = Path(path).name
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)], name


def listing(items, most=6):
    """The first items of a list for a message: "a, b, c and 4 more"."""
    items = list(items)
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def plural(n, noun):
    """A number with its noun: "1 image", "1,241 images"."""
    return f"{n:,} {noun}" + ("s" if n != 1 else "")


_stderr_lock = threading.RLock()


@contextlib.contextmanager
def redirect_stderr(file):
    """Send what is written to file descriptor 2, by any thread or library, to a file."""
    with _stderr_lock:
        sys.stderr.flush()
        screen = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)


@contextlib.contextmanager
def quiet():
    """Keep the start-up notes of TensorFlow's libraries off stderr; anything else that was written there follows."""
    # Of several processes that end together TensorFlow says the same thing many times over.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if {"TF_CONFIG", "SLURM_STEP_NUM_TASKS"} & set(os.environ) else "2")
    noise = re.compile(rb"[IW]\d{4} |\d{4}-\d\d-\d\d .*: [IW] |WARNING: All log messages|To enable the following"
                       rb"|.*cuInit.*303|\s*StreamExecutor")
    with tempfile.TemporaryFile() as kept:
        try:
            with redirect_stderr(kept):
                yield
        finally:
            kept.seek(0)
            for line in kept:
                if line.strip() and not noise.match(line):
                    os.write(2, line)
