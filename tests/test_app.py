"""The window of --mode=app in a browser: what visitors drop, press, see and download, and what it leaves alone."""
import copy
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import zipfile
from unittest import mock

import numpy as np
import pytest
import requests
from conftest import ROOT
from PIL import Image
from restoring import EXACTLY, photo

import config
import main
from files import images
from restore import Restorer

# main.py without a network: calls to other machines fail, and are listed in a file.
CUT_OFF = f"""
import runpy, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = address[0] if isinstance(address, tuple) else address
        if host not in (None, "localhost", "127.0.0.1", b"127.0.0.1"):
            print(event, host, file=calls, flush=True)
            raise OSError("there is no network")

sys.path.insert(0, {str(ROOT)!r})
calls = open(sys.argv.pop(1), "w")
sys.addaudithook(refuse)
runpy.run_path({str(ROOT / "main.py")!r}, run_name="__main__")
"""


class Server:
    """main.py --mode=app in an empty folder, with a folder of its own for temporary files."""

    def __init__(self, folder):
        self.here, self.temporary, self.calls = folder / "here", folder / "temporary", folder / "calls.txt"
        for path in (self.here, self.temporary):
            path.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.process = subprocess.Popen(
            [sys.executable, "-c", CUT_OFF, self.calls, "--mode=app", "--set", "RESTORE.max_megapixels=0.05", *EXACTLY],
            cwd=self.here, env={**os.environ, "DISPLAY": "", "TMPDIR": str(self.temporary), "GRADIO_SERVER_PORT": port},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = iter(self.process.stdout.readline, "")
        self.url = next(line.split()[4].rstrip(";") for line in lines if line.startswith("The window is at"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("app"))
    yield server
    server.process.kill()
    server.process.communicate()


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(tmp_path_factory, start_chromium, downloads):
    return start_chromium(tmp_path_factory.mktemp("profile"), "hide-scrollbars",
                          "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                          prefs={"download.default_directory": str(downloads)})


@pytest.fixture
def window(browser, server):
    """The window, loaded anew."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    browser.get(server.url)
    window = Window(browser)
    window.wait(lambda: window.button("Enlarge"))
    yield window
    browser.switch_to.default_content()
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    loaded = window.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [url for url in loaded if not url.startswith((server.url, "data:"))] == []


class Window:
    """The window as its visitors meet it."""

    def __init__(self, driver):
        self.driver, self.run = driver, driver.execute_script

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def wait(self, condition, seconds=200):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds} s in vain; the window shows: {self.find('body').text}")

    def button(self, name):
        """The button of that name if it can be pressed."""
        return self.run("const buttons = [...document.querySelectorAll('button:enabled')];"
                        "return buttons.find(button => button.innerText === arguments[0])", name)

    def drop(self, *paths):
        """Drag files from the desktop into the window and let go."""
        x, y, width, height = self.run(
            "const e = document.querySelector('input[type=file]').parentElement; e.scrollIntoView({block: 'center'});"
            "const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]")
        for kind in ("dragEnter", "dragOver", "drop"):
            self.driver.execute_cdp_cmd("Input.dispatchDragEvent", {
                "type": kind, "x": x + width / 2, "y": y + height / 2,
                "data": {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}})
        self.wait(lambda: all(path.stem in self.find("body").text for path in paths))

    def said(self):
        """The lines below which the results appear; none while it works."""
        return self.run("return document.querySelector('#status')?.innerText.split(/\\n+/)") or []

    def restore(self, *paths):
        self.drop(*paths)
        self.button("Enlarge").click()
        return self.wait(lambda: self.button("Enlarge") and self.said())

    def compare(self):
        """Go into the page that shows the results beside the photos."""
        self.driver.switch_to.frame(self.find("iframe"))
        self.wait(lambda: self.run("return document.readyState === 'complete'"
                                   " && document.querySelector('#stage img')?.complete"))

    def slider(self):
        return int(self.find("#slider").get_attribute("aria-valuenow"))


@pytest.fixture
def shot(tmp_path):
    """A photo of 40x30 pixels from a phone, which lay on its side."""
    exif = Image.Exif()
    exif[0x0110], exif[0x0112] = "Pixel 9", 6
    Image.fromarray(photo(40, 30)).save(tmp_path / "IMG 1.jpg", exif=exif)
    return tmp_path / "IMG 1.jpg"


def test_dropped_photos_are_compared_and_downloaded(window, shot, downloads, tmp_path):
    (tmp_path / "other").mkdir()
    Image.fromarray(photo(24, 32)).save(tmp_path / "other" / "drawing.tif")
    (tmp_path / "notes.jpg").write_text("not a photo")
    Image.new("L", (300, 200)).save(tmp_path / "large.png")
    said = window.restore(shot, tmp_path / "other" / "drawing.tif", tmp_path / "notes.jpg", tmp_path / "large.png")
    assert said == [
        "notes.jpg can't be read as an image (empty, damaged, or none of PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF and "
        "HEIC); replace it or take it out of the folder.",
        "large.png claims more than 0.05 million pixels; raise RESTORE.max_megapixels if that is true, or set it to 0 "
        "for no limit.", "2 of 4 photos done."]
    for link in window.driver.find_elements("css selector", "#downloads a"):
        link.click()
    names = {"all.zip", "IMG 1_gen.png", "drawing_gen.png"}
    window.wait(lambda: {path.name for path in downloads.iterdir()} == names)
    with zipfile.ZipFile(downloads / "all.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            name: (downloads / name).read_bytes() for name in ("IMG 1_gen.png", "drawing_gen.png")}
    with Image.open(downloads / "IMG 1_gen.png") as result:
        assert result.size == (160, 120) and result.getexif()[0x0110] == "Pixel 9"
    for path, weights in ((shot, "photo"), (tmp_path / "other" / "drawing.tif", "srgan")):
        np.testing.assert_array_equal(images.read_image(downloads / f"{path.stem}_gen.png"),
                                      Restorer(weights, precision="float32")(images.read_image(path)))
    left, top = window.run("const r = document.querySelector('iframe').getBoundingClientRect(); return [r.x, r.y]")
    window.compare()
    assert window.run("return results.images.map(image => image.name)") == ["drawing", "IMG 1"]
    x, y, width, height = window.run("const r = document.querySelector('.layer img').getBoundingClientRect();"
                                     "return [r.x, r.y, r.width, r.height]")
    for kind in ("Pressed", "Released"):
        window.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {
            "type": f"mouse{kind}", "x": left + x + 0.8 * width, "y": top + y + height / 4, "button": "left",
            "clickCount": 1})
    assert window.slider() == pytest.approx(80, abs=1)


def test_cancel_ends_the_work(window, tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(8)]
    for number, path in enumerate(paths):
        Image.fromarray(np.roll(photo(200, 200), number, axis=1)).save(path)
    window.drop(*paths)
    window.button("Enlarge").click()
    window.wait(lambda: " left - " in window.find("body").text)  # the progress, with the time left
    assert not window.button("Enlarge")
    window.button("Cancel").click()
    *_, cancelled, done = window.wait(lambda: window.button("Enlarge") and window.said())
    assert cancelled == "Cancelled." and int(done.split()[0]) < 4


def test_a_phone_shows_all_of_it(window, shot):
    window.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})
    for name in ("As long as ...", "JPEG: small"):
        window.run("[...document.querySelectorAll('label')].find(e => e.innerText === arguments[0]).click()", name)
    selector = "input[aria-label='Pixels of the longer side']"
    window.wait(lambda: window.driver.find_elements("css selector", selector))[0].send_keys("\b\b\b\b100")
    window.restore(shot)
    assert window.find("#downloads a").text == "IMG 1_gen.jpg"
    assert window.run("return document.documentElement.scrollWidth") == 390
    for selector in ("button.primary", "#downloads a", "iframe"):
        x, width, height = window.run("const r = document.querySelector(arguments[0]).getBoundingClientRect();"
                                      "return [r.x, r.width, r.height]", selector)
        assert x >= 0 and x + width <= 390 and height >= 24, selector
    window.compare()
    assert window.run("return [results.images[0].width, results.images[0].height]") == [100, 75]
    assert window.run("return document.documentElement.scrollWidth <= innerWidth")


def test_by_keyboard_alone(window, shot):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys):
        ActionChains(window.driver, duration=0).send_keys(*keys).perform()

    def tab_to(name):
        """Press Tab until the focus is on what has this name."""
        for _ in range(30):
            press(Keys.TAB)
            if name in window.run("const e = document.activeElement; return e.closest('label, button, a, iframe')"
                                  "?.innerText || e.title || e.ariaLabel || ''"):
                return
        raise AssertionError(f"Tab does not reach {name}")

    tab_to("Upload")
    window.find("input[type=file]").send_keys(str(shot))  # what the dialog of the system does
    window.wait(lambda: "IMG 1" in window.find("body").text)
    tab_to("3 times")
    press(Keys.SPACE)
    tab_to("Enlarge")
    press(Keys.ENTER)
    assert window.wait(lambda: window.button("Enlarge") and window.said()) == ["1 of 1 photo done."]
    tab_to("IMG 1_gen.png")
    tab_to("Before and after")
    window.compare()
    assert window.run("return results.images[0].width") == 120  # three times
    for _ in range(20):
        press(Keys.TAB)
        if window.run("return document.activeElement.id") == "slider":
            break
    press(Keys.ARROW_RIGHT)
    assert window.slider() == 52


def test_what_was_not_uploaded_is_not_read(window, server, tmp_path):
    """Neither a file of this machine nor an address, whatever a visitor sends."""
    (tmp_path / "secret.png").write_bytes(b"")
    config = requests.get(f"{server.url}config").json()
    run = next(function for function in config["dependencies"] if len(function["inputs"]) == 7)
    for path in (str(tmp_path / "secret.png"), str(ROOT / "img" / "photo.png"), "https://1.1.1.1/photo.png"):
        sent = {"path": path, "orig_name": "photo.png", "meta": {"_type": "gradio.FileData"}}
        data = [[sent], 4, 0, "", 1, "png", None]
        requests.post(f"{server.url}gradio_api/queue/join", json={
            "data": data, "fn_index": run["id"], "session_hash": "visitor"}).raise_for_status()
        with requests.get(f"{server.url}gradio_api/queue/data?session_hash=visitor", stream=True) as answers:
            messages = [json.loads(line[5:]) for line in answers.iter_lines() if line.startswith(b"data:")]
        assert [message["success"] for message in messages if message["msg"] == "process_completed"] == [False]
    for path in ("gradio_api/file=/etc/hostname", f"gradio_api/file={ROOT}/main.py", "results/../../here",
                 "results/%2e%2e/%2e%2e/calls.txt"):
        assert requests.get(f"{server.url}{path}").status_code in (403, 404), path


def test_it_ends_with_its_folder_and_has_called_nobody(server):
    assert [path.name[:10] for path in server.temporary.iterdir()] == ["srgan-app-"]
    server.process.send_signal(signal.SIGTERM)
    server.process.communicate(timeout=60)
    assert server.process.returncode == 143
    assert [*server.temporary.iterdir(), *server.here.iterdir()] == []
    assert server.calls.read_text() == ""


@pytest.mark.parametrize("given, taken", [(None, "g_srgan.npz"), ("g_srgan_init.npz", "g_srgan_init.npz")])
def test_it_takes_the_weights_that_the_command_line_takes(trained, shot, given, taken):
    """A training's, or those that are named."""
    import app
    settings = copy.deepcopy(config.config)
    settings.TRAIN.checkpoint_path, settings.RESTORE.precision = str(trained), "float32"
    window, visitor = app.Window(settings, given and str(trained / given), "this machine"), mock.Mock()
    assert f"Take {trained / taken}" in str(window.page.config)
    window._begin(visitor)
    window._run([str(shot)], 4, 0, "", 1, "png", None, visitor, mock.Mock())
    result, = window.results.rglob("IMG 1_gen.png")
    np.testing.assert_array_equal(images.read_image(result),
                                  Restorer(trained / taken, precision="float32")(images.read_image(shot)))


# ----------------------------------------------------------------------------------------------------- mistakes


def test_a_port_that_is_taken_is_one_sentence(monkeypatch, capsys):
    from gradio import http_server
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(http_server, "INITIAL_PORT_VALUE", taken.getsockname()[1])
        monkeypatch.setattr(http_server, "TRY_NUM_PORTS", 1)
        assert main.main(main.parse_arguments(["--mode=app"])) == 2
    sentence, = capsys.readouterr().err.splitlines()
    assert sentence.startswith("No port is free for the window")


def test_missing_gradio_is_named(monkeypatch, capsys):
    for name in ("gradio", "starlette", "starlette.staticfiles"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    monkeypatch.setattr(sys, "argv", ["main.py", "--mode=app"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "main.py"), run_name="__main__")
    assert capsys.readouterr().err == "The package gradio is not installed; run: pip install gradio\n"
