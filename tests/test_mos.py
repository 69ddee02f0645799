"""Building a MOS study: that nothing tells the method, and that its page works in a browser."""
import functools
import http.server
import io
import itertools
import json
import re
import shutil
import threading
import time
from unittest import mock

import utils

import numpy as np
import pytest
import skimage.data
from easydict import EasyDict
from PIL import Image

from files import images
from study import mos, ratings

METHODS = ("nearest", "bicubic", "lanczos", "srresnet", "srgan", "hr")


def crops(n, height, width):
    photo = skimage.data.astronaut()
    return {f"photo{i}": photo[40 * i:40 * i + height, 30 * i:30 * i + width] for i in range(n)}


def evaluate(folder, originals, generators=("srresnet", "srgan")):
    """Write what --mode=evaluate writes; a generator's picture is bicubic plus its own noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, hr in originals.items():
        height, width = hr.shape[:2]
        lr = images.resize(hr, height // 4, width // 4)
        bicubic = images.resize(lr, height, width)
        pictures = {"hr": hr, "lr": lr, "bicubic": bicubic}
        for i, generator in enumerate(generators, 1):
            noise = np.random.default_rng(i).integers(0, 9, hr.shape)
            pictures[generator] = np.clip(bicubic + noise, 0, 255).astype(np.uint8)
        suffixes = {kind: kind for kind in pictures} | {generators[-1]: "gen"}
        for kind, picture in pictures.items():
            Image.fromarray(picture).save(folder / f"{name}_{suffixes[kind]}.png")
    metrics = {method: {"psnr": 30.0, "ssim": 0.9} for method in ("bicubic", "lanczos", *generators)}
    rows = [{"name": name, **metrics} for name in originals]
    (folder / "metrics.json").write_text(json.dumps({"mean": metrics, "images": rows, "suffixes": suffixes}))


def settings(folder, **changes):
    defaults = {"path": str(folder / "mos"), "sets": {}, "methods": {}, "calibration_path": "", "n_calibration": 20,
                "repeat": 0.1}
    return EasyDict(TRAIN={"sample_path": f"{folder}/", "seed": 0},
                    MOS={**defaults, **changes})


def key_of(config):
    return json.loads((mos.Path(config.MOS.path) / "key.json").read_text())


def page_of(config):
    return (mos.Path(config.MOS.path) / "study" / "index.html").read_text(encoding="utf-8")


def study_of(config):
    return json.loads(re.search(r'<script id="study" type="application/json">(.*?)</script>', page_of(config))[1])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    evaluate(folder / "evaluate", crops(5, 96, 120))
    return folder


@pytest.fixture(scope="module")
def built(evaluated):
    config = settings(evaluated)
    mos.build(config)
    return config


# ------------------------------------------------------------------------------------------------- making a study


def test_every_version_is_rated_once_and_a_tenth_of_them_twice(built):
    key, study = key_of(built), study_of(built)
    versions = [tuple(v.values()) for v in key["pictures"].values()]
    assert len(versions) == len(set(versions)) == 4 * 6  # one of the five images is for the calibration
    assert {method for _, _, method in versions} == set(METHODS) and key["methods"] == list(METHODS)
    assert len(key["repeats"]) == 2 and set(key["repeats"].values()) < set(key["pictures"])
    assert {name for name, _ in study["pictures"]} == set(key["pictures"]) | set(key["repeats"])
    assert study["id"] == key["study"]
    files = {file.stem for file in (mos.Path(built.MOS.path) / "study" / "pictures").iterdir()}
    assert files == set(key["pictures"]) | set(key["repeats"]) | set(key["calibration"])


def test_pictures_match_the_key(built, evaluated):
    key, folder = key_of(built), mos.Path(built.MOS.path) / "study" / "pictures"
    for name, version in {**key["pictures"], **key["calibration"]}.items():
        shown = np.asarray(Image.open(folder / f"{name}.png"))
        image, method = version["image"], version["method"]
        if method in ("nearest", "lanczos"):
            lr = images.read_image(evaluated / "evaluate" / f"{image}_lr.png")
            expected = lr.repeat(4, 0).repeat(4, 1) if method == "nearest" else images.resize(lr, 96, 120, "lanczos3")
        else:
            suffix = "gen" if method == "srgan" else method
            expected = images.read_image(evaluated / "evaluate" / f"{image}_{suffix}.png")
        np.testing.assert_array_equal(shown, expected)
    for repeat, name in key["repeats"].items():
        assert (folder / f"{repeat}.png").read_bytes() == (folder / f"{name}.png").read_bytes()


def test_calibration_shows_nearest_as_1_and_hr_as_5_of_an_image_that_is_not_rated(built):
    key, study = key_of(built), study_of(built)
    (one, five), = study["calibration"]
    assert (key["calibration"][one]["method"], key["calibration"][five]["method"]) == ("nearest", "hr")
    assert key["calibration"][one]["image"] == key["calibration"][five]["image"]
    assert key["calibration"][one]["image"] not in {v["image"] for v in key["pictures"].values()}


def test_nothing_in_the_study_tells_the_method(built):
    study, page, data = mos.Path(built.MOS.path) / "study", page_of(built), study_of(built)
    secret = r"\b(nearest|bicubic|lanczos|srresnet|srgan|hr|lr|gen|photo\d|evaluate)\b"
    assert not re.search(secret, page, re.IGNORECASE)
    names = [name for name, _ in data["pictures"]]
    assert names == sorted(names) and all(re.fullmatch("[0-9a-f]{12}", name) for name in names)
    assert data["calibration"] == sorted(data["calibration"])
    assert sorted(file.name for file in study.rglob("*")) == sorted(
        ["index.html", "pictures", *(f"{name}.png" for name in [*names, *itertools.chain(*data["calibration"])])])
    assert len({file.stat().st_mtime_ns for file in [study, *study.rglob("*")]}) == 1
    sizes = set()
    for file in study.glob("pictures/*.png"):
        content = file.read_bytes()
        sizes.add(len(content))
        chunks, position = [], 8
        while position < len(content):
            length = int.from_bytes(content[position:position + 4], "big")
            chunks.append(content[position + 4:position + 8])
            position += 12 + length
        assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}
        assert Image.open(file).mode == "RGB" and Image.open(file).size == (120, 96)
    assert len(sizes) == 1
    assert not list(study.rglob("*key*")) and (study.parent / "key.json").exists()


def test_building_on_the_command_line_prints_nothing_of_tensorflow(evaluated, tmp_path, call):
    done = call(tmp_path, "--mode=mos", "--set", f"TRAIN.sample_path={evaluated}/", f"MOS.path={tmp_path}/mos/")
    assert done.returncode == 0 and done.stdout.startswith("evaluate: 5 images, 6 versions each: nearest, ")
    assert {line.split(":")[0] for line in done.stderr.replace("\r", "\n").splitlines()} <= {"", "Picture"}


def test_names_and_order_differ_from_study_to_study(evaluated, tmp_path):
    pictures = []
    for i in range(2):
        config = settings(evaluated, path=str(tmp_path / str(i)))
        mos.build(config)
        pictures.append(set(key_of(config)["pictures"]))
    assert not pictures[0] & pictures[1]


def test_three_sets_with_results_of_another_program(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(utils, "progress", mock.MagicMock())
    sets = {"Set5": crops(5, 48, 64), "Set14": crops(6, 64, 48), "BSD100": crops(11, 48, 48)}
    for name, crops_of_set in sets.items():
        evaluate(tmp_path / name, crops_of_set, generators=("srgan",) if name == "Set5" else ("srresnet", "srgan"))
    for name in ("Set5", "Set14"):  # a folder for each set, BSD100 not rated
        (tmp_path / "other" / name).mkdir(parents=True)
        for image, hr in sets[name].items():
            Image.fromarray(hr).save(tmp_path / "other" / name / f"{image}_x4.bmp")
    folders = {name: str(tmp_path / name) for name in sets}
    config = settings(tmp_path, sets=folders, methods={"bicubic++": str(tmp_path / "other")})
    mos.build(config)
    key = key_of(config)
    assert key["methods"] == ["nearest", "bicubic", "lanczos", "bicubic++", "srresnet", "srgan", "hr"]
    versions = {name: {v["method"] for v in key["pictures"].values() if v["set"] == name} for name in sets}
    assert {name: len(methods) for name, methods in versions.items()} == {"Set5": 6, "Set14": 7, "BSD100": 6}
    assert "bicubic++" not in versions["BSD100"]
    summary = "BSD100: 11 images, 6 versions each: nearest, bicubic, lanczos, srresnet, srgan, hr "
    assert f"{summary}(no pictures of bicubic++)" in capsys.readouterr().out
    assert len(key["calibration"]) == 2 * 4  # a fifth of the images, those of the largest set
    assert {v["set"] for v in key["calibration"].values()} == {"BSD100"}
    repeated = [key["pictures"][name]["method"] for name in key["repeats"].values()]
    assert max(map(repeated.count, repeated)) - min(map(repeated.count, key["methods"])) <= 1


def test_calibration_on_separate_photos(evaluated, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        Image.fromarray(skimage.data.astronaut()[:50 + i, 100:170]).save(photos / f"{i}.jpg")
    config = settings(evaluated, path=str(tmp_path / "mos"), calibration_path=str(photos), n_calibration=2)
    mos.build(config)
    key = key_of(config)
    assert len(key["pictures"]) == 5 * 6 and len(key["calibration"]) == 2 * 2
    one, five = study_of(config)["calibration"][0]
    shown = [np.asarray(Image.open(tmp_path / "mos" / "study" / "pictures" / f"{name}.png")) for name in (one, five)]
    assert shown[0].shape == shown[1].shape and shown[0].shape[0] % 4 == 0
    assert (shown[0][::4].repeat(4, 0) == shown[0]).all() and not (shown[1][::4].repeat(4, 0) == shown[1]).all()


def test_without_calibration(evaluated, tmp_path):
    config = settings(evaluated, path=str(tmp_path), n_calibration=0, repeat=0.0)
    mos.build(config)
    assert study_of(config)["calibration"] == [] and len(study_of(config)["pictures"]) == 5 * 6


def error_of(config, **options):
    with pytest.raises(utils.UserError) as error:
        mos.build(config, **options)
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


def test_missing_damaged_and_mismatched_pictures_are_named(tmp_path):
    folder = tmp_path / "evaluate"
    assert "run --mode=evaluate" in error_of(settings(tmp_path))
    evaluate(folder, crops(4, 48, 64))
    (folder / "photo1_gen.png").unlink()
    (folder / "photo2_lr.png").unlink()
    assert all(name in error_of(settings(tmp_path)) for name in ("photo1_gen.png", "photo2_lr.png"))
    evaluate(folder, crops(4, 48, 64))
    Image.new("RGB", (64, 44)).save(folder / "photo3_srresnet.png")
    assert "photo3_srresnet.png (64x44, HR 64x48)" in error_of(settings(tmp_path))
    (folder / "photo3_srresnet.png").write_bytes(b"no picture")
    assert "photo3_srresnet.png can't be read" in error_of(settings(tmp_path))
    (folder / "metrics.json").write_text('{"mean": {}}')
    assert "metrics.json can't be read or is of an earlier version" in error_of(settings(tmp_path))
    assert not (tmp_path / "mos").exists()


def test_unusable_results_of_other_programs_are_named(evaluated, tmp_path):
    other = tmp_path / "other"
    with_other = functools.partial(settings, evaluated, path=str(tmp_path / "mos"))
    assert "does not exist" in error_of(with_other(methods={"A": str(other)}))
    other.mkdir()
    assert "has no picture" in error_of(with_other(methods={"A": str(other)}))
    for i in range(4):
        Image.new("RGB", (120, 96)).save(other / f"photo{i}_A.png")
    assert "photo4.png" in error_of(with_other(methods={"A": str(other)}))
    Image.new("RGB", (120, 96)).save(other / "photo4_A.png")
    Image.new("RGB", (120, 96)).save(other / "photo4_B.png")
    assert "photo4_A.png" in error_of(with_other(methods={"A": str(other)}))
    assert "are called srgan" in error_of(with_other(methods={"srgan": str(other)}))


def test_too_few_images_are_an_error(tmp_path):
    evaluate(tmp_path / "evaluate", crops(2, 48, 48))
    assert "too few images to rate (1): one would be shown twice in a row; " in error_of(settings(tmp_path))
    mos.build(settings(tmp_path, n_calibration=0))


def test_a_study_is_moved_aside_rather_than_overwritten(evaluated, tmp_path):
    config = settings(evaluated, path=str(tmp_path / "mos"))
    mos.build(config)
    key = key_of(config)
    assert "--restart" in error_of(config)
    assert key_of(config) == key
    mine = [tmp_path / "mos" / name for name in ("ratings/anna.json", "study/notes.txt", "study/pictures/mine.png")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    mos.build(config, restart=True)
    assert key_of(config) != key and all(path.read_text() == "mine" for path in mine)
    assert {path.stem for path in (tmp_path / "mos/study/pictures").iterdir()} == {
        "mine", *(name for part in ("pictures", "repeats", "calibration") for name in key_of(config)[part])}
    aside, = (path for path in tmp_path.iterdir() if path.name != "mos")
    assert json.loads((aside / "key.json").read_text()) == key


# --------------------------------------------------------------------------------------------------------- the page


@pytest.fixture
def browse(tmp_path, start_chromium):
    """Open headless browsers: `browse(url, size=..., language=..., profile=..., touch=...)`."""
    drivers = []

    def start(url, size=(1280, 900), language="en-US", profile="profile", touch=False, density=1):
        metrics = {"width": size[0], "height": size[1], "pixelRatio": density, "touch": True}
        driver = start_chromium(
            tmp_path / profile, f"window-size={size[0]},{size[1]}", f"accept-lang={language}",
            f"force-device-scale-factor={density}", prefs={"download.default_directory": str(tmp_path / "downloads")},
            **{"mobileEmulation": {"deviceMetrics": metrics}} if touch else {})
        drivers.append(driver)
        driver.get(url)
        return Page(driver)

    yield start
    for driver in drivers:
        driver.quit()


class Page:
    """The page as a rater uses it: what is seen, read, pressed and touched."""

    def __init__(self, driver):
        self.driver = driver

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def text(self, selector):
        return self.find(selector).text

    def wait(self, condition, seconds=10):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"nothing after {seconds} s; the page shows: {self.text('body')}")

    def picture(self, other_than=None):
        """Wait for a picture on the stage (another one than `other_than`) and return its name."""
        script = "const shown = document.querySelector('#stage img'); return shown && shown.src;"
        source = self.wait(lambda: (s := self.driver.execute_script(script)) and s != other_than and s)
        return source.rsplit("/", 1)[1].removesuffix(".png")

    def press(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def click(self, selector):
        self.find(selector).click()

    def touch(self, selector):
        from selenium.webdriver.common.actions.action_builder import ActionBuilder
        from selenium.webdriver.common.actions.pointer_input import PointerInput
        finger = ActionBuilder(self.driver, mouse=PointerInput("touch", "finger"), duration=0)
        finger.pointer_action.move_to(self.find(selector)).pointer_down().pointer_up()
        finger.perform()

    def begin(self, rater):
        self.find("#rater").send_keys(rater)

    def calibrate(self, act):
        """Go through the examples; `act(score)` enters the score that the prompt asks for."""
        while self.find("#stage").is_displayed():
            self.picture()
            act(int(re.search(r"\d", self.text("#prompt"))[0]))
            time.sleep(0.05)

    def rate(self, score_of, act, most=None):
        """Rate until the end, or `most` pictures; `act(score)` enters a score. Returns [(picture, score)]."""
        given = []
        while self.find("#stage").is_displayed() and len(given) != most:
            picture = self.picture()
            score = score_of(picture)
            act(score)
            given.append((picture, score))
            time.sleep(0.05)
        return given

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


RULE = dict(zip(METHODS, (1, 2, 3, 4, 4, 5), strict=True))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A study of three images to rate, one of them larger than a phone's screen, and one calibration photo."""
    folder = tmp_path_factory.mktemp("small")
    originals = {**crops(2, 96, 120), "large": skimage.data.astronaut()[:500, :420]}
    evaluate(folder / "evaluate", originals, generators=("srgan",))
    (folder / "photos").mkdir()
    Image.fromarray(skimage.data.astronaut()[200:300, 200:300]).save(folder / "photos" / "a.png")
    config = settings(folder, calibration_path=str(folder / "photos"), n_calibration=1)
    mos.build(config)
    return config


