"""Downloads from a server on this machine that misbehaves: only what is whole and right is kept."""
import hashlib
import http.server
import io
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from unittest import mock

import utils

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import config
import main
from files import download

FOLDERS = {
    "DIV2K_train_HR": ("DIV2K/DIV2K_train_HR/", "DIV2K_train_HR/000{}.png", 256),
    "DIV2K_train_LR_bicubic_X4": ("DIV2K/DIV2K_train_LR_bicubic/X4/", "DIV2K_train_LR_bicubic/X4/000{}x4.png", 64),
    "DIV2K_valid_HR": ("DIV2K/DIV2K_valid_HR/", "DIV2K_valid_HR/080{}.png", 256),
    "DIV2K_valid_LR_bicubic_X4": ("DIV2K/DIV2K_valid_LR_bicubic/X4/", "DIV2K_valid_LR_bicubic/X4/080{}x4.png", 64)}


def archive_of(entries):
    """The bytes of a zip; entries: {name or ZipInfo: bytes}."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return data.getvalue()


def photos(inner, side):
    files = {}
    for number in (1, 2):
        png = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(png, "png")
        files[inner.format(number)] = png.getvalue()
    return files


ARCHIVES = {name: archive_of(photos(inner, side)) for name, (_, inner, side) in FOLDERS.items()}
FIRST = "DIV2K_train_HR"


def settings(archives):
    """What `download.DIV2K` would say of them."""
    return {name: {"folder": FOLDERS[name][0], "n_images": 2, "size": len(data),
                   "sha256": hashlib.sha256(data).hexdigest()} for name, data in archives.items()}


def fetch(archives, url):
    with mock.patch.object(download, "DIV2K", settings(archives)):
        download.div2k(url)


def whole(request, data):
    request.send_response(200)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def ranged(request, data):
    """As most servers, the part that is asked for."""
    start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    request.send_response(206)
    request.send_header("Content-Length", str(len(data) - start))
    request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    request.end_headers()
    request.wfile.write(data[start:])


def cut_off(request, data):
    whole_length, data = str(len(data)), data[:len(data) // 2]
    request.send_response(200)
    request.send_header("Content-Length", whole_length)
    request.end_headers()
    request.wfile.write(data)


def stall(request, data):
    cut_off(request, data)
    request.server.end.wait(20)


def silent(request, data):
    request.server.end.wait(20)


PAGE = b"<!DOCTYPE html><html>Under maintenance</html>"


def page(request, data):
    whole(request, PAGE)


def page_without_length(request, data):
    request.send_response(200)
    request.end_headers()
    request.wfile.write(PAGE)


def page_of_the_same_length(request, data):
    whole(request, PAGE.ljust(len(data)))


def longer(request, data):
    whole(request, data + b"!")


def missing(request, data):
    request.send_error(404)


def failing(request, data):
    request.send_error(503)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server; `answer` is how it answers, `asked` the paths and ranges that it was asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append((self.path, self.headers["Range"]))
            self.server.answer(self, self.server.archives[self.path[1:].removesuffix(".zip")])

        def log_message(self, *arguments):
            pass

    monkeypatch.chdir(tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.answer, httpd.asked, httpd.archives, httpd.end = whole, [], dict(ARCHIVES), threading.Event()
        httpd.url = f"http://127.0.0.1:{httpd.server_port}/"
        threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
        yield httpd
        httpd.end.set()
        httpd.shutdown()


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def refused(server, archives, *words):
    """Assert that the download fails with one sentence that holds the words. server: itself or a URL."""
    with pytest.raises(utils.UserError) as refusal:
        fetch(archives, getattr(server, "url", server))
    sentence = str(refusal.value)
    assert sentence.endswith(".") and "\n" not in sentence
    assert all(word in sentence for word in words), sentence


def test_downloads_go_over_https_by_default():
    for url in (config.config.DOWNLOAD.url, download.FLICKR25K["url"]):
        assert url.startswith("https://")


def test_all_of_div2k_is_unpacked_once(server, tmp_path, capsys):
    fetch(ARCHIVES, server.url)
    for folder, _, side in FOLDERS.values():
        assert [Image.open(path).width for path in Path(folder).glob("*.png")] == [side, side]
    assert [path for path, _ in server.asked] == [f"/{name}.zip" for name in ARCHIVES]
    shutil.rmtree("DIV2K/DIV2K_valid_HR")
    fetch(ARCHIVES, server.url)
    assert len(server.asked) == 5 and "DIV2K/DIV2K_train_HR/ is already there, 2 images" in capsys.readouterr().out
    assert len(files(tmp_path)) == 8


@pytest.mark.parametrize("left", [{}, {"0001.png": "whole", "mine.jpg": b"a user's"},
                                  {"0001.png": b"", "0002.png": "whole"}, {"0001.png": b"cut off"}])
def test_a_folder_that_holds_a_part_is_completed_and_nothing_else_is_touched(server, tmp_path, capsys, left):
    originals = photos("DIV2K_train_HR/000{}.png", 256)
    folder = tmp_path / "DIV2K" / "DIV2K_train_HR"
    folder.mkdir(parents=True)
    for name, content in left.items():
        (folder / name).write_bytes(originals[f"DIV2K_train_HR/{name}"] if content == "whole" else content)
    times = {name: (folder / name).stat().st_mtime_ns for name, content in left.items() if content == "whole"}
    fetch({FIRST: ARCHIVES[FIRST]}, server.url)
    assert {f"DIV2K_train_HR/{path.name}": path.read_bytes() for path in folder.glob("*.png")} == originals
    assert all((folder / name).stat().st_mtime_ns == when for name, when in times.items())
    assert set(files(folder)) == {"0001.png", "0002.png", *left}
    assert ("holds 1 of 2 images; the others are added" in capsys.readouterr().out) == bool(left)
    fetch({FIRST: ARCHIVES[FIRST]}, server.url)
    assert len(server.asked) == 1


def test_the_command_prints_what_it_did_or_why_not(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "DIV2K", settings(ARCHIVES))
    arguments = main.parse_arguments(["--mode=download", "--set", f"DOWNLOAD.url={server.url}"])
    assert main.main(arguments) == 0
    assert "DIV2K/DIV2K_valid_HR/: 2 images." in capsys.readouterr().out
    shutil.rmtree(tmp_path / "DIV2K" / "DIV2K_valid_HR")
    server.answer = missing
    assert main.main(arguments) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "404" in error and "config.DOWNLOAD.url" in error


def test_downloading_imports_no_tensorflow():
    program = "import sys, files.download; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize("answer, words", [
    (silent, "no answer within 0.3 seconds"), (page, f"sends {len(PAGE)} bytes, not "),
    (page_without_length, "sends an unknown number of bytes, not "), (longer, "it is not the archive"),
    (page_of_the_same_length, "has SHA-256 "), (missing, "the server answers 404"),
    (failing, "the server answers 503")])
def test_what_is_not_the_archive_is_said_and_not_kept(server, tmp_path, monkeypatch, answer, words):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    server.answer = answer
    refused(server, ARCHIVES, f"{server.url}{FIRST}.zip", words, "config.DOWNLOAD.url")
    assert files(tmp_path) == []


@pytest.mark.parametrize("answer", [cut_off, stall])
@pytest.mark.parametrize("again", [ranged, whole])
def test_a_download_that_breaks_off_or_stalls_is_continued(server, tmp_path, monkeypatch, answer, again):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    server.answer = answer
    began = time.perf_counter()
    refused(server, ARCHIVES, "run the same command again to continue")
    assert time.perf_counter() - began < 5
    assert files(tmp_path) == [f"DIV2K/{FIRST}.zip.part"]
    size = os.path.getsize(f"DIV2K/{FIRST}.zip.part")
    assert 0 < size <= len(ARCHIVES[FIRST]) // 2
    server.answer = again
    fetch(ARCHIVES, server.url)
    assert server.asked[1] == (f"/{FIRST}.zip", f"bytes={size}-") and len(files(tmp_path)) == 8


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_server_that_is_not_there_is_an_error_with_the_true_reason(tmp_path, monkeypatch, no_proxy, closed_port):
    monkeypatch.chdir(tmp_path)
    url = f"http://127.0.0.1:{closed_port}/"
    refused(url, ARCHIVES, "could not be downloaded: Connection refused;", "config.DOWNLOAD.url")
    refused("http://no-such-host.invalid/", ARCHIVES, "the name of the server can't be resolved (", "DNS")
    refused("no address/", ARCHIVES, "config.DOWNLOAD.url")
    monkeypatch.setenv("http_proxy", url)
    refused("http://div2k.invalid/", ARCHIVES, "the proxy of HTTPS_PROXY or HTTP_PROXY fails (Connection refused)")
    assert files(tmp_path) == []


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate with openssl")
def test_a_certificate_that_is_not_trusted_is_the_reason(server, tmp_path, no_proxy):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "key",
                    "-out", "certificate"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("certificate", "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    refused(f"https://localhost:{server.server_port}/", ARCHIVES, "its certificate is not trusted (self",
            "REQUESTS_CA_BUNDLE")
    assert server.asked == [] and files(tmp_path) == ["certificate", "key"]


def test_an_archive_that_was_put_there_by_hand_is_taken_when_it_is_the_right_one(server, tmp_path):
    (tmp_path / "DIV2K").mkdir()
    (tmp_path / "DIV2K" / f"{FIRST}.zip").write_bytes(ARCHIVES[FIRST])
    fetch({FIRST: ARCHIVES[FIRST]}, server.url)
    assert server.asked == [] and files(tmp_path) == [f"DIV2K/{FIRST}/0001.png", f"DIV2K/{FIRST}/0002.png"]
    shutil.rmtree(tmp_path / "DIV2K" / FIRST)
    (tmp_path / "DIV2K" / f"{FIRST}.zip").write_bytes(ARCHIVES[FIRST][:-1] + b"!")
    refused(server, {FIRST: ARCHIVES[FIRST]}, "has SHA-256 ", "was deleted")
    assert files(tmp_path) == []


def link(name, target):
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3  # Unix
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return {entry: target}


def encrypted(data):
    """The same zip, said to be encrypted."""
    data = bytearray(data)
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + place] |= 1
    return bytes(data)


EVIL = {
    "out of the folder": {"DIV2K_train_HR/../../evil.png": b""},
    "out of the folder, at once": {"../evil.png": b""},
    "an absolute path": {"/tmp/evil.png": b""},
    "a path of Windows": {"DIV2K_train_HR/..\\..\\evil.png": b""},
    "a drive of Windows": {"C:/evil.png": b""},
    "another folder": {"DIV2K_valid_HR/evil.png": b""},
    "a hidden file": {"DIV2K_train_HR/.evil.png": b""},
    "a program": {"DIV2K_train_HR/evil.py": b"print()"},
    "a link": link("DIV2K_train_HR/evil.png", "/etc/passwd"),
    "a link to a folder": link("DIV2K_train_HR/evil", "/etc"),
    "a link, then a file through it": {**link("DIV2K_train_HR", "../.."), "DIV2K_train_HR/evil.png": b""},
}


@pytest.mark.parametrize("case", EVIL)
def test_entries_that_lead_elsewhere_are_refused_and_nothing_is_left(server, tmp_path, case):
    """The digest is right: the archive is what its maker wanted it to be."""
    server.archives[FIRST] = archive_of({**photos("DIV2K_train_HR/000{}.png", 8), **EVIL[case]})
    refused(server, {FIRST: server.archives[FIRST]}, "can't be unpacked (it holds '", "it was deleted")
    assert files(tmp_path) == [] and not list(tmp_path.parent.rglob("evil*"))


GOOD = photos("DIV2K_train_HR/000{}.png", 256)
DAMAGED = {
    "no zip": PAGE,
    "a zip without its end": archive_of(GOOD)[:-30],
    "a photo with a wrong checksum": archive_of(GOOD).replace(GOOD["DIV2K_train_HR/0002.png"][-99:], b"!" * 99),
    "encrypted": encrypted(archive_of(GOOD)),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_an_archive_that_is_damaged_is_said_and_nothing_is_left(server, tmp_path, case):
    server.archives[FIRST] = DAMAGED[case]
    refused(server, {FIRST: DAMAGED[case]}, f"DIV2K/{FIRST}.zip can't be unpacked", "it was deleted")
    assert files(tmp_path) == []


def test_a_full_disk_is_said_and_what_came_is_kept(server, tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        refused(server, ARCHIVES, f"{FIRST}.zip.part can't be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path) == [f"DIV2K/{FIRST}.zip.part"]
    server.answer = ranged
    fetch(ARCHIVES, server.url)
    assert len(files(tmp_path)) == 8


def test_mirflickr_is_downloaded_by_tensorlayer_whole_or_not_at_all_and_once(server, tmp_path, monkeypatch, capfd):
    photo = photos("{}", 8)["1"]
    server.archives["mirflickr25k"] = whole_archive = archive_of(
        {"mirflickr/im1.jpg": photo, "mirflickr/im2.jpg": photo, "mirflickr/meta/tags/tags1.txt": b"sky"})
    monkeypatch.setattr(download, "FLICKR25K", {"url": server.url, "size": len(whole_archive),
                                                "md5": hashlib.md5(whole_archive).hexdigest()})
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    answers = {missing: "404", cut_off: "retrieval incomplete", page: "verify", page_of_the_same_length: "MD5",
               silent: "timed out"}
    for answer, reason in answers.items():
        server.answer = answer
        sentence = rf"MIRFLICKR-25k could not be downloaded .*{reason}.*mirflickr25k.zip"
        with pytest.raises(utils.UserError, match=sentence):
            download.flickr25k()
        assert files(tmp_path) == []
    server.answer = whole
    half = tmp_path / "data" / "flickr25k" / ".partial" / "mirflickr25k.zip"  # of a killed run
    half.parent.mkdir(parents=True)
    half.write_bytes(whole_archive[:100])
    for _ in range(2):
        assert sorted(path.name for path in download.flickr25k().glob("*.jpg")) == ["im1.jpg", "im2.jpg"]
    assert download.flickr25k().as_posix() == "data/flickr25k/mirflickr" and len(server.asked) == 6
    assert files(tmp_path / "data" / "flickr25k") == [
        f"mirflickr/{name}" for name in ("im1.jpg", "im2.jpg", "meta/tags/tags1.txt")]
    assert socket.getdefaulttimeout() is None
    assert "cuInit" not in capfd.readouterr().err
