"""Files of photos: which of a folder's are, and names for their results. Imports no TensorFlow."""
import collections
import itertools
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import utils
from utils import UserError

from config import is_div2k
from files import metadata, tiff

IMAGE_SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".webp", ".bmp", ".dib", ".tif", ".tiff",
    ".gif", ".avif", ".heic", ".heif", ".hif")
OTHER_SUFFIXES = (
    ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".jxr", ".wdp", ".psd", ".psb", ".xcf", ".kra", ".ora",
    ".ai", ".eps", ".svg", ".svgz", ".exr", ".hdr", ".pfm", ".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".tga", ".pcx",
    ".ico", ".icns", ".cur", ".dds", ".qoi", ".bpg", ".flif", ".jng", ".mng", ".fits", ".dcm", ".sgi", ".ras",
    ".xpm", ".xbm")
FORMAT_NAMES = "PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF and HEIC"

# Folders of thumbnails and of deleted files, as NAS, desktops and Lightroom call them; hidden ones are skipped anyway.
SYSTEM_FOLDERS = re.compile(
    r"@(eadir|recycle|recently-snapshot|sharesnap|synoresource|tmp)|#(recycle|snapshot)|\$recycle\.bin|recycle[rd]"
    r"|system volume information|lost\+found|found\.\d{3}|__macosx|network trash folder|temporary items|.*\.lrdata",
    re.IGNORECASE)


def list_images(folder: str | Path, recursive: bool = True) -> list[Path]:
    """Paths with an image suffix in a folder and its subfolders, naturally sorted.

    Hidden ones are skipped, and folders of systems such as `@eaDir`, in which a NAS keeps thumbnails.
    Broken links are kept, so that `read_image` can report them.
    """
    return [path for path in _list_files(folder, recursive) if path.suffix.lower() in IMAGE_SUFFIXES]


def find_photos(folder: str | Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Files of a folder and its subfolders: photos, results of this program, and photos of kinds that are not read."""
    photos, results, unread = [], [], []
    for path in _list_files(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            (results if metadata.has_mark(path) else photos).append(path)
        elif tiff.is_raw(path) or path.suffix.lower() in OTHER_SUFFIXES:
            unread.append(path)
    return photos, results, unread


def _list_files(folder, recursive=True):
    folder, root, found, seen = Path(folder), os.path.realpath(folder), [], set()

    def skip(error):
        if Path(error.filename) == folder:
            raise error
        print(f"Left out: the folder {error.filename} can't be read ({error.strerror}).", file=sys.stderr)

    for parent, subfolders, names in os.walk(folder, followlinks=True, onerror=skip):
        here = os.path.realpath(parent)
        # A link may lead back to a folder that was seen, or up to all that lies around this one.
        if here in seen or (here != root and Path(root).is_relative_to(here)):
            subfolders.clear()
            continue
        seen.add(here)
        subfolders[:] = sorted(name for name in subfolders
                               if recursive and not name.startswith(".") and not SYSTEM_FOLDERS.fullmatch(name))
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: [utils.natural_key(part) for part in path.relative_to(folder).parts])


def output_names(paths: Iterable[Path], *folders: str | Path, ending: str = "_blend_0.123456.webp") -> list[str]:
    """Names for the results of images, all different: the stem, shortened where `ending` does not fit behind it.

    Files below one of `folders` keep the way to them: `sub/photo` for `folder/sub/photo.jpg`. Of several with one name
    each gets its folders in front as far as they differ, `a_photo` and `b_photo`, or the suffix behind, `photo_jpg`.
    """
    paths, groups = [Path(path) for path in paths], collections.defaultdict(list)
    for path in paths:
        folder = next((folder for folder in folders if path.is_relative_to(folder)), path.parent)
        name = path.relative_to(folder).with_suffix("").as_posix()
        upwards = Path(os.path.abspath(folder)).parts[:0:-1]
        groups[name.lower()].append((path, name, upwards))  # on Windows and macOS A.png is a.png
    names, taken = {}, set()
    for group in sorted(groups.values(), key=len):  # first those that need nothing to tell them apart
        several = [upwards for *_, upwards in group]
        for path, name, upwards in group:
            others = set(several) - {upwards}
            depth = next(n for n in itertools.count() if all(upwards[:n] != other[:n] for other in others))
            way, slash, name = "_".join([*upwards[:depth][::-1], name]).rpartition("/")
            if several.count(upwards) > 1:
                name += path.suffix.replace(".", "_")
            name = way + slash + utils.shorten(name, 255 - len(os.fsencode(ending)))
            while name.lower() in taken:
                name += "_"
            taken.add(name.lower())
            names[path] = name
    return [names[path] for path in paths]


def is_image_name(path: Path) -> bool:
    """Whether a name ends as that of an image does, of any kind."""
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *OTHER_SUFFIXES, *tiff.RAW_SUFFIXES)


def check_suffix(path: str | Path, frames: bool = False) -> None:
    """Raise UserError if a name does not end as those of the images that are written, or of moving ones."""
    if Path(path).suffix.lower() not in (*metadata.OUTPUT_SUFFIXES, *([".gif"] if frames else [])):
        *kinds, last = metadata.OUTPUT_SUFFIXES
        raise UserError(f"{path} can't be written as that kind of file; name a {', '.join(kinds)} or {last}.")


def find_images(folder: str | Path, setting: str, results_too: bool = False) -> list[Path]:
    """Image files of the folder that a setting names, and of its subfolders; prints what else is there.

    results_too: whether pictures that this program wrote count. Raises UserError if it does not exist or holds none.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{setting} is {folder}, which is not a folder; set it to a folder of photos.")
    try:
        photos, results, unread = find_photos(folder)
    except OSError as error:
        raise UserError(f"{folder} ({setting}) can't be read: {error.strerror}; set it to another folder.") from error
    if results_too:
        photos, results = list_images(folder), []
    raw = [path for path in unread if tiff.is_raw(path)]
    others = [path for path in unread if path not in raw]
    left_out = [f"{utils.plural(len(files), noun)} ({utils.listing([path.name for path in files], 3)}){advice}"
                for files, noun, advice in ((results, "result", " of this program"),
                                            (raw, "raw photo", ", to be developed first"),
                                            (others, "photo", " of a kind that is not read")) if files]
    if not photos:
        but = f", but {' and '.join(left_out)}" if left_out else ""
        fix = "python main.py --mode=download fills it" if is_div2k(folder) else f"{FORMAT_NAMES} files are read"
        raise UserError(f"{folder} ({setting}) holds no image{but}; {fix}.")
    for what in left_out:
        utils.say_once(f"Left out of {folder} ({setting}): {what}.")
    return photos