@pytest.fixture(scope="module")
def score_of(small):
    key = key_of(small)
    versions = {**key["pictures"], **{repeat: key["pictures"][name] for repeat, name in key["repeats"].items()}}
    return lambda picture: RULE[versions[picture]["method"]]


@pytest.fixture
def url(small):
    return (mos.Path(small.MOS.path) / "study" / "index.html").as_uri()


def check_order(key, pictures):
    """Every picture once, and never the same image twice in a row."""
    assert sorted(pictures) == sorted([*key["pictures"], *key["repeats"]])
    images = [key["pictures"][key["repeats"].get(picture, picture)]["image"] for picture in pictures]
    assert all(a != b for a, b in itertools.pairwise(images))


def downloaded(page, tmp_path, name):
    file = tmp_path / "downloads" / name
    page.wait(file.exists)
    return json.loads(file.read_text(encoding="utf-8"))


def test_a_whole_study_by_keyboard_with_a_break(browse, small, url, score_of, tmp_path):
    key = key_of(small)
    total = len(key["pictures"]) + len(key["repeats"])
    page = browse(url)
    page.begin("Анна K.\n")
    assert page.picture() in key["calibration"]
    assert "stands for 1, bad" in page.text("#prompt") and page.text("#progress") == "Example 1 of 2"
    page.press("3")  # not the score of this example
    assert page.text("#progress") == "Example 1 of 2"
    page.calibrate(lambda score: page.press(str(score)))
    assert f"Now score {total} pictures" in page.text("#between")
    page.press("\t\n")
    page.picture()
    assert page.text("#progress").startswith(f"1 of {total}, about ")
    rated = page.rate(score_of, lambda score: page.press(str(score)), most=5)

    # A wrong score is corrected.
    wrong = page.picture()
    page.press("1" if score_of(wrong) != 1 else "5")
    page.wait(lambda: page.picture() != wrong)
    page.press("\b")
    page.wait(lambda: page.picture() == wrong)
    assert page.find("#scale [aria-pressed=true]").get_attribute("aria-label") in ("1, bad", "5, excellent")
    page.press("\b")  # one step back and no more
    assert page.picture() == wrong
    rated += page.rate(score_of, lambda score: page.press(str(score)), most=1)
    page.wait(lambda: page.text("#progress").startswith("7 of"))

    # A part is saved, the browser is closed and opened again: it continues where it stopped.
    page.click("#save")
    part = downloaded(page, tmp_path, "ratings_Анна_K_.json")
    assert not part["complete"] and [(r["picture"], r["score"]) for r in part["ratings"]] == rated
    next_picture = page.picture()
    assert not page.errors()
    page.driver.quit()
    (tmp_path / "downloads" / "ratings_Анна_K_.json").rename(tmp_path / "part.json")
    page = browse(url)
    assert page.picture() == next_picture and page.text("#progress").startswith("7 of")
    rated += page.rate(score_of, lambda score: page.press(str(score)))
    assert "ratings_Анна_K_.json" in page.text("#end")
    saved = downloaded(page, tmp_path, "ratings_Анна_K_.json")
    assert saved["complete"] and saved["rater"] == "Анна K." and saved["study"] == key["study"]
    assert [(r["picture"], r["score"]) for r in saved["ratings"]] == rated
    check_order(key, [picture for picture, _ in rated])
    assert not page.errors()

    shutil.move(tmp_path / "part.json", tmp_path / "downloads" / "ratings_part.json")
    found = ratings.analyse(small, tmp_path / "downloads")
    assert found["left_out"] == ["ratings_part.json is left out: ratings_Анна_K_.json of Анна K. is newer."]
    methods = found["sets"]["evaluate"]["methods"]
    expected = {method: score for method, score in RULE.items() if method != "srresnet"}
    assert {method: rated["mos"] for method, rated in methods.items()} == expected
    assert found["reliability"]["repeats"]["equal"] == 1


