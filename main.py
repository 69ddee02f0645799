"""SRGAN: `python main.py` trains it, `python main.py --mode=evaluate` scores it and restores photos.

After Ledig et al., Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network,
https://arxiv.org/abs/1609.04802. The options are in engine/command_line.py. This file only says in a sentence why that
can't be imported, and is written so that the oldest Python can read it.
"""
import os
import signal
import sys
import traceback


def refuse(sentence):
    """End the program with a user's mistake."""
    sys.stderr.write(sentence + "\n")
    sys.exit(2)


def install(package):
    """The sentence on a package that is missing."""
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "venv")
    if os.path.isdir(folder) and os.path.realpath(folder) != os.path.realpath(sys.prefix):
        script = os.path.join(folder, "Scripts" if os.name == "nt" else "bin", "activate")
        return "The environment is not active; run: " + ("" if os.name == "nt" else "source ") + script
    packages = "gradio" if package == "gradio" else "-r requirements.txt"
    return "The package " + package + " is not installed; run: pip install " + packages


if sys.version_info < (3, 11):  # noqa: UP036 (that is what it is for)
    refuse("This needs Python 3.11, 3.12 or 3.13, and this is " + sys.version.split()[0] + "; get a newer one from "
           "https://www.python.org/downloads/ and make the environment of README.md with it.")
try:
    from utils import prepare_streams

    from engine.command_line import main, parse_arguments
except ModuleNotFoundError as error:
    refuse(install(error.name))
except Exception as error:  # config.py is edited by hand: it may raise anything
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename, error.lineno))
    lines = [line for name, line in places if os.path.basename(name) == "config.py"]
    if not lines:
        raise
    refuse("config.py can't be read, line " + str(lines[-1]) + ": " + getattr(error, "msg", str(error)) + "; undo the "
           "last edit.")

if __name__ == "__main__":
    prepare_streams()
    if "ipykernel" not in sys.modules:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in the middle of the imports
    try:
        code = main(parse_arguments())
    except ModuleNotFoundError as error:
        refuse(install(error.name))
    sys.exit(code)
