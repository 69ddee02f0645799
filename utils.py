"""Errors, paths, atomic files, progress and a quiet screen. Imports no TensorFlow, for a quick `--help`."""
import contextlib
import difflib
import errno
import functools
import hashlib
import io
import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

from tqdm import tqdm
from tqdm.std import Bar
from tqdm.utils import disp_len, disp_trim

# TensorFlow and Keras read these when they are imported, which is why `utils` is imported before them everywhere.
os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user's keras.json says
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # left off on CPUs with AVX2 alone, see docs/speed.md
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what goes wrong is raised as an exception anyway
logging.getLogger("tensorflow").addFilter(lambda record: record.levelno >= logging.ERROR)  # no advice on retracing


class UserError(Exception):
    """An error that the user can fix. The message is a sentence: which file or setting, what is wrong, what to do."""


def local_path(path: str, setting: str) -> str:
    """Expand `~` in a path that `setting` names; raises UserError for a URL, as files are only read from disks."""
    if re.match(r"[A-Za-z][\w+.-]+:/", path):  # two letters or more: C:/ is a drive
        raise UserError(f"{setting} is {path}, a URL; name a local path, and copy or mount the URL's contents there.")
    if "\0" in path:
        raise UserError(f"{setting} is {path!r}, which holds a null character; name another path.")
    return os.path.expanduser(path)


def cannot_write(what: object, error: OSError, folder: str = "name another folder") -> UserError:
    """The error on something that can't be written, with what helps for that reason."""
    fixes = {errno.ENOSPC: "free space or ", errno.EDQUOT: "free space or ", errno.EACCES: "change its permissions or ",
             errno.EPERM: "change its permissions or ", errno.EROFS: "mount it for writing or "}
    return UserError(f"{what} can't be written: {error.strerror or error}; {fixes.get(error.errno, '')}{folder}.")


PARTIALS = f".*.{'[0-9a-f]' * 8}.partial*"  # names of `atomic_write`'s temporary files


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path beside `path`, which replaces `path` at the end.

    Raises UserError if the folder can't be written or the disk is full; what was at `path` before is then intact.
    """
    path = Path(path)
    # A name has 255 bytes, a character up to 4. Not the process id: two machines may share the folder and the number.
    partial = path.with_name(f".{path.stem[:50]}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def check_writable(folder: Path, setting: str) -> None:
    """Create a folder and a file in it; raises UserError, naming the setting, where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b" ")
    except OSError as error:
        raise cannot_write(f"{folder}/ ({setting})", error) from error


def move_aside(folder: Path, what: str, files: Iterable[Path]) -> None:
    """Move files, most of them in `folder`, into a new folder beside it; raises UserError.

    Say where they are now, how large they are, and that they may be deleted. What else lies in `folder` stays.
    """
    place = folder if folder.name.strip(".") else Path(os.path.abspath(folder))
    aside = place.with_name(f"{place.name}_{datetime.now():%Y%m%d_%H%M%S}")
    size, parents = 0, set()
    try:
        aside.mkdir()
        for path in files:
            inside = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.parent.name, path.name)
            (aside / inside).parent.mkdir(parents=True, exist_ok=True)
            size += path.stat().st_size
            shutil.move(path, aside / inside)  # a rename fails where a folder is mounted
            parents.add(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder}/ can't be moved aside to {aside}/: {reason}; move it yourself.") from error
    for parent in parents - {folder}:
        with contextlib.suppress(OSError):  # something of the user's is left
            parent.rmdir()
    print(f"The {what} that was in {folder}/ is now in {aside}/ ({size / 1e6:,.0f} MB); delete it if you no longer "
          "need it.")


class progress(tqdm):
    """A progress bar on stderr: label, n/total, bar, time left and the newest values, in 79 columns at most.

    with progress("Image", 100) as bar: bar.update(done, psnr=28.4)

    label: what is counted; total: how many; start: how many are already done; unit_scale: 1.2G instead of 1234567890;
    counter: show n/total; delay: seconds before the bar appears.
    Lines printed meanwhile appear above the bar. If stderr is a log file, it gets a line every 30 seconds instead.
    """

    visible = True  # False on processes that are not the chief
    monitor_interval = 0  # no thread that refreshes a stuck bar

    def __init__(self, label: str, total: int, start: int = 0, unit_scale: bool = False, counter: bool = True,
                 delay: float = 0):
        self.values, self.counter = {}, counter
        shown = self.visible and sys.stderr is not None and not isinstance(sys.stderr, AboveBar)  # no bar in a bar
        self.on_screen = shown and sys.stderr.isatty()
        super().__init__(
            desc=label, total=total, initial=start, unit_scale=unit_scale, disable=not shown, leave=False, miniters=0,
            file=sys.stderr if self.on_screen else Log(sys.stderr),
            ncols=min(79, shutil.get_terminal_size().columns - 1),
            mininterval=0.1 if self.on_screen else 30, delay=delay if self.on_screen else 30)

    def __enter__(self):
        if self.on_screen:
            self.streams = sys.stdout, sys.stderr
            sys.stdout, sys.stderr = sys.stdout and AboveBar(sys.stdout), AboveBar(sys.stderr)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        if self.on_screen:
            above, (sys.stdout, sys.stderr) = (sys.stdout, sys.stderr), self.streams
            for stream in filter(None, above):
                stream._wrapped.write(stream.line)

    def update(self, done: int, **values: float) -> None:
        """Show that `done` of `total` are done, and the newest values, such as losses."""
        self.values = values
        super().update(done - self.n)

    def __str__(self):
        state = self.format_dict
        counts = "/".join(self.format_sizeof(n) if self.unit_scale else str(n) for n in (self.n, self.total))
        head = f"{self.desc} {counts} " if self.counter else f"{self.desc} "
        rate = state["rate"] or (self.n - self.initial) / (state["elapsed"] or 1)
        eta = f" ETA {time_left((self.total - self.n) / rate)}" if rate else ""
        for digits in (3, 2):
            tail = eta + "".join(f" {name} {value:.{digits}g}" for name, value in self.values.items())
            width = self.ncols - disp_len(head) - disp_len(tail) - 2
            if width >= 5:
                break
        if width < 3:
            return disp_trim(head.rstrip() + tail, self.ncols)
        bar = Bar(min(1, self.n / (self.total or 1)), width, " #" if self.ascii else Bar.UTF)
        return f"{head}|{bar}|{tail}"


