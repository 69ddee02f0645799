"""The order of the rooms: imports run downwards in the map of CONTRIBUTING.md."""
import ast
import re

from conftest import ROOT


def imported(path):
    """Names of all modules that a file imports, within functions too."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}


def test_imports_run_downwards():
    rows = [re.findall(r"`(\w+)\.py`", row.split("|")[1])
            for row in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines() if row.startswith("| `")]
    place = {name: number for number, names in enumerate(rows) for name in names}
    files = {path.stem: path for path in ROOT.glob("*.py")}
    assert set(files) <= set(place)
    for name, path in files.items():
        upwards = [other for other in imported(path) & set(files) if place[other] <= place[name]]
        assert not upwards, f"{name}.py imports {upwards}"
