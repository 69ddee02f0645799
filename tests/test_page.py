"""The comparison page in a browser: what is seen, pressed, dragged and touched."""
import base64
import functools
import http.server
import io
import json
import os
import threading
import time
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pytest
from PIL import Image

import results
from files.outputs import OutputFolder

TEMPLATE = Path(__file__).parent.parent / "page.html"
METHODS = {"lr": "LR", "bicubic": "bicubic", "lanczos": "Lanczos", "srresnet": "SRResNet", "srgan": "SRGAN",
           "hr": "original"}
METRICS = [{"id": "psnr", "title": "PSNR", "unit": "dB", "digits": 2, "higher_is_better": True, "shown": True},
           {"id": "ssim", "title": "SSIM", "unit": "", "digits": 4, "higher_is_better": True, "shown": True}]
COLORS = {"lr": (250, 0, 0), "bicubic": (0, 250, 0), "lanczos": (0, 0, 250), "srresnet": (250, 250, 0),
          "srgan": (0, 250, 250), "hr": (250, 0, 250)}


def build(folder, images, methods=METHODS, mode="score"):
    """Write a page with its pictures. images: {name: {method: array (H, W, 3)}}."""
    (folder / "thumbnails").mkdir(parents=True)
    entries = []
    for number, (name, pictures) in enumerate(images.items()):
        for method, picture in pictures.items():
            Image.fromarray(picture).save(folder / f"{name}_{method}.png")
        height, width = next(picture.shape[:2] for method, picture in pictures.items() if method != "lr")
        Image.fromarray(picture).resize((40, 30)).save(folder / "thumbnails" / f"{name}.jpg")
        entry = {"name": name, "width": width, "height": height, "thumb": quote(f"thumbnails/{name}.jpg"),
                 "pictures": {method: quote(f"{name}_{method}.png") for method in pictures}}
        if mode == "score":
            entry["metrics"] = {
                method: {"psnr": 20 + (7 * number + 3 * i) % 10, "ssim": 0.5 + (3 * number + i) % 10 / 20}
                for i, method in enumerate(methods) if method not in ("lr", "hr")}
        entries.append(entry)
    mean = {method: {metric: float(np.mean([entry["metrics"][method][metric] for entry in entries]))
                     for metric in ("psnr", "ssim")} for method in entries[0].get("metrics", {})}
    titles = [{"id": method, "title": title} for method, title in methods.items()]
    write_page(folder, {"mode": mode, "scale": 4, "methods": titles, "metrics": METRICS, "mean": mean,
                        "images": entries})
    return folder


def write_page(folder, content):
    place = 'type="application/json">'
    template = TEMPLATE.read_text(encoding="utf-8")
    escaped = json.dumps(content).replace("<", "\\u003c")
    (folder / "index.html").write_text(template.replace(f"{place}null<", f"{place}{escaped}<"), encoding="utf-8")


