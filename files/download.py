"""Downloads of DIV2K and MIRFLICKR-25k: whole, checked against their published digests, or not at all."""
import re
import shutil
import socket
import stat
import zipfile
import zlib
from pathlib import Path

import utils
from utils import UserError

import requests

from config import DIV2K_TRAIN_HR, DIV2K_TRAIN_LR, DIV2K_VALID_HR, DIV2K_VALID_LR

# DIV2K's archives, https://data.vision.ee.ethz.ch/cvl/DIV2K/, by name: the folder that each one unpacks to.
DIV2K = {
    "DIV2K_train_HR": {
        "folder": DIV2K_TRAIN_HR, "n_images": 800, "size": 3530603713,
        "sha256": "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335"},
    "DIV2K_train_LR_bicubic_X4": {
        "folder": DIV2K_TRAIN_LR, "n_images": 800, "size": 246914039,
        "sha256": "f006b837f4eb52b82909aa01478e6d6d199eefce932179491d0c9dbb706dde3a"},
    "DIV2K_valid_HR": {
        "folder": DIV2K_VALID_HR, "n_images": 100, "size": 448993893,
        "sha256": "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc"},
    "DIV2K_valid_LR_bicubic_X4": {
        "folder": DIV2K_VALID_LR, "n_images": 100, "size": 31505881,
        "sha256": "a50a5d1c4b88de4e8d300d8fb2b904c52fe93b2b298a4899697760d7cbb6d553"},
}

MIRROR = "set config.DOWNLOAD.url to a mirror"
TIMEOUT = 30  # seconds in which a server has to send something

FLICKR25K = {"url": "https://press.liacs.nl/mirflickr/mirflickr25k.v3b/", "size": 3069184257,
             "md5": "a23d0a8564ee84cda5622a6c2f947785"}  # https://press.liacs.nl/mirflickr/mirdownload.html


def div2k(url: str) -> None:
    """Download and unpack the archives of DIV2K whose images are not all there yet. Raises UserError.

    url: where the archives are. One that is there already, whoever put it there, is checked like a downloaded one.
    """
    for name, archive in DIV2K.items():
        folder = Path(archive["folder"])
        found = _count(folder)
        if found >= archive["n_images"]:
            print(f"{folder}/ is already there, {found} images.")
            continue
        if found:
            print(f"{folder}/ holds {found} of {archive['n_images']} images; the others are added.")
        path = folder.parents[len(folder.parts) - 2] / f"{name}.zip"
        _fetch(f"{url.rstrip('/')}/{name}.zip", path, archive["size"], archive["sha256"])
        _unpack(path, folder)
        path.unlink()
        print(f"{folder}/: {_count(folder)} images.")


def _count(folder):
    return sum(path.stat().st_size > 0 for path in folder.glob("[!.]*.png"))


def _fetch(url, path, size, sha256):
    """Download to `path`, which appears once size and digest are right. Continues an interrupted download."""
    part = path.with_suffix(".zip.part")
    advice = f"run the same command again to continue, or {MIRROR}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.replace(part)
        if not part.exists() or part.stat().st_size < size:
            _append_rest(url, part, size)
        digest = utils.digest(part)
    except requests.RequestException as error:
        raise UserError(f"{url} could not be downloaded: {_reason(error)}; {advice}.") from error
    except OSError as error:
        raise utils.cannot_write(part, error, "run the same command elsewhere") from error
    if part.stat().st_size < size:
        raise UserError(f"{url} broke off after {part.stat().st_size} of {size} bytes; {advice}.")
    if digest != sha256:
        part.unlink()
        raise UserError(f"{url} has SHA-256 {digest}, which is not the archive's, and was deleted; {MIRROR}.")
    part.rename(path)