def test_a_whole_study_by_touch_on_a_phone(browse, small, url, score_of, tmp_path):
    page = browse(url, size=(360, 640), language="ru-RU", touch=True)
    assert "Насколько хорошо" in page.text("h1") and page.find("html").get_attribute("lang") == "ru"
    page.begin("t")
    page.touch("#form button")
    page.calibrate(lambda score: page.touch(f"#scale [data-score='{score}']"))
    page.touch("#go")
    rated = page.rate(score_of, lambda score: page.touch(f"#scale [data-score='{score}']"), most=3)
    before = page.picture()
    page.touch("#back")
    page.wait(lambda: page.picture() == rated[-1][0])
    page.touch(f"#scale [data-score='{rated[-1][1]}']")
    page.wait(lambda: page.picture() == before)
    rated += page.rate(score_of, lambda score: page.touch(f"#scale [data-score='{score}']"))
    assert "Готово" in page.text("#end")
    check_order(key_of(small), [picture for picture, _ in rated])
    saved = downloaded(page, tmp_path, "ratings_t.json")
    assert [(r["picture"], r["score"]) for r in saved["ratings"]] == rated and not page.errors()
    page.touch("#another")
    page.wait(lambda: page.driver.switch_to.alert).accept()
    assert page.find("#start").is_displayed() and page.find("#rater").get_attribute("value") == ""