class AboveBar:
    """A stream of the terminal whose lines appear above the progress bar. (tqdm.contrib has one; it clears no bar.)"""

    __hash__ = object.__hash__

    def __init__(self, stream):
        self._wrapped, self.line = stream, ""

    def __getattr__(self, name):
        return getattr(self._wrapped, name)

    def __eq__(self, other):  # tqdm compares streams to see whether its bar is in the way
        return self._wrapped == getattr(other, "_wrapped", other)

    def write(self, text):
        *lines, self.line = f"{self.line}{text}".split("\n")
        for line in lines:
            tqdm.write(line, file=self._wrapped)


class Log(io.TextIOBase):
    """A file that gets a progress bar as plain lines, without what moves a cursor."""

    def __init__(self, file):
        self.file = file

    def write(self, text):
        if text.strip():
            self.file.write(f"{text.strip()}\n")
            self.file.flush()


def time_left(seconds: float) -> str:
    """`0:02:05`, or `9 days`."""
    days, rest = divmod(round(seconds), 86400)
    return f"{days} days" if days > 1 else f"{rest // 3600 + 24 * days}:{rest // 60 % 60:02}:{rest % 60:02}"


def digest(path: str | Path, algorithm: str = "sha256") -> str:
    """The digest of a file, in hexadecimal digits. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def natural_key(path: str | Path) -> tuple:
    """Sort key that puts `im2.jpg` before `im10.jpg`."""
    path = Path(path)
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", path.stem)], path.name


def shorten(name: str, most: int) -> str:
    """A file's name in at most `most` bytes, as file systems count; one that is cut ends in a hash of the whole."""
    encoded = os.fsencode(name)
    if len(encoded) <= most:
        return name
    return f"{encoded[:most - 9].decode(errors='ignore')}_{hashlib.sha256(encoded).hexdigest()[:8]}"


def nearest(name: str, names: Iterable[str]) -> str:
    """The most similar of several names, for a message on one that does not exist."""
    return difflib.get_close_matches(name, list(names), n=1, cutoff=0)[0]


def listing(items: Iterable, most: int = 6) -> str:
    """The first items of a list for a message: "a, b, c and 4 more"."""
    items = list(items)
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def plural(n: int, noun: str) -> str:
    """A number with its noun: "1 image", "1,241 images"."""
    return f"{n:,} {noun}" + ("s" if n != 1 else "")


def prepare_streams() -> None:
    """Make stdout and stderr usable: closed, on a screen that lacks characters, or in a log file that is followed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened, such as weights, would get what libraries print
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open to the end)
    sys.stderr = sys.stderr or sys.stdout
    with contextlib.suppress(AttributeError):  # Jupyter's has no such method
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)


@functools.cache
def say_once(line: str) -> None:
    """Print a line, once in a run."""
    print(line)


_stderr_lock = threading.RLock()


@contextlib.contextmanager
def redirect_stderr(file: IO) -> Iterator[None]:
    """Send what is written to file descriptor 2, by any thread or library, to a file."""
    with _stderr_lock:
        try:
            screen = os.dup(2)
        except OSError:  # stderr is closed
            yield
            return
        _flush_stderr()
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            _flush_stderr()
            os.dup2(screen, 2)
            os.close(screen)


def print_error(line: object) -> None:
    """Print a line on stderr, even while another thread keeps what libraries write off the screen."""
    with _stderr_lock:
        print(line, file=sys.stderr)


def _flush_stderr():
    if sys.stderr is not None:
        sys.stderr.flush()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the start-up notes of TensorFlow's libraries off stderr; anything else that was written there follows.

    They are shown if the user sets TF_CPP_MIN_LOG_LEVEL=0, to see why a GPU is not found.
    """
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] in ("0", "1"):
        yield
        return
    notes = re.compile(rb"[IWE]\d{4} |\d{4}-\d\d-\d\d .*: [IWE] |WARNING: All log messages|To enable the following"
                       rb"|\s*StreamExecutor")
    with tempfile.TemporaryFile() as kept:
        try:
            with redirect_stderr(kept):
                yield
        finally:
            kept.seek(0)
            for line in kept:
                if line.strip() and not notes.match(line):
                    os.write(2, line)