def _append_rest(url, part, size):
    """Download to the file `part` what it lacks, or all of it from a server that only sends whole files."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as answer:
        answer.raise_for_status()
        resumed = answer.status_code == 206
        have = have if resumed else 0
        promised = answer.headers.get("Content-Length", "an unknown number of")
        if str(size - have) != promised:
            raise UserError(f"{url} sends {promised} bytes, not {size - have}: it is not the archive; {MIRROR}.")
        with (open(part, "ab" if resumed else "wb") as file,
              utils.progress(part.stem, size, have, unit_scale=True) as bar):
            for block in answer.iter_content(1 << 16):
                file.write(block)
                bar.update(file.tell())


def _reason(error):
    """Why a request failed, in a few words, with what fixes it; urllib3 wraps the cause several times."""
    causes = [error]
    while cause := getattr(causes[-1], "reason", None) or causes[-1].__cause__ or causes[-1].__context__:
        if not isinstance(cause, BaseException) or cause in causes:
            break
        causes.append(cause)
    cause = causes[-1]
    words = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None) or str(cause)
    if isinstance(error, requests.HTTPError):
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.SSLError):
        return (f"its certificate is not trusted ({words}); check the clock, and behind a company's proxy set "
                "REQUESTS_CA_BUNDLE to the company's certificate")
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy of HTTPS_PROXY or HTTP_PROXY fails ({words}); correct or unset it"
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT} seconds"
    if isinstance(cause, socket.gaierror):
        return f"the name of the server can't be resolved ({words}); check the network's DNS"
    return words


def _unpack(path, folder):
    """Unpack the images of an archive that `folder` does not hold yet, all or none, and nothing outside of it."""
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        with zipfile.ZipFile(path) as archive:
            images = _images_of(archive, folder)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            with utils.progress(f"Unpacking {path.name}", len(images)) as bar:
                for done, (name, entry) in enumerate(images.items(), start=1):
                    if not ((folder / name).is_file() and (folder / name).stat().st_size == entry.file_size):
                        with archive.open(entry) as source, open(partial / name, "wb") as target:
                            shutil.copyfileobj(source, target)
                    bar.update(done)
        if not folder.exists():
            partial.rename(folder)
        for file in partial.glob("*"):
            file.replace(folder / file.name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        path.unlink()
        raise UserError(f"{path} can't be unpacked ({error}); it was deleted, set config.DOWNLOAD.url to another "
                        "source.") from error
    except OSError as error:
        raise utils.cannot_write(f"What {path} holds", error, "run the same command elsewhere") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _images_of(archive, folder):
    """The entries of a zip file by their names in `folder`; raises BadZipFile if there is anything else in it."""
    inner = re.escape("/".join(folder.parts[1:]))
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    for entry in entries:
        if stat.S_ISLNK(entry.external_attr >> 16) or not re.fullmatch(rf"{inner}/[\w-]+\.png", entry.filename):
            raise zipfile.BadZipFile(f"it holds {entry.filename!r}, which is no image of {folder}/")
    return {Path(entry.filename).name: entry for entry in entries}


def flickr25k() -> Path:
    """Folder of MIRFLICKR-25k's photos, where tensorlayer's own loader would put them; downloaded once.

    Raises UserError.
    """
    folder = Path("data/flickr25k/mirflickr")
    if folder.is_dir():
        return folder
    with utils.quiet():
        import tensorlayer as tl
    partial = folder.with_name(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed run, which tensorlayer would take for whole
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # urllib, which tensorlayer uses, would wait for ever
    try:
        # tl.files.load_flickr25k_dataset uses http, keeps half an archive, and decodes all photos into 14 GB of memory.
        archive = tl.files.maybe_download_and_extract("mirflickr25k.zip", str(partial), FLICKR25K["url"],
                                                      expected_bytes=FLICKR25K["size"])
        if (digest := utils.digest(archive, "md5")) != FLICKR25K["md5"]:
            raise ValueError(f"its MD5 is {digest}, not {FLICKR25K['md5']}")
        shutil.unpack_archive(archive, partial)
        (partial / "mirflickr").rename(folder)
    except Exception as error:  # tensorlayer raises what urllib and zipfile do, or a bare Exception
        raise UserError(f"MIRFLICKR-25k could not be downloaded ({error}); try again, or unpack "
                        f"{FLICKR25K['url']}mirflickr25k.zip into {folder}/ yourself.") from error
    finally:
        socket.setdefaulttimeout(timeout)
        shutil.rmtree(partial, ignore_errors=True)
    return folder
