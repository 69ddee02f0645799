"""What README.md and the other pages say can be pasted: commands, settings, links and Python."""
import copy
import re
import shlex

import pytest
from conftest import ROOT
from PIL import Image

import config
from engine import command_line

PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
         for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}


def blocks(page, language=""):
    """The blocks of code of a page."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", PAGES[page], re.DOTALL | re.MULTILINE)


def commands(page):
    """The command lines of a page, in its blocks and sentences, each as its words."""
    lines = [line for block in blocks(page) for line in block.splitlines()]
    for line in (*lines, *re.findall(r"`([^`\n]+)`", PAGES[page])):
        for command in line.strip().split(" && "):
            if re.match(r"(\w+=\S+ |uv run |venv/bin/)*(python |pytest|main.py )", command):
                yield shlex.split(command, comments=True)


def test_readme_is_short_and_begins_with_the_two_commands():
    assert len(PAGES["README.md"].splitlines()) <= 200
    install, tests, *_ = (block.removesuffix("\n").split(" && ") for block in blocks("README.md"))
    assert install[:2] == ["python3 -m venv venv", "venv/bin/pip install -r requirements.txt"]
    assert tests == ["venv/bin/pip install -r requirements-dev.txt", "venv/bin/pytest"]
    assert install[2] == "venv/bin/" + blocks("README.md")[2].strip()  # the command whose lines are shown


def test_first_command_prints_what_readme_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command, shown = blocks("README.md")[2:4]
    photo, = command_line.parse_arguments(shlex.split(command)[2:]).input
    (tmp_path / photo).parent.mkdir()
    Image.open(ROOT / photo).resize((20, 12)).save(tmp_path / photo)
    assert command_line.main(command_line.parse_arguments(shlex.split(command)[2:])) == 0
    weights, device, result, page = shown.replace("/home/me/srgan", str(tmp_path)).splitlines()
    width, height = Image.open(ROOT / photo).size
    result = result.replace(f"{width}x{height}", "20x12").replace(f"{4 * width}x{4 * height}", "80x48")
    printed = capsys.readouterr().out.splitlines()
    assert [printed[0], *printed[2:]] == [weights, result, page]
    assert printed[1].split()[0] == device.split()[0] and Image.open(result.split()[-2]).size == (80, 48)


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page):
    for words in commands(page):
        if "main.py" in words:
            arguments = command_line.parse_arguments(words[words.index("main.py") + 1:])
            settings = copy.deepcopy(config.config)
            config.override(settings, arguments.set)
            config.resolve(settings)
        for name in (word for word in words if word.startswith(("tests/", "img/"))):
            assert (ROOT / name).exists()


def test_options_exist(capsys):
    with pytest.raises(SystemExit):
        command_line.parse_arguments(["--help"])
    known = {"--photos", *re.findall(r"--[\w-]+", capsys.readouterr().out)}  # the first is of tests/bench.py
    assert set(re.findall(r"`(--[a-z-]+)", "".join(PAGES.values()))) <= known


@pytest.mark.parametrize("page", PAGES)
def test_settings_exist(page):
    for setting in re.findall(r"`((?:TRAIN|VALID|RESTORE|LOSS|MOS|VGG|DEGRADATION)\.[^`\s]+)`", PAGES[page]):
        key = setting.partition("=")[0]
        if "=" in setting:
            config.override(copy.deepcopy(config.config), [setting])
        elif not key.endswith("."):
            assert key in config.flatten(config.DEFAULTS)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            path = (ROOT / page).parent / name if name else ROOT / page
            assert path.exists(), target
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            assert not anchor or anchor in [re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in headings]


def test_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.open(ROOT / "img" / "photo.png").resize((20, 12)).save("photo.jpg")
    code, = blocks("docs/restoring.md", "python")
    exec(code, {})
    assert Image.open("photo_x4.png").size == (80, 48)
