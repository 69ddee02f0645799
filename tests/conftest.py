import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parent.parent

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts background jobs; training runs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.fsync = lambda file: None  # no test cuts the power, and disks take their time

SLOW = ("test_runs.py", "test_devices.py", "test_train.py", "test_cli.py", "test_app.py", "test_page.py", "test_mos.py",
        "test_weights.py")


def pytest_collection_modifyitems(items):
    """The slow files first, so that two workers end together."""
    for item in items:
        if item.path.name in SLOW:
            item.add_marker("slow")
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))


@pytest.fixture(scope="session")
def call():
    """Run main.py (or another script) as a user does, in a folder; gives code, stdout and stderr."""

    def run(folder, *arguments, script=ROOT / "main.py"):
        command = [sys.executable, str(script), *map(str, arguments)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True)

    return run


@pytest.fixture(scope="session")
def start_chromium():
    """Start a headless browser: `start_chromium(profile, *arguments, **experimental_options)`; skips without one."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="pages are not tested: pip install selenium")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if not (browser and chromedriver):
        pytest.skip("pages are not tested: no browser (Debian: apt-get install chromium chromium-driver)")
    drivers = []

    def start(profile, *arguments, **experimental_options):
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for argument in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
                         "disable-background-networking", "disable-component-update", f"user-data-dir={profile}",
                         *arguments):
            options.add_argument(f"--{argument}")
        for name, value in experimental_options.items():
            options.add_experimental_option(name, value)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        drivers.append(webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver)))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.quit()


@pytest.fixture(scope="session")
def tensorflow_has_started():
    """Keep its start-up notes out of what a test reads of the screen."""
    import utils

    import tensorflow as tf

    with utils.quiet():
        tf.constant(0)


@pytest.fixture(scope="session")
def generator():
    import restoring

    return restoring.small_generator(0)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, generator):
    """The weights files that a training writes, of small networks."""
    import restoring

    import weights

    folder = tmp_path_factory.mktemp("trained")
    weights.save_network(folder / "g_srgan_init.npz", restoring.small_generator(1))
    weights.save_network(folder / "g_srgan.npz", generator)
    return folder


@pytest.fixture
def no_bar(monkeypatch):
    """Without progress bars, so that stderr holds nothing but complaints."""
    import utils

    monkeypatch.setattr(utils, "progress", mock.MagicMock())


@pytest.fixture
def good(tmp_path):
    import pictures

    (tmp_path / "good").mkdir()
    return pictures.good(tmp_path / "good")


@pytest.fixture
def lossy(tmp_path):
    import pictures

    (tmp_path / "lossy").mkdir()
    return pictures.lossy(tmp_path / "lossy")


@pytest.fixture
def bad(tmp_path):
    import pictures

    (tmp_path / "bad").mkdir()
    return pictures.bad(tmp_path / "bad")
