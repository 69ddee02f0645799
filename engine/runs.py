"""The folder of a training run: its lock, its states, what earlier runs left there; and the signals that end a run."""
import atexit
import contextlib
import errno
import math
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import utils
from utils import UserError

import filelock
import tensorflow as tf
from easydict import EasyDict

from config import DIV2K_TRAIN_HR, flatten, is_div2k
from engine import devices
from files.outputs import OutputFolder
from files.shipped import read_settings

HANGUP = 1  # SIGHUP, which Windows does not have

# The files that a training run writes into its own folder and among its samples. All else there is the user's.
STATES = ("state-[0-9]*.index", "state-[0-9]*.data-*-of-*", "state-[0-9]*_temp")
FILES = (*STATES, "checkpoint", "config.json", "logs/events.out.tfevents.*",
         "g_srgan_init.npz", "g_srgan_init_best.npz", "g_srgan.npz", "g_srgan_best.npz",
         "d_srgan.npz")
SAMPLES = ("srgan_ginit/train_g_init_[0-9]*.png", "srgan_gan/train_g_[0-9]*.png")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder of a training run for this process; a killed process holds it no longer. Raises UserError."""
    lock, holder = filelock.FileLock(folder / "lock", blocking=False, fallback_to_soft=False), folder / "lock.txt"
    try:
        lock.acquire()
    except filelock.Timeout:
        other = "another training"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            other = f"the training of {holder.read_text(encoding='utf-8')}"
        raise UserError(f"{folder}/ is in use by {other}; stop that one first, or set TRAIN.checkpoint_path to another "
                        "folder.") from None
    except OSError as error:
        print(f"{folder}/ can't be locked, as its file system has no locks ({error.strerror}): make sure that no "
              "second training uses it.")
    try:
        with contextlib.suppress(OSError):  # the disk is full, which saving will say
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def holds_training(folder: Path) -> bool:
    """Whether a training run saved its state in a folder, readable or not."""
    return any(_found(folder, STATES)) or (folder / "checkpoint").is_file()  # TensorFlow's list of states


def check_files(folder: Path, sample_path: Path) -> None:
    """Raise UserError if a run would replace files of the user's: those of its names that no earlier run left."""
    OutputFolder(sample_path, "TRAIN.sample_path").check(_found(sample_path, SAMPLES))
    if holds_training(folder) or "TRAIN" in read_settings(folder):
        return
    names = (*FILES, "lock", "lock.txt")
    theirs = [path for path in _found(folder, names) if path.parent == folder and not _is_lock(path)]
    if theirs:
        raise UserError(f"{utils.listing(map(str, theirs), 3)} would be replaced, but {folder}/ holds no training that "
                        "wrote it; move it, or set TRAIN.checkpoint_path to another folder.")


def _is_lock(path):
    """Whether a file is what `locked` leaves."""
    return path.name in ("lock", "lock.txt") and path.is_file() and bool(re.match(rb"process \d|$", path.read_bytes()))


def _found(folder, patterns):
    return [path for pattern in patterns for path in folder.glob(pattern)]


def move_aside(folder: Path, sample_path: Path) -> None:
    """Move the files of the run in a folder, and its samples, into a new folder beside it. Raises UserError."""
    files = [path for path in _found(folder, FILES) if path.is_file() or path.name.endswith("_temp")]
    utils.move_aside(folder, "training", [*files, *_found(sample_path, SAMPLES)])


def remove_partial_states(folder: Path) -> None:
    """Delete partial files of an interrupted save; TensorFlow writes the index last."""
    for path in _found(folder, (*STATES, utils.PARTIALS)):
        if path.name.endswith("_temp"):
            shutil.rmtree(path)
        elif path.name.startswith("."):
            path.unlink()
        elif path.suffix != ".index" and not path.with_suffix(".index").exists():
            print(f"{path} has no index, as its save was interrupted or the index was lost; it is deleted.")
            path.unlink()


def tensorflow_path(folder: Path) -> Path:
    """A path to `folder` that TensorFlow can use, through a link if need be: it takes some characters for a pattern."""
    if not re.search(r"[*?[\\\udc80-\udcff]", folder.absolute().as_posix()):  # the last are no UTF-8
        return folder
    links = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, links, ignore_errors=True)
    link = Path(links, "folder")
    try:
        link.symlink_to(folder.absolute(), target_is_directory=True)
    except OSError as error:  # Windows asks for a privilege
        raise UserError(f"{folder}/ has a character in its path that TensorFlow can't use here; rename it.") from error
    return link


def read_last_run(folder: Path, command: dict, demo: bool) -> tuple[dict, bool, bool]:
    """The settings of the run whose state is in `folder`, whether it is resumed, and whether it is replaced.

    The settings are {} where they can't be read.

    command: the arguments of this run, which replaces the last one with --restart.
    demo: whether this run is the demonstration; any other run replaces one.
    Raises UserError if a command with --restart is repeated within an hour, as to resume what it started.
    """
    if not holds_training(folder):
        return {}, False, False
    last = read_settings(folder)
    minutes = (time.time() - (folder / "config.json").stat().st_mtime) / 60 if last else math.inf
    if command["restart"] and minutes < 60 and last.get("command") == command:
        raise UserError(f"This very command started the training in {folder}/ {minutes:.0f} minutes ago: leave out "
                        f"--restart to resume it, or move {folder}/ away yourself to start over once more.")
    replaced = command["restart"] or (last.get("demonstration", False) and not demo)
    return last, not replaced, replaced


