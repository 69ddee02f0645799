"""Output folders: only files that this program wrote, and nobody changed since, are replaced."""
import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import utils
from utils import UserError

import filelock

from files import metadata

LIST = ".srgan-files"
HEADER = "# What SRGAN wrote here: name, size, time, SHA-256. It replaces these files, while they are so, no others."


class OutputFolder:
    """A folder that results are written to. The files in it are the user's but for those that its LIST names.

    A picture that is not listed, as it comes from another folder, is known by its mark.
    setting: what names the folder, for messages.
    is_listed: False for a folder of the user's that gets a single picture, which its mark is enough for.
    """

    def __init__(self, folder: Path, setting: str = "--output", is_listed: bool = True):
        self.folder, self.setting, self.is_listed, self.lock = folder, setting, is_listed, threading.Lock()
        self.known, self.parents = {}, {}
        self._read()

    def check(self, paths: Iterable[Path]) -> None:
        """Raise UserError if one of the files to be written is the user's, or if its folder can't be written."""
        paths = list(dict.fromkeys(paths))
        self._refuse_theirs(paths)
        self.parents |= dict.fromkeys(path.parent for path in paths)
        for folder in self.parents:
            utils.check_writable(folder, self.setting)

    def clear_partials(self) -> None:
        """Delete what a killed run left half-written in the folders that were checked."""
        for partial in [path for folder in self.parents for path in folder.glob(utils.PARTIALS)]:
            with contextlib.suppress(OSError):
                partial.unlink()

    @contextlib.contextmanager
    def replacing(self, *paths: Path) -> Iterator[None]:
        """Within this, files are written, or folders of files. Raises UserError if one is the user's."""
        self._refuse_theirs(paths)
        try:
            yield
        finally:
            if self.is_listed:
                self._list(paths)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Within this, other processes that write to this folder, too, wait, and what they wrote is known."""
        lock = filelock.FileLock(self.folder / f"{LIST}.lock", timeout=60, fallback_to_soft=False)
        with contextlib.suppress(OSError):  # a file system without locks
            lock.acquire()
        try:
            self._read()
            yield
        finally:
            lock.release()

    def _read(self):
        with contextlib.suppress(OSError):
            head, *lines = (self.folder / LIST).read_text(encoding="utf-8", errors="replace").split("\n")
            self.is_listed = self.is_listed and head in (HEADER, "")
            for line in lines:
                with contextlib.suppress(ValueError):  # the last one may be cut short
                    name, *facts = json.loads(line)
                    self.known[name] = facts

    def _list(self, paths):
        files = [file for path in paths for file in (path, *path.rglob("*")) if file.is_file()]
        with self.lock:
            self.known |= {self._name(file): [*_size_and_time(file), utils.digest(file)] for file in files}
            try:
                with open(self.folder / LIST, "a", encoding="utf-8") as lines:
                    lines.write("" if lines.tell() else HEADER + "\n")
                    lines.writelines(json.dumps([name, *self.known[name]]) + "\n" for name in map(self._name, files))
            except OSError as error:
                raise utils.cannot_write(self.folder / LIST, error) from error

    def _refuse_theirs(self, paths):
        theirs = [str(path) for path in paths if not self.is_ours(path)]
        if theirs:
            raise UserError(f"{utils.listing(theirs, 3)} would be replaced, but this program did not write it, "
                            f"or it was changed since; name another place with {self.setting}, or move it.")

    def is_ours(self, path: Path) -> bool:
        """Whether a file may be written here, as none is there or one that this program wrote."""
        if not os.path.lexists(path):
            return True
        if path.is_symlink():
            return False
        if path.is_dir():
            return all(self.is_ours(inside) for inside in path.iterdir())
        facts = self.known.get(self._name(path))
        if facts is None:
            return metadata.has_mark(path)
        return facts[:2] == _size_and_time(path) or facts[2] == utils.digest(path)

    def _name(self, path):
        return path.relative_to(self.folder).as_posix()


def _size_and_time(path):
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
