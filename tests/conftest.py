import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parent.parent
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(ROOT))


def pytest_collection_modifyitems(items):
    """The longest files first, so that two workers end together."""
    items.sort(key=lambda item: item.path.name not in ("test_train.py", "test_distribute.py", "test_mishaps.py", "test_cli.py"))


@pytest.fixture(scope="session")
def call():
    """Run main.py (or another script) as a user does, in a folder; gives code, stdout and stderr."""

    def run(folder, *arguments, script=ROOT / "main.py"):
        return subprocess.run([sys.executable, str(script), *map(str, arguments)], cwd=folder, capture_output=True, text=True)

    return run


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