GEOMETRY = """
const box = element => { const b = element.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
const stage = document.getElementById('stage'), shown = stage.firstElementChild;
return {window: [innerWidth, innerHeight], page: document.documentElement.scrollWidth,
        stage: box(stage), picture: box(shown), natural: [shown.naturalWidth, shown.naturalHeight],
        scrolls: [stage.scrollWidth - stage.clientWidth, stage.scrollHeight - stage.clientHeight],
        buttons: [...document.querySelectorAll('#scale button')].map(box)};
"""


def start_rating(page, rater="r"):
    page.begin(f"{rater}\n")
    page.calibrate(lambda score: page.press(str(score)))
    page.click("#go")
    page.picture()


def show_large(page, key):
    """Rate until the large picture is on the stage; return the geometry."""
    versions = {**key["pictures"], **{repeat: key["pictures"][name] for repeat, name in key["repeats"].items()}}
    while versions[page.picture()]["image"] != "large":
        page.press("3")
        time.sleep(0.05)
    return page.driver.execute_script(GEOMETRY)


def test_everything_fits_a_screen_of_360x640(browse, small, url):
    page = browse(url, size=(360, 640), touch=True)
    start_rating(page)
    large = show_large(page, key_of(small))
    assert large["window"] == [360, 640] and large["page"] == 360
    left, top, right, bottom = large["picture"]
    assert [right - left, bottom - top] == large["natural"] == [420, 500]
    assert large["scrolls"][0] == 60 and large["scrolls"][1] > 0 and "Scroll" in page.text("#prompt")
    for left, top, right, bottom in large["buttons"]:
        assert left >= 0 and right <= 360 and bottom <= 640 and right - left >= 44 and bottom - top >= 44
    assert large["stage"][3] - large["stage"][1] > 0.65 * 640
    page.press("\ue014" * 3)  # arrow right scrolls the picture
    page.wait(lambda: page.driver.execute_script("return document.getElementById('stage').scrollLeft") == 60)


