"""Pairs of HR and LR images, by the names that datasets and tools give them."""
import collections
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import utils

from files import images

Pair = tuple[Path, Path | None]  # an HR file and its LR file; None where LR is to be made from HR

TAG = (r"(?:x\d(?:[a-z]\d?)?|\dx|srf[-_ ]?\d|[lh][rq]\d?|gt(?:mod\d+)?|low(?:res)?|high(?:res)?|orig(?:inal)?"
       r"|bic(?:ubic)?|bi|bd|dn|down(?:sampled)?\d?|ds\d?|sub\d?|mild|difficult|wild|unknown|small)")
TAGS = re.compile(rf"[-_. ]+{TAG}+$|(?<=\w)x\d(?:[a-z]\d?)?$|^(?:[lh][rq]|gt)[-_. ]+")
HR_TAG, LR_TAG = re.compile("h[rq]|gt"), re.compile("l[rq]|x[2-9]|[2-9]x")


def _read_name(path, root):
    """Keys that tell which photo a file shows, and the tags of LR and HR in its name and those of its subfolders.

    A key is (subfolders, name); the first is of the whole name, each further one is without one more tag:
    `0001_lr_x4`, `0001_lr`, `0001`. Subfolders are without tags in all of them.
    """
    names = [path.stem.casefold()]
    while (shorter := TAGS.sub("", names[-1])) not in ("", names[-1]):
        names.append(shorter)
    tags, folders = [names[0].replace(names[-1], "", 1)], []
    for part in path.relative_to(root).parent.parts:
        whole = rest = f"_{part.casefold()}"  # a folder may be called by a tag alone
        while (shorter := TAGS.sub("", rest)) != rest:
            rest = shorter
        tags.append(whole.removeprefix(rest))
        folders += [rest] if rest else []
    return [(*folders, name) for name in names], " ".join(tags)


def match_names(hr_files: Sequence[Path], hr_folder: str | Path, lr_files: Sequence[Path], lr_folder: str | Path,
                scale: int) -> tuple[dict[Path, list[Path]], dict[Path, list[Path]]]:
    """LR files of each HR file that has any, best first, and HR files of each LR file that shows their photo.

    Names are equal but for tags: `0001x4.png`, `0001_bicLRx4.png` or `0001.png` for `0001.png`, `a_SRF_4_LR.png` for
    `a_SRF_4_HR.png`, `LRx4/a.png` for `HR/a.png`. An LR that fits HR files of different names belongs to none, nor
    does one that names another scale.
    """
    others = "23456789".replace(str(scale), "")
    other_scale = re.compile(rf"(?:x|srf[-_ ]?|[lh][rq]|down(?:sampled)?|ds|sub)[{others}]|[{others}]x")
    owners = collections.defaultdict(list)
    for path in hr_files:
        keys, tags = _read_name(path, hr_folder)
        for n_removed, key in enumerate(keys):
            owners[key].append(((n_removed > 0, not HR_TAG.search(tags)), path))
    partners, matched = collections.defaultdict(list), collections.defaultdict(list)
    for path in lr_files:
        keys, tags = _read_name(path, lr_folder)
        for key in (key for key in keys if key in owners):
            matched[path] += [hr for _, hr in owners[key]]
            best = min(rank for rank, _ in owners[key])
            found = [hr for rank, hr in owners[key] if rank == best]
            if len({hr.stem for hr in found}) == 1 and not other_scale.search(tags):
                for hr in found:
                    partners[hr].append(path)
                break
    for hr, lrs in partners.items():
        favourites = f"{hr.stem}x{scale}", hr.stem
        lrs.sort(key=lambda lr: (*(lr.stem != name for name in favourites), not re.search("l[rq]", lr.stem, re.I)))
    return dict(partners), dict(matched)


def pair_files(files: Sequence[Path], hr_folder: str | Path, scale: int, lr_files: Sequence[Path] = (),
               lr_folder: str | Path = "") -> list[Pair]:
    """Pair the images of a folder with those of `lr_folder`, "" if there is none; prints which have no LR or several.

    Where HR and LR lie in one folder, each LR belongs to its HR and is no photo of its own; where the HR are named so
    (`img_001_SRF_4_HR.png`), neither are other files of that name, which are results of other methods.
    """
    files, partners = _split(files, hr_folder, scale)
    if lr_folder and Path(lr_folder) != Path(hr_folder):
        partners |= match_names(files, hr_folder, lr_files, lr_folder, scale)[0]
        missing = [path.name for path in files if path not in partners]
        if missing:
            print(f"{len(missing)} of {len(files)} photos have no partner in {lr_folder}, so their LR is made from "
                  f"them: {utils.listing(missing)}")
    several = [path for path in files if len(partners.get(path, ())) > 1]
    if several:
        print(f"{len(several)} of {len(files)} photos have several LR images; the first is used, such as "
              f"{partners[several[0]][0].name} for {several[0].name}.")
    return [(path, partners.get(path, [None])[0]) for path in files]


def _split(files, folder, scale):
    """The HR files of a folder, and the LR files of each for which there are any."""
    keys, tags = {}, {}
    for path in files:
        keys[path], tags[path] = _read_name(path, folder)
    low = [path for path in files if LR_TAG.search(tags[path])]
    high = [path for path in files if path not in low]
    partners, matched = _without_misfits(*match_names(high, folder, low, folder, scale), folder, scale)
    if not matched:
        return files, partners
    series = tuple("/".join(key) + "_" for hr, lrs in partners.items() for key in {*keys[hr][1:]} & {*keys[lrs[0]]})
    others = {path for path in files if path in matched or "/".join(keys[path][0]).startswith(series)}
    used = [path for path in files if path in partners or path not in others]
    print(f"{folder} holds LR images of its photos: {len(files) - len(used)} of {len(files)} files are not used as HR.")
    return used, partners


def _without_misfits(partners, matched, folder, scale):
    """`match_names`, of those LR files alone that are smaller or larger than their HR by a whole number."""
    @functools.cache
    def is_shrunk(lr, hr, by):
        sizes = images.image_size(lr), images.image_size(hr)
        return None in sizes or all(abs(large - by * small) < by for small, large in zip(*sizes, strict=True))

    def shows(lr, hr):  # also what another program enlarged
        return any(is_shrunk(lr, hr, by) or is_shrunk(hr, lr, by) for by in range(2, 9))

    fitting = {lr: hrs for lr, hrs in matched.items() if any(shows(lr, hr) for hr in hrs)}
    misfits = [lr.name for lr in matched if lr not in fitting]
    if misfits:
        print(f"{utils.plural(len(misfits), 'file')} of {folder} named as LR images, but not of their size, count as "
              f"photos: {utils.listing(misfits, 3)}")
    sized = {hr: [lr for lr in lrs if is_shrunk(lr, hr, scale)] for hr, lrs in partners.items()}
    return {hr: lrs for hr, lrs in sized.items() if lrs}, fitting