def read_page(folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    return json.loads(page.split('type="application/json">')[1].split("</script>")[0])


def plain(width, height, methods=METHODS):
    """A picture of one color for each method."""
    by = {method: 4 if method == "lr" else 1 for method in methods}
    return {method: np.full((height // by[method], width // by[method], 3), COLORS[method], np.uint8)
            for method in methods}


def noise(width, height, methods=METHODS):
    """A picture in which every pixel differs from those around it, the same one for each method but the LR."""
    rng = np.random.default_rng(0)
    hr, lr = (rng.integers(0, 256, (height // by, width // by, 3), np.uint8) for by in (1, 4))
    return {method: lr if method == "lr" else hr for method in methods}


@pytest.fixture(scope="module")
def colors(tmp_path_factory):
    """Five images of 320x240 whose color says which method is seen."""
    return build(tmp_path_factory.mktemp("colors") / "page", {name: plain(320, 240) for name in "abcde"})


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Two images of 800x600 in which every pixel can be told apart."""
    methods = {method: METHODS[method] for method in ("lr", "bicubic", "srgan")}
    return build(tmp_path_factory.mktemp("noisy") / "page", {name: noise(800, 600, methods) for name in "ab"}, methods)


@pytest.fixture(scope="module")
def browser(tmp_path_factory, start_chromium):
    return start_chromium(tmp_path_factory.mktemp("profile"), "hide-scrollbars")


@pytest.fixture
def browse(browser):
    """Open a page: `browse(folder or URL, size=..., density=..., language=..., dark=..., touch=...)`."""
    agent = browser.execute_script("return navigator.userAgent")

    def start(where, state="", size=(1280, 800), density=1, language="en-US", dark=False, touch=False):
        url = f"{where.as_uri()}/index.html" if isinstance(where, Path) else where
        browser.get("about:blank")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        for command, arguments in {
            "Emulation.setDeviceMetricsOverride": {
                "width": size[0], "height": size[1], "deviceScaleFactor": density, "mobile": touch},
            "Emulation.setTouchEmulationEnabled": {"enabled": touch},
            "Emulation.setEmulatedMedia": {"features": [scheme]},
            "Emulation.setUserAgentOverride": {"userAgent": agent, "acceptLanguage": language},
        }.items():
            browser.execute_cdp_cmd(command, arguments)
        browser.get_log("browser")
        browser.get(url + (f"#{state}" if state else ""))
        page = Page(browser)
        page.settle()
        return page

    yield start
    assert [entry["message"] for entry in browser.get_log("browser")] == []


class Page:
    """The page as people meet it."""

    def __init__(self, driver):
        self.driver = driver

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent.trim())", selector)

    def wait(self, condition, seconds=10):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.02)
        raise AssertionError(f"waited {seconds} s in vain; the page shows: {self.find('body').text}")

    def settle(self):
        """Wait until the chosen pictures are on the stage and painted."""
        self.wait(lambda: self.run("return document.readyState === 'complete'"
                                   " && !document.querySelector('#stage[aria-busy=true]')"))
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def press(self, *keys, shift=False):
        from selenium.webdriver import ActionChains, Keys
        for key in keys:
            actions = ActionChains(self.driver, duration=0)
            if shift:
                actions.key_down(Keys.SHIFT)
            actions.send_keys(getattr(Keys, key.upper(), key))
            if shift:
                actions.key_up(Keys.SHIFT)
            actions.perform()
        self.settle()

    def click(self, selector, text=None):
        self.run("""[...document.querySelectorAll(arguments[0])]
            .find(e => arguments[1] === null || e.textContent.trim() === arguments[1]).click()""", selector, text)
        self.settle()

    def mouse(self, kind, point, **changes):
        event = {"type": f"mouse{kind}", "x": point[0], "y": point[1], "button": "left", "clickCount": 1, **changes}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def drag(self, *points):
        """Press the mouse at the first of some points (x, y) of the window, move it over the others, and let go."""
        self.mouse("Pressed", points[0])
        for point in points[1:]:
            self.mouse("Moved", point)
        self.mouse("Released", points[-1])
        self.settle()

    def wheel(self, point, delta):
        self.mouse("Wheel", point, button="none", deltaX=0, deltaY=delta)
        self.settle()

    def touch(self, *fingers):
        """Each finger is a list of points (x, y) of the window, as many for each."""
        first, *others = zip(*fingers, strict=True)
        for kind, points in [("touchStart", first), *(("touchMove", points) for points in others), ("touchEnd", [])]:
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {
                "type": kind, "touchPoints": [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]})
        self.settle()

    def zoom(self, by):
        self.click(f"#zoom button:nth-child({(1, 2, 4, 8).index(by) + 2})")

    def zoomed(self):
        """1, 2, 4 or 8, or None where all of the picture is fitted in."""
        return {"1:1": 1, "2\u00d7": 2, "4\u00d7": 4, "8\u00d7": 8}.get(self.find("#zoom [aria-pressed=true]").text)

    def slider(self):
        return int(self.find("#slider").get_attribute("aria-valuenow"))

    def chosen(self):
        """The methods pressed on the left and the right."""
        script = "return document.querySelector(arguments[0]).lastChild.textContent"
        return [self.run(script, f"#{side} [aria-pressed=true]") for side in ("left", "right")]

    def name(self):
        return self.find("#name").text

    def rectangle(self, selector):
        """x, y, width and height in CSS pixels of the window."""
        return self.run("const r = document.querySelector(arguments[0]).getBoundingClientRect();"
                        "return [r.x, r.y, r.width, r.height]", selector)

    def middle(self, selector):
        x, y, width, height = self.rectangle(selector)
        return x + width / 2, y + height / 2

    def screenshot(self):
        """What the screen shows, in device pixels."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")).astype(int)

    def color_at(self, x, y):
        return tuple(self.screenshot()[round(y), round(x)])

    def pixel_at(self, point):
        """The place in the full-size picture, in its pixels, that is seen at a point of the window."""
        left, top, width, height = self.rectangle("#stage img")
        size = self.run("const i = results.images[state.image]; return [i.width, i.height]")
        return (point[0] - left) * size[0] / width, (point[1] - top) * size[1] / height


# ------------------------------------------------------------------------------------------------------------ slider


def test_the_slider_parts_two_methods_by_mouse_and_keys(browse, colors):
    page = browse(colors, size=(640, 500))
    assert page.chosen() == ["bicubic", "SRGAN"] and page.slider() == 50
    x, y, width, _ = page.rectangle(".layer img")

    def border():
        """The share of the picture's width that shows the left method, from what is seen at its top."""
        row = page.screenshot()[round(y) + 2, round(x):round(x + width)]
        left, right = ((row == COLORS[method]).all(1) for method in ("bicubic", "srgan"))
        assert left.sum() + right.sum() > width - 8 and not right[:left.sum()].any()
        return left.sum() / width

    assert border() == pytest.approx(0.5, abs=0.02)
    middle = page.middle("#slider")
    page.drag(middle, (middle[0] + 20, middle[1]), (x + 0.8 * width, middle[1]))
    assert page.slider() == 80 and border() == pytest.approx(0.8, abs=0.02)
    middle = page.middle("#slider")
    page.drag((middle[0] + 15, middle[1]), (middle[0] + 15, middle[1]))  # held beside its line, it does not jump
    assert page.slider() == 80
    point = x + 0.3 * width, y + 20
    page.drag(point, point)  # all of the picture is seen: a click sets the slider
    assert page.slider() == 30 and border() == pytest.approx(0.3, abs=0.02)
    page.press("arrow_right", "arrow_right", "arrow_left")
    assert page.slider() == 32 and border() == pytest.approx(0.32, abs=0.02)
    page.press("home")
    assert page.slider() == 0 and border() < 0.02
    page.press("end", "arrow_right")
    assert page.slider() == 100 and border() > 0.98
    page.drag(page.middle("#slider"), (5, middle[1]))  # beyond the picture
    assert page.slider() == 0


def test_digits_choose_the_methods(browse, colors):
    page = browse(colors, size=(640, 500))
    x, y, width, _ = page.rectangle(".layer img")
    for digit, method in enumerate(METHODS, 1):
        page.press(str(digit))
        assert page.chosen() == ["bicubic", METHODS[method]]
        assert page.color_at(x + width - 3, y + 3) == COLORS[method]
        page.press("2", *["4"] * (method == "bicubic"))
    for digit, method in enumerate(METHODS, 1):
        page.press(str(digit), shift=True)
        assert page.chosen() == [METHODS[method], "bicubic"]
        assert page.color_at(x + 3, y + 3) == COLORS[method]
        assert page.color_at(x + width - 3, y + 3) == COLORS["bicubic"]
    page.press("9")  # there is no ninth
    assert page.chosen() == ["original", "bicubic"]
    page.click("#left button", "1 LR")
    page.click("#right button", "6 original")
    assert page.chosen() == ["LR", "original"]
    assert page.color_at(x + 3, y + 3) == COLORS["lr"] and page.color_at(x + width - 3, y + 3) == COLORS["hr"]


def test_zero_is_the_tenth_of_many_methods(browse, tmp_path):
    methods = {"lr": "LR", **{f"blend_{i}": f"blend {i}" for i in range(9)}, "back_projected": "back-projected",
               "hr": "original"}
    pictures = dict(zip(methods, [*plain(64, 48).values()] * 2, strict=False)) | {"hr": plain(64, 48)["hr"]}
    page = browse(build(tmp_path / "page", {"a": {**pictures, "lr": plain(64, 48)["lr"]}}, methods), size=(900, 700))
    assert page.chosen() == ["LR", "back-projected"]
    page.press("0")
    assert page.chosen() == ["LR", "blend 8"] and page.texts(".captions small")[1].startswith("between SRResNet")
    page.press("3")
    assert page.chosen() == ["LR", "blend 1"] and page.texts(".captions small")[1].startswith("between SRResNet")
    x, _, width, _ = page.rectangle("#right [aria-pressed=true]")
    assert x >= 0 and x + width <= 900


def test_captions_name_what_is_seen_with_its_scores(browse, colors):
    page = browse(colors)
    scores = read_page(colors)["images"][0]["metrics"]
    assert page.texts(".captions b") == ["bicubic", "SRGAN"]
    assert page.texts(".captions span") == [f"{scores[method]['psnr']:.2f} dB / {scores[method]['ssim']:.4f}"
                                            for method in ("bicubic", "srgan")]
    assert "interpolation" in page.texts(".captions small")[0] and "network" in page.texts(".captions small")[1]
    page.press("6")
    assert page.texts(".captions b")[1] == "original" and page.texts(".captions span")[1] == ""


def test_a_transparent_picture_does_not_show_the_other_one(browse, tmp_path):
    build(tmp_path / "page", {"a": plain(320, 240)})
    Image.new("RGBA", (320, 240)).save(tmp_path / "page" / "a_bicubic.png")
    page = browse(tmp_path / "page")
    x, y, width, _ = page.rectangle(".layer img")
    stage = page.rectangle("#stage")
    assert page.color_at(x + 3, y + 3) == page.color_at(stage[0] + 3, stage[1] + 3)
    page.press("2")
    assert page.color_at(x + width - 3, y + 3) == page.color_at(stage[0] + 3, stage[1] + 3)


# -------------------------------------------------------------------------------------------------------------- zoom


@pytest.mark.parametrize("density", [1, 1.25, 1.5, 2])
def test_zoom_shows_the_pixels_of_the_file_on_whole_pixels_of_the_screen(browse, noisy, density):
    page = browse(noisy, size=(400, 450), density=density)
    lr, hr = (np.asarray(Image.open(noisy / f"a_{method}.png")).astype(int) for method in ("lr", "srgan"))
    pictures = {"1": lr.repeat(4, 0).repeat(4, 1), "2": hr, "3": hr}
    for zoom, digits in ((1, "23"), (2, "23"), (2, "21"), (4, "12"), (8, "23")):
        page.zoom(zoom)
        page.press(digits[0], shift=True)
        page.press(digits[1])
        (_, y, width, height), (left, top, _, _) = page.rectangle("#stage"), page.rectangle("#stage img")
        seen = page.screenshot()
        rows = np.arange(round((y + 0.1 * height) * density), round((y + 0.3 * height) * density))

        def equal(dy, dx, zoom=zoom, digits=digits, rows=rows, seen=seen, top=top, left=left, width=width):
            for digit, begin in zip(digits, (0.1, 0.6), strict=True):
                columns = np.arange(round(begin * width * density), round((begin + 0.3) * width * density))
                of_picture = np.ix_((rows - round(top * density) + dy) // zoom,
                                    (columns - round(left * density) + dx) // zoom)
                if not (seen[np.ix_(rows, columns)] == pictures[digit][of_picture]).all():
                    return False
            return True

        # A stage that begins within a device pixel may be drawn a pixel away from where the browser says it is.
        assert any(equal(dy, dx) for dy in (0, -1, 1) for dx in (0, -1, 1)), (zoom, digits)


def test_fit_shows_all_of_a_picture(browse, noisy, colors):
    for where, size in ((noisy, (900, 700)), (noisy, (360, 640)), (colors, (1280, 800)), (colors, (360, 640))):
        page = browse(where, size=size)
        (x, y, width, height), (left, top, w, h) = page.rectangle("#stage"), page.rectangle("#stage img")
        assert x - 1 <= left and y - 1 <= top and left + w <= x + width + 1 and top + h <= y + height + 1
        assert w > 0.7 * width or h > 0.7 * height
        assert w / h == pytest.approx(4 / 3, abs=0.01)


def test_what_is_seen_stays(browse, noisy):
    page = browse(noisy, size=(900, 700))
    page.press("+", "+")
    x, y, width, height = page.rectangle("#stage")
    point = x + 0.9 * width, y + 0.4 * height  # away from the slider
    page.drag(point, (point[0] - 300, point[1] - 100))
    before = page.pixel_at(point)
    page.press("2")
    assert page.pixel_at(point) == before
    page.press("arrow_down")
    assert page.name() == "b" and page.pixel_at(point) == before
    page.wheel(point, -100)
    assert page.zoomed() == 4
    assert page.pixel_at(point) == pytest.approx(before, abs=2)
    page.wheel(point, 100)
    assert page.pixel_at(point) == pytest.approx(before, abs=2)
    middle = page.middle("#stage")
    before = page.pixel_at(middle)
    page.zoom(8)
    assert page.pixel_at(middle) == pytest.approx(before, abs=1)
    page.press("-", "-", "-")
    assert page.zoomed() == 1


def test_dragging_pans_up_to_the_border(browse, noisy):
    page = browse(noisy, size=(900, 700))
    page.zoom(2)
    x, y, width, height = page.rectangle("#stage")
    point = x + 0.8 * width, y + 0.5 * height
    before = page.pixel_at(point)
    page.drag(point, (point[0] - 100, point[1] + 60))
    after = page.pixel_at(point)
    assert (after[0] - before[0], after[1] - before[1]) == pytest.approx((50, -30), abs=0.6) and page.slider() == 50
    page.press("arrow_left", "arrow_up", shift=True)
    moved = page.pixel_at(point)
    assert moved[0] < after[0] and moved[1] < after[1] and page.name() == "a"
    for _ in range(5):
        page.drag((x + 10, y + 10), (x + 0.9 * width, y + 0.9 * height))
    assert page.pixel_at((x, y)) == pytest.approx((0, 0), abs=0.5)
    slider = page.middle("#slider")
    page.drag(slider, (slider[0] - 200, slider[1]))  # the slider is still to be had
    assert page.slider() == pytest.approx(100 * (0.5 - 200 / width), abs=1)
    assert page.pixel_at((x, y)) == pytest.approx((0, 0), abs=0.5)


def test_touch_slides_pans_and_pinches(browse, noisy):
    page = browse(noisy, size=(360, 640), density=2, touch=True)
    x, _, width, _ = page.rectangle("#stage")
    left, _, shown, _ = page.rectangle("#stage img")
    middle = page.middle("#slider")
    page.touch([middle, (middle[0] - 30, middle[1]), (left + 0.25 * shown, middle[1])])
    assert page.slider() == 25
    cx, cy = page.middle("#stage")
    before = page.pixel_at((cx, cy))
    page.zoom(1)
    page.touch([(cx - by, cy) for by in range(20, 40, 4)], [(cx + by, cy) for by in range(20, 40, 4)])
    assert page.zoomed() == 2 and page.pixel_at((cx, cy)) == pytest.approx(before, abs=15)
    point = x + 0.7 * width, cy
    before = page.pixel_at(point)
    page.touch([point, (point[0] - 20, point[1]), (point[0] - 60, point[1] + 40)])
    assert page.pixel_at((point[0] - 60, point[1] + 40)) == pytest.approx(before, abs=1)
    assert page.slider() == 25
    page.touch([(cx - by, cy) for by in range(60, 34, -4)], [(cx + by, cy) for by in range(60, 34, -4)])
    assert page.zoomed() == 1
    page.find("#next").click()
    assert page.name() == "b"


# ------------------------------------------------------------------------------------------------- images and scores


def test_images_are_opened_by_keys_buttons_and_thumbnails(browse, colors):
    page = browse(colors)
    page.press("arrow_down", "page_down", "arrow_up", "arrow_down")
    assert page.name() == "c" and page.find("#place").text.startswith("3 of 5")
    page.click("#next")
    page.click("#next")
    assert page.name() == "e" and not page.find("#next").is_enabled()
    page.press("arrow_down")
    assert page.name() == "e"
    page.click("#strip button", "b")
    assert page.name() == "b" and page.texts("#strip [aria-current=true]") == ["b"]
    assert page.run("return [...document.querySelectorAll('#stage img')].map(i => i.alt)") == ["b, bicubic", "b, SRGAN"]


def test_scores_are_sorted_so_that_best_and_worst_are_found(browse, colors):
    content = read_page(colors)
    page = browse(colors)
    page.click("#table")
    assert page.texts("tbody th") == list("abcde")
    assert page.texts(".mean td") == [text for row in content["mean"].values()
                                      for text in (f"{row['psnr']:.2f}", f"{row['ssim']:.4f}")]
    psnr = {image["name"]: image["metrics"]["srgan"]["psnr"] for image in content["images"]}
    best = sorted(psnr, key=psnr.get, reverse=True)
    head = "thead [data-sort='srgan|psnr']"
    page.click(f"{head} button")
    assert page.texts("tbody th") == best and page.find(head).get_attribute("aria-sort") == "descending"
    assert page.texts("#strip span") == [f"{psnr[name]:.2f}" for name in best]
    page.click(f"{head} button")
    assert page.texts("tbody th") == best[::-1] and page.find(head).get_attribute("aria-sort") == "ascending"
    page.click("tbody button", best[-1])
    assert page.name() == best[-1] and page.texts("tr[aria-current=true] th") == [best[-1]]
    page.press("arrow_down")  # from the worst on
    assert page.name() == best[-2]
    page.click(f"{head} button")
    assert page.texts("tbody th") == list("abcde") and page.texts("#strip span") == list("abcde")


def test_on_a_phone_a_row_leads_from_the_scores_to_the_image(browse, colors):
    page = browse(colors, size=(360, 640), touch=True)
    page.click("#table")
    page.find("tbody tr:nth-child(3)").click()
    page.settle()
    assert page.name() == "c" and not page.find("#scores").is_displayed()


def test_scores_of_five_methods_are_seen_at_once_and_the_note_below_is_never_cut(browse, tmp_path):
    methods = {"bicubic": "bicubic", "srresnet": "SRResNet", "srgan": "SRGAN", "pretrained": "pre-trained SRGAN",
               "back_projected": "back-projected"}
    pictures = dict(zip(methods, plain(64, 48, list(METHODS)[1:]).values(), strict=True))
    content = read_page(build(tmp_path / "page", {"photo_0001": pictures}, methods))
    content["metrics"].append({"id": "lr_psnr", "title": "LR-PSNR", "digits": 2, "higher_is_better": True})
    for scores in (*content["images"][0]["metrics"].values(), *content["mean"].values()):
        scores["lr_psnr"] = 42.3
    write_page(tmp_path / "page", content)
    for size in ((1280, 800), (360, 640)):
        page = browse(tmp_path / "page", size=size)
        page.click("#table")
        (_, _, table, _), (left, _, note, _) = page.rectangle("#scores table"), page.rectangle("#scores p")
        assert left >= 0 and left + note <= size[0] and "LR-PSNR (in dB)" in page.find("#scores p").text
        assert (table <= page.rectangle("#scores")[2]) == (size[0] == 1280)


def test_undefined_scores_are_dashes_and_missing_ones_sort_last(browse, tmp_path):
    folder = build(tmp_path / "page", {name: plain(64, 48) for name in "abc"})
    content = read_page(folder)
    content["images"][1]["metrics"]["srgan"] = {"psnr": 100, "ssim": None}
    content["mean"]["srgan"]["ssim"] = None
    del content["images"][0]["metrics"]["srgan"], content["images"][0]["pictures"]["srgan"]
    write_page(folder, content)
    page = browse(folder)
    assert page.chosen() == ["bicubic", "SRResNet"]  # the last result that there is
    assert not page.find("#right button:nth-child(5)").is_enabled()
    page.press("5")
    assert page.chosen() == ["bicubic", "SRResNet"]
    page.click("#table")
    for order in ("bca", "cba"):
        page.click("thead [data-sort='srgan|psnr'] button")
        assert "".join(page.texts("tbody th")) == order
    page.click("thead [data-sort='srgan|psnr'] button")
    assert page.texts("tbody tr:nth-child(2) td")[-2:] == ["100.00", "\u2013"]
    assert page.texts("thead .mean td")[-1] == "\u2013"
    assert page.texts("tbody tr:first-child td")[-2:] == ["\u2013", "\u2013"]
    page.press("arrow_down")
    assert page.chosen() == ["bicubic", "SRGAN"] and page.texts(".captions span")[1] == "100.00 dB / \u2013"


def test_of_a_metric_whose_low_values_are_good_the_lowest_is_the_best(browse, tmp_path):
    content = read_page(build(tmp_path / "page", {name: plain(64, 48) for name in "abc"}))
    content["metrics"] = [{"id": "psnr", "title": "NIQE", "unit": "", "digits": 1, "higher_is_better": False,
                           "shown": True}]
    write_page(tmp_path / "page", content)
    page = browse(tmp_path / "page")
    scores = [image["metrics"]["srgan"]["psnr"] for image in content["images"]]
    page.click("#table")
    page.click("thead [data-sort='srgan|psnr'] button")
    assert page.texts("thead .heads button")[-1] == "NIQE"
    assert page.texts("#strip span") == [f"{score:.1f}" for score in sorted(scores)]
    best = [min(values["psnr"] for values in image["metrics"].values()) for image in content["images"]]
    assert page.texts("tbody .best") == [f"{best['abc'.index(name)]:.1f}" for name in page.texts("tbody th")]


def test_restored_photos_have_no_scores(browse, tmp_path):
    methods = {"lr": "LR", "bicubic": "bicubic", "result": "SRGAN"}
    pictures = {**plain(64, 48, ("lr", "bicubic")), "result": plain(64, 48)["srgan"]}
    page = browse(build(tmp_path / "page", {"photo": pictures}, methods, mode="restore"))
    assert page.chosen() == ["bicubic", "SRGAN"] and not page.find("#table").is_displayed()
    assert page.texts(".captions span") == ["", ""]
    for selector in ("#strip", "#previous", "#next"):
        assert not page.find(selector).is_displayed()  # there is a single photo
    assert "↑ ↓" not in page.texts("#keys kbd") and "← →" in page.texts("#keys kbd")


def test_the_page_opens_on_what_was_asked_for(browse, tmp_path):
    folder = build(tmp_path / "page", {name: plain(64, 48) for name in "ab"})
    content = read_page(folder)
    content["first"], content["images"][1]["result"] = "b", "lanczos"
    write_page(folder, content)
    page = browse(folder)
    assert page.name() == "b" and page.chosen() == ["bicubic", "Lanczos"]
    assert browse(folder, "image=a").name() == "a"


def test_where_a_picture_is_reduced_1_to_1_is_suggested_until_the_zoom_is_used(browse, noisy):
    page = browse(noisy, size=(700, 500))
    assert "1:1 shows" in page.find("#message").text
    page.zoom(1)
    assert not page.find("#message").is_displayed()
    page.press("arrow_down")
    assert not page.find("#message").is_displayed()


@pytest.fixture
def served(tmp_path):
    """Serve a folder; gives its URL and the paths that were asked for."""
    servers = []

    def serve(folder):
        asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                asked.append(unquote(self.path).lstrip("/"))

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/", asked

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_of_a_hundred_images_only_those_looked_at_are_loaded(browse, served, tmp_path):
    folder = build(tmp_path / "page", {f"{i:03}": plain(48, 48) for i in range(100)})
    url, asked = served(folder)
    page = browse(url)
    full = lambda: [path for path in asked if path.endswith(".png")]  # noqa: E731
    page.wait(lambda: len(full()) == 4)
    assert set(full()) == {f"{name}_{method}.png" for name in ("000", "001") for method in ("bicubic", "srgan")}
    assert 5 < len([path for path in asked if path.endswith(".jpg")]) < 60
    page.press("arrow_down", "arrow_down", "arrow_down")
    page.wait(lambda: len(full()) == 10)
    page.press("4")
    page.wait(lambda: len(full()) == 12)  # of this image and of the next
    page.click("#strip button", "099")
    assert page.name() == "099"
    x, _, width, _ = page.rectangle("#strip [aria-current=true]")
    assert x >= 0 and x + width <= 1280
    page.wait(lambda: "thumbnails/099.jpg" in asked)
    assert len(full()) == len(set(full())) == 14
    assert page.run("return [loaded.size, document.querySelectorAll('#stage img').length]") == [2, 2]


@pytest.mark.parametrize("name", ["two words", "100%25 #1?&a=b", "quote\"'quote", "зебра ёж", "<script>window.hit=1<",
                                  "<b>a+b;c", "back\\slash", "long " * 40])
def test_odd_file_names(browse, tmp_path, name):
    folder = build(tmp_path / "page", {"first": plain(64, 48), name: plain(64, 48)})
    page = browse(folder, size=(360, 640))
    page.press("arrow_down")
    assert page.run("return document.querySelector('#name').textContent") == name
    assert page.run("return document.body.scrollWidth") == 360
    x, y, width, _ = page.rectangle(".layer img")
    assert page.color_at(x + 2, y + 2) == COLORS["bicubic"] and page.color_at(x + width - 2, y + 2) == COLORS["srgan"]
    assert page.run("return window.hit") is None and page.run("return document.querySelectorAll('b').length") == 2
    assert page.run("return [...document.querySelectorAll('#strip img')].every(i => i.complete && i.naturalWidth > 0)")
    page.driver.refresh()
    page.settle()
    assert page.run("return document.querySelector('#name').textContent") == name


def test_a_missing_picture_is_named_and_the_others_work(browse, tmp_path):
    folder = build(tmp_path / "page", {name: plain(64, 48) for name in ("a b", "c")})
    (folder / "a b_srgan.png").write_bytes(b"no picture")
    page = browse(folder)
    assert "a b_srgan.png can't be shown" in page.find("#message").text
    page.press("4")
    assert page.chosen() == ["bicubic", "SRResNet"] and not page.find("#message").is_displayed()
    page.press("arrow_down")
    assert page.name() == "c" and not page.find("#message").is_displayed()


# ------------------------------------------------------------------------------------------------------ state and looks


def test_reload_and_back(browse, noisy):
    page = browse(noisy)
    page.press("1", "+", "+", "arrow_left", "arrow_down")
    page.press("arrow_right", shift=True)
    page.click("thead [data-sort='srgan|psnr'] button")
    page.settle()
    time.sleep(0.2)  # the address is written a moment later
    state = "return JSON.stringify(state)"
    before = json.loads(page.run(state))
    page.driver.refresh()
    page.settle()
    after = json.loads(page.run(state))
    for coordinate in "xy":
        assert after.pop(coordinate) == pytest.approx(before.pop(coordinate), abs=1e-3)
    assert after == before
    assert page.name() == "b" and page.chosen() == ["bicubic", "LR"] and page.slider() == 48
    page.driver.back()
    page.wait(lambda: page.name() == "a")
    page.settle()
    assert page.chosen() == ["bicubic", "LR"] and page.slider() == 48
    page.driver.forward()
    page.wait(lambda: page.name() == "b")


def test_an_address_that_makes_no_sense_is_forgiven(browse, colors):
    page = browse(colors, "image=none&left=srgan&right=%3Cb%3E&zoom=3&x=NaN&slider=7&sort=a|b|c")
    assert page.name() == "a" and page.chosen() == ["SRGAN", "SRGAN"] and page.slider() == 100


@pytest.mark.parametrize("language", ["en", "ru"])
@pytest.mark.parametrize("size", [(360, 640), (640, 360), (1280, 800), (2560, 1440)])
def test_everything_is_within_the_window(browse, colors, size, language):
    page = browse(colors, size=size, language=language, touch=min(size) == 360)
    outside = """return [...document.querySelectorAll('body *')]
        .filter(e => !e.closest('.methods, #strip, #scores, svg, dialog *'))
        .filter(e => { const r = e.getBoundingClientRect();
                       return r.left < -1 || r.top < -1 || r.right > innerWidth + 1 || r.bottom > innerHeight + 1; })
        .map(e => e.outerHTML.slice(0, 80))"""
    assert page.run(outside) == []
    assert page.run("return [document.documentElement.scrollWidth, innerWidth]") == [size[0], size[0]]
    _, _, width, height = page.rectangle("#stage")
    assert height > 0.35 * size[1] and (width == size[0] or size[0] > 2000)
    if size[0] < 2000:
        page.click("#table")
    assert page.find("tbody tr").is_displayed() and page.run(outside) == []
    page.click("#table")
    page.click("#help")
    assert page.find("dialog").is_displayed() and page.run(outside) == []
    assert len(page.find("dialog").text) > 300 and page.run("return document.querySelector('dialog').scrollTop") == 0
    page.press("escape")
    assert not page.find("dialog").is_displayed()


def test_language_is_the_browsers_and_can_be_changed(browse, colors):
    page = browse(colors, language="fr-FR,ru;q=0.9")
    assert page.run("return document.documentElement.lang") == "ru" and page.find("#table").text == "Оценки"
    assert page.chosen() == ["бикубический", "SRGAN"] and page.texts(".captions span")[0].startswith("23,00 дБ")
    assert page.run("return [TEXTS, NOTES].every(texts => Object.values(texts)"
                    ".every(text => text.length === 2 && text[0] && text[1]))")
    page.click("#language")
    assert page.find("#table").text == "Scores" and page.texts(".captions span")[0].startswith("23.00 dB")
    assert page.chosen() == ["bicubic", "SRGAN"]
    page.driver.refresh()
    page.settle()
    assert page.find("#table").text == "Scores"
    page.click("#language")
    page.run("localStorage.clear()")
    assert browse(colors, language="de-DE").find("#table").text == "Scores"


@pytest.mark.parametrize("dark", [False, True])
def test_texts_have_contrast_and_controls_have_names(browse, colors, dark):
    page = browse(colors, dark=dark)

    def luminance(name):
        script = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])"
        color = page.run(script, f"--{name}").strip()
        value = np.array([int(color[i:i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)  # WCAG 2.2, relative luminance

    for text, back in (("ink", "page"), ("muted", "page"), ("ink", "hover"), ("muted", "hover"), ("focus", "page")):
        bright, dim = sorted((luminance(text), luminance(back)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (text, back)
    assert luminance("page") < 0.05 if dark else luminance("page") > 0.8
    names = page.run("return [...document.querySelectorAll('button, [role]')].filter(e => e.offsetParent)"
                     ".map(e => e.getAttribute('aria-label') ?? e.textContent.trim())")
    assert all(names)
    slider = page.find("#slider")
    assert (slider.aria_role, slider.get_attribute("aria-valuetext")) == ("slider", "bicubic 50%, SRGAN 50%")


def test_the_template_itself_says_how_results_are_made(browse):
    page = browse(TEMPLATE.as_uri())
    assert "--mode=evaluate" in page.find("body").text


# ------------------------------------------------------------------------------------------- what evaluation writes


def test_a_page_of_scores_as_evaluation_writes_it(browse, tmp_path):
    names = ["plain", "a #1? 100%", os.fsdecode(b"latin-\xe9"), "<b>'\""]
    suffixes = results.picture_suffixes(["srresnet", "srgan"])
    methods = [method for method in suffixes if method not in ("lr", "hr")]
    rows = [{"name": name, **{method: {"psnr": 20.0 + i, "ssim": 0.5, "lr_psnr": 30.0, "niqe": None}
                              for method in methods}}
            for i, name in enumerate(names)]
    for name in names:
        for method, picture in plain(64, 48).items():
            Image.fromarray(picture).save(tmp_path / f"{name}_{suffixes[method]}.png")
        results.write_thumbnail(OutputFolder(tmp_path), name, plain(64, 48)["hr"])
    mean = {method: rows[0][method] for method in methods}
    results.write_scored_page(OutputFolder(tmp_path), mean, rows, [(48, 64)] * len(names), suffixes, 4)
    page = browse(tmp_path)
    x, y, width, _ = page.rectangle(".layer img")
    for _ in names:
        assert page.color_at(x + 2, y + 2) == COLORS["bicubic"]
        assert page.color_at(x + width - 2, y + 2) == COLORS["srgan"]
        page.press("arrow_down")
    assert page.run("return [...document.querySelectorAll('#strip img')].every(i => i.complete && i.naturalWidth > 0)")
    page.click("#table")
    assert page.texts("thead tr:nth-child(2) th")[:4] == ["PSNR", "SSIM", "LR-PSNR", "NIQE"]
    assert page.texts("tbody tr:first-child td")[-4:] == ["20.00", "0.5000", "30.00", "\u2013"]


def test_a_page_of_restored_photos_as_evaluation_writes_it(browse, tmp_path):
    entries = []
    for name in ("photo", "trip/100%"):
        target = tmp_path / f"{name}_gen.png"
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(plain(64, 48)["srgan"]).save(target)
        results.write_bicubic(OutputFolder(tmp_path), tmp_path / name, plain(64, 48)["lr"], 48, 64)
        entry = results.page_entry(tmp_path, tmp_path / name, 48, 64)
        entry["pictures"]["pretrained"] = results.page_url(tmp_path, target)
        entries.append(entry)
    results.write_restored_page(OutputFolder(tmp_path), entries)
    page = browse(tmp_path)
    page.press("arrow_down")
    assert page.name() == "trip/100%" and page.chosen() == ["bicubic", "pre-trained SRGAN"]
    x, y, width, _ = page.rectangle(".layer img")
    np.testing.assert_allclose(page.color_at(x + 2, y + 2), COLORS["lr"], atol=6)  # a JPEG
    assert page.color_at(x + width - 2, y + 2) == COLORS["srgan"]
    assert "published weights" in page.texts(".captions small")[1]