@pytest.mark.parametrize("density", [1, 1.5, 2])
def test_a_picture_is_shown_pixel_by_pixel_on_mid_gray(browse, small, url, density):
    page = browse(url, size=(1001, 801), density=density)
    page.begin("r\n")
    name = page.picture()
    screen = np.asarray(Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB"))
    picture = np.asarray(Image.open(mos.Path(small.MOS.path) / "study" / "pictures" / f"{name}.png"))
    picture = picture.repeat(int(density), 0).repeat(int(density), 1)
    left, top, right, bottom = (round(side * density) for side in page.driver.execute_script(GEOMETRY)["picture"])
    np.testing.assert_array_equal(screen[top:bottom, left:right], picture)
    assert abs(left + right - screen.shape[1]) <= 2  # centred
    around = screen[top - 5:bottom + 5, left - 5:right + 5].copy()
    around[5:-5, 5:-5] = 128
    assert (around == 128).all()


def test_each_rater_gets_another_order_that_keeps_images_apart(browse, small, url):
    page = browse(url)
    key = key_of(small)
    draw = "return Array.from({length: 50}, () => drawOrder(study.pictures));"
    orders = page.driver.execute_script(draw)
    for order in orders:
        check_order(key, order)
    assert len(set(map(tuple, orders))) == 50 and len({order[0] for order in orders}) > 5
    sizes = {"a": 6, "b": 3, "c": 2}  # no more than can be kept apart
    hardest = [[f"{image}{i}", image] for image, n in sizes.items() for i in range(n)]
    orders = page.driver.execute_script("return Array.from({length: 50}, () => drawOrder(arguments[0]));", hardest)
    assert all(a[0] != b[0] for order in orders for a, b in itertools.pairwise(order))
    many = [[f"{image}.{i}", image] for image in range(20) for i in range(6)]
    order = page.driver.execute_script("return drawOrder(arguments[0]);", many)
    images = [picture.split(".")[0] for picture in order]
    assert np.mean([image in images[max(0, i - 5):i] for i, image in enumerate(images)]) < 0.1


def test_languages_and_labels_for_screen_readers(browse, small, url):
    page = browse(url)
    page.click("#language")
    assert "Насколько хорошо" in page.text("h1") and page.driver.title == "Оценка картинок"
    page.click("#language")
    page.click("#form button")  # without a name
    assert page.find("#start").is_displayed()
    page.find("#rater").send_keys("  ")
    page.click("#form button")
    assert page.find("#start").is_displayed()
    start_rating(page)
    assert page.find("#progress").get_attribute("role") == page.find("#prompt").get_attribute("role") == "status"
    assert page.find("#stage img").get_attribute("alt") == "Picture 1"
    labels = [button.accessible_name for button in page.driver.find_elements("css selector", "#scale button")]
    assert labels == ["1, bad", "2, poor", "3, fair", "4, good", "5, excellent"]
    assert page.find("#stage").accessible_name and page.find("#back").accessible_name
    first = page.picture()
    page.press("\t")  # to the first button, which gets an outline
    focused = page.driver.switch_to.active_element
    assert focused.accessible_name == "1, bad" and focused.value_of_css_property("outline-style") == "solid"
    focused.send_keys(" ")
    page.wait(lambda: page.picture() != first)
    page.driver.refresh()  # loses nothing
    assert page.text("#progress").startswith("2 of")


def test_a_served_study_fetches_only_itself_and_reports_a_missing_picture(browse, small, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(mos.Path(small.MOS.path) / "study", study)
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            requests.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=study))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = browse(f"http://127.0.0.1:{server.server_port}/")
        start_rating(page)
        page.press("4")
        page.wait(lambda: page.text("#progress").startswith("2 of"))
        page.wait(lambda: len(set(requests)) >= 1 + 2 + 5)  # the page, the examples, and pictures ahead
        assert all(re.fullmatch(r"/|/pictures/[0-9a-f]{12}\.png", path) for path in requests)
        shutil.rmtree(study / "pictures")
        page.driver.execute_cdp_cmd("Network.clearBrowserCache", {})
        page.driver.refresh()
        page.wait(lambda: page.find("p[role=alert]").is_displayed())
        assert ".png can't be loaded" in page.text("p[role=alert]")
    finally:
        server.shutdown()
        server.server_close()


def test_the_bare_template_explains_itself(browse):
    page = browse((mos.Path(mos.__file__).parent / "mos.html").as_uri())
    assert "python main.py --mode=mos" in page.text("p[role=alert]") and not page.errors()