def compare_settings(folder: Path, last: dict, config: EasyDict, demo: bool, given: str | None) -> None:
    """Say which settings changed since the run that is resumed, and whose weights it trains.

    folder: of the run.
    last: its settings, from `read_last_run`.
    config: the settings now.
    demo: whether the run is now the demonstration.
    given: --weights.
    Raises UserError for a setting that can't change.
    """
    before, now = flatten(last), flatten(config)
    before.setdefault("TRAIN.precision", "float16" if before.get("TRAIN.mixed_precision") else "float32")
    before.setdefault("TRAIN.scale", 4)
    before.setdefault("TRAIN.discriminator", "own")
    for key in ("TRAIN.architecture", "TRAIN.discriminator", "TRAIN.scale", "TRAIN.hr_patch_size"):
        if before.get(key, now[key]) != now[key]:
            raise UserError(f"The training in {folder}/ has {key}={before[key]}, now it is {now[key]}; set it back, or "
                            "start over with --restart.")
    photos = before.get("TRAIN.hr_img_path", DIV2K_TRAIN_HR)
    if demo and not is_div2k(photos):
        raise UserError(f"{folder}/ holds a training on {photos}; to resume it give the same --set as then "
                        f"(TRAIN.hr_img_path={photos} ...), or start over with --restart.")
    changed = [f"{key} {before[key]} -> {now[key]}" for key in now
               if key.startswith(("TRAIN.", "LOSS.")) and before.get(key, now[key]) != now[key]]
    if changed:
        print(f"Changed since the last run: {', '.join(changed)}.")
    origin = last.get("origin", {}).get("weights")
    if given and given != origin:
        print(f"--weights {given} is ignored: the run in {folder}/ is being resumed; --restart starts over from them.")
    elif origin:
        print(f"The run in {folder}/ continues the fine-tuning of {origin}.")


class States:
    """The states of a training on disk, of which the last two are kept. parts: what they hold, by name."""

    def __init__(self, folder: Path, parts: dict):
        self.folder, self.checkpoint = folder, tf.train.Checkpoint(**parts)
        self.manager = tf.train.CheckpointManager(
            self.checkpoint, tensorflow_path(folder), max_to_keep=2, checkpoint_name="state")

    def save(self) -> None:
        """Write the current state. Raises UserError where that fails; the one before it is then intact."""
        try:
            self.manager.save()
        except tf.errors.OpError as error:
            remove_partial_states(self.folder)
            raise UserError(f"The state can't be saved in {self.folder}/ ({error.message}); the one before it is "
                            "intact: free space, then run the same command again.") from error

    def restore(self) -> bool:
        """Restore the newest readable state. Returns True if one was restored; raises UserError if none can be read."""
        states = sorted(self.folder.glob("state-*.index"), key=utils.natural_key, reverse=True)
        if states or not holds_training(self.folder):
            remove_partial_states(self.folder)
        for state in states:
            try:
                self.checkpoint.restore(str(Path(self.manager.directory, state.stem))).assert_consumed()
                return True
            except Exception as error:  # TensorFlow raises what the damaged bytes happen to lead to
                print(f"{state.with_suffix('')} is damaged ({devices.first_line(error)}); trying the one before it.")
        if holds_training(self.folder):
            raise UserError(f"None of the states in {self.folder}/ can be read; start over with --restart, which moves "
                            "the folder aside.")
        return False


class Screen:
    """A stream to the screen that may close before the run ends, as when its terminal does.

    stream: stdout or stderr.
    on_close: called when it closes; from then on nothing is written.
    """

    def __init__(self, stream: TextIO, on_close: Callable[[], None]):
        self.stream, self.on_close = stream, on_close

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._try(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, action, *arguments):
        try:
            action(*arguments)
        except OSError as error:  # others, such as a full disk, cost a line of a log file
            if error.errno in (errno.EPIPE, errno.EIO):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
                self.on_close()


@contextlib.contextmanager
def outlive_screen() -> Iterator[list[int]]:
    """Let a run go on to its end when the screen closes, or whoever reads what it prints, such as `head`.

    Yields a list that gets HANGUP then.
    """
    stopped_by, screen = [], (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = (stream and Screen(stream, lambda: stopped_by.append(HANGUP)) for stream in screen)
    try:
        yield stopped_by
    finally:
        sys.stdout, sys.stderr = screen


@contextlib.contextmanager
def catch_signals(stopped_by: list[int]) -> Iterator[None]:
    """Append to a list the signals that ask a run to end: Ctrl-C, SIGTERM, a closed terminal.

    A second Ctrl-C or SIGTERM ends it at once. A terminal that closes sends SIGHUP more than once.
    They are watched in a thread: Python calls a handler only when TensorFlow has returned, and only once for several
    signals.
    """
    handlers = {}

    def watch():
        for number, in iter(lambda: receiver.recv(1), b""):
            if number not in handlers:
                continue
            if number != HANGUP and set(stopped_by) - {HANGUP}:
                os._exit(128 + number)
            stopped_by.append(number)
            if len(stopped_by) == 1:
                print("Stopping after this step; press Ctrl-C again to quit at once without saving.")

    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    wakeup = None
    if threading.current_thread() is threading.main_thread():  # a notebook may run it in another, without signals
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP; nohup lets a run outlive its terminal
            if number and signal.getsignal(number) != signal.SIG_IGN:
                handlers[number] = signal.signal(number, lambda *_: None)
        wakeup = signal.set_wakeup_fd(sender.fileno())
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        if wakeup is not None:
            signal.set_wakeup_fd(wakeup)
        sender.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)
