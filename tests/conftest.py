import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def call():
    """Run main.py (or another script) as a user does, in a folder; gives code, stdout and stderr."""

    def run(folder, *arguments, script=ROOT / "main.py"):
        return subprocess.run([sys.executable, str(script), *map(str, arguments)], cwd=folder, capture_output=True, text=True)

    return run
