"""Imports run downwards in the map of CONTRIBUTING.md, and every package that is imported is declared."""
import ast
import json
import os
import re
import subprocess
import sys
from importlib import metadata

import module_names

import pytest
from conftest import ROOT

FOLDERS = ("files", "engine", "study")


def sources():
    """Product files by their module names, `files.images` for files/images.py."""
    paths = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return {name: path for path, name in names.items() if not name.endswith("__init__")}


def imported(path):
    """Names of all modules that a file imports, within functions too."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names |= ({f"{node.module}.{alias.name}" for alias in node.names} if node.module in FOLDERS
                      else {node.module})
    return names


def test_imports_run_downwards():
    rows = [re.findall(r"`([\w/]+)\.py`", row.split("|")[1])
            for row in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines() if row.startswith("| `")]
    place = {name.replace("/", "."): number for number, names in enumerate(rows) for name in names}
    files = sources()
    assert set(files) == set(place)
    for name, path in files.items():
        upwards = [other for other in imported(path) & set(files) if place[other] <= place[name]]
        assert not upwards, f"{name} imports {upwards}"


def declared(file):
    """Packages in a requirements file, by their names in imports."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    names = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines if re.match(r"\w", line)}
    modules = {}
    for module, packages in metadata.packages_distributions().items():
        for package in packages:
            modules.setdefault(package.lower().replace("_", "-"), set()).add(module)
    assert names <= set(modules)
    return {name: modules[name] for name in names}


def test_every_package_that_is_imported_is_declared():
    own = {path.stem for folder in (ROOT, ROOT / "tests") for path in folder.glob("*.py")} | set(FOLDERS)
    run, dev = (set().union(*declared(file).values()) for file in ("requirements.txt", "requirements-dev.txt"))
    run |= {"onnxruntime", "ai_edge_litert"}  # of the exported srgan.py, which takes the one that is there
    run |= {"gradio", "starlette"}  # of --mode=app, which asks for Gradio; that brings the other
    peers = {"openvino", "torch", "ncnn"}  # of the benchmark, which does without
    for paths, modules in ((sources().values(), run), ((ROOT / "tests").glob("*.py"), run | dev | peers)):
        for path in paths:
            roots = {name.partition(".")[0] for name in imported(path)} - own - sys.stdlib_module_names
            assert roots <= modules, f"{path.name} imports {roots - modules}"


def test_every_package_that_is_declared_is_used():
    source = "".join(path.read_text(encoding="utf-8") for path in sources().values())
    unused = {package for package, modules in declared("requirements.txt").items()
              if not any(re.search(rf"\b{module}\b", source) for module in modules)}
    assert unused <= {"tensorboard", "opencv-python-headless"}  # TensorFlow and TensorLayer import them undeclared


def test_every_text_file_has_an_encoding():
    """Else it is the one of the user's locale, in which a path may have no letters."""
    for path in sources().values():
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            binary = len(call.args) > 1 and "b" in ast.unparse(call.args[1])
            if name in ("read_text", "write_text") or (name == "open" and isinstance(call.func, ast.Name)):
                assert binary or "encoding" in {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}"


USERS_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from restore import Restorer
print(*{name.partition(".")[0] for name in sys.modules})
from keras import config
print(config.backend(), config.floatx(), config.image_data_format())
restorer = Restorer(weights=sys.argv[2])
for size in range(5, 12):
    assert restorer(np.zeros((size, 8, 4), np.uint8)).shape == (4 * size, 32, 4)
"""


def test_a_users_script_is_quiet_beside_a_module_of_our_names_and_settings_of_keras(trained, tmp_path):
    """Those names are refused that it imports, where they hide ours."""
    (tmp_path / "utils.py").touch()
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(json.dumps(
        {"backend": "theano", "floatx": "float16", "image_data_format": "channels_first", "epsilon": 1e-7}))
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(
        [sys.executable, "-c", USERS_SCRIPT, ROOT, trained / "g_srgan.npz"], cwd=tmp_path, capture_output=True,
        text=True, env={**environment, "HOME": str(tmp_path), "KERAS_BACKEND": "torch"})
    assert (result.returncode, result.stderr) == (0, "")
    names, settings = result.stdout.splitlines()
    own = {name.partition(".")[0] for name in sources()} - {"restore", "module_names"}
    assert set(names.split()) & own == set(module_names.NAMES)
    assert settings == "tensorflow float32 channels_last"


@pytest.mark.parametrize("name", ["utils.py", "config.py", "files/__init__.py"])
def test_a_users_module_of_the_same_name_is_one_sentence(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    script = f"import sys; sys.path.append({str(ROOT)!r}); from restore import Restorer"
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    *_, sentence = result.stderr.splitlines()
    assert result.returncode == 1 and sentence.startswith(f"ImportError: {tmp_path / name} hides the module")
    assert f"sys.path.insert(0, {str(ROOT)!r})" in sentence
