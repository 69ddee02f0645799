"""The command line: its options, the settings of a run, and the mode that does it."""
import argparse
import copy
import difflib
import importlib
import itertools
import os
import re
import shlex
import signal
import sys
from pathlib import Path

from utils import UserError, check_writable, local_path, quiet

from easydict import EasyDict

from config import config, flatten, is_div2k, override, resolve

MODES = ("train", "srgan", "evaluate", "app", "export", "mos", "download")
SIZES = ("--scale", "--width", "--height", "--long-side")
FOR_PHOTOS = (*SIZES, "--format", "--quality", "--frames", "--skip-existing", "--part")  # options of --input alone
OPTIONS = ("--mode", "--input", "--output", "--weights", *FOR_PHOTOS, "--restart", "--share-on-network", "--set",
           "--help")
MODULES = {"mos": "study.mos", "ratings": "study.ratings", "download": "files.download"}
EXAMPLES = """examples:
  python main.py --mode=evaluate --input photo.jpg  restore a photo, or several
  python main.py --mode=app                         ... in the browser
  python main.py --mode=evaluate                    score and compare weights
  python main.py                                    train, or resume training
  python main.py --restart                          ... from the beginning
  python main.py --set TRAIN.hr_img_path=photos/    ... on your own photos
  python main.py --weights pretrained               ... from trained weights
  python main.py --mode=export --output exported/   as ONNX, TFLite, SavedModel
  python main.py --mode=mos                         make a study for raters
  python main.py --mode=mos --input ratings/        analyse what they sent back
  python main.py --mode=download                    fetch DIV2K, 4.3 GB
"""


class Parser(argparse.ArgumentParser):
    """A parser that says in one sentence what is wrong."""

    def error(self, message):
        wrong = re.search(r"--mode: invalid choice: '(.*?)'", message)
        near = difflib.get_close_matches(wrong[1], MODES, 1, cutoff=0) if wrong else []
        hint = f"did you mean --mode={near[0]}?" if near else "all options: python main.py --help"
        self.exit(2, f"{message}; {hint}\n")


def as_quality(text: str) -> int:
    """The number of --quality."""
    if not (text.isdecimal() and 1 <= int(text) <= 100):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to 100")
    return int(text)


def as_part(text: str) -> tuple[int, int]:
    """The two numbers of --part, such as 2/4."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not (match and 1 <= int(match[1]) <= int(match[2])):
        raise argparse.ArgumentTypeError(f"{text} is not a part of several, such as 2/4, the second of four")
    return int(match[1]), int(match[2])


def make_parser() -> Parser:
    """The options, as `--help` shows them."""
    parser = Parser(prog="main.py", description="SRGAN: single-image super-resolution.", epilog=EXAMPLES,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", default="train", choices=MODES,
                        help="what to do; srgan is the original's name for train (default: %(default)s)")
    parser.add_argument("--input", metavar="PATH", nargs="+", action="extend", default=[],
                        help="evaluate: photos to restore, or folders of them; mos: the folder of the raters' files")
    parser.add_argument("--output", metavar="PATH",
                        help="evaluate, export: the folder for the results (default: samples/evaluate/, exported/); "
                             "for a single photo also a file, such as large.png")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scale", metavar="X", type=float,
                      help="evaluate --input: how many times as wide and high results are, from 1 to 16, such as 2 or "
                           "1.5 (default: 4, or what the weights were trained for)")
    for side in SIZES[1:]:
        size.add_argument(side, metavar="N", type=int,
                          help=f"... or their {side[2:].replace('-', ' ')} in pixels; the other side follows")
    parser.add_argument("--weights", metavar="FILE",
                        help="app, evaluate, export: the generator to use; train: the one to start from. A file, or "
                             "a name: photo (SRGAN for photos from phones and messengers), srgan (for clean ones) "
                             "or pretrained (what srgan was trained from); photo-srresnet, pretrained-srresnet")
    parser.add_argument("--format", choices=("jpg", "png", "webp", "tif", "avif"),
                        help="the kind of file of restored photos (default: png)")
    parser.add_argument("--quality", metavar="N", type=as_quality,
                        help="of restored photos as JPEG, WebP or AVIF, 1 to 100 (default: 95)")
    parser.add_argument("--frames", action="store_true",
                        help="restore all frames of GIF, WebP and APNG that move, to the same kind of file")
    parser.add_argument("--part", metavar="K/N", type=as_part,
                        help="restore the K-th of N parts of the photos, as one of several processes or machines")
    parser.add_argument("--skip-existing", action="store_true",
                        help="leave photos alone whose results are there already, made with the same settings")
    parser.add_argument("--restart", action="store_true",
                        help="train, mos: start over; the old training or study is moved aside, not deleted")
    parser.add_argument("--share-on-network", action="store_true",
                        help="app: let anyone on this machine's network use the window, too")
    parser.add_argument("--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[],
                        help="settings of config.py for this run, such as TRAIN.batch_size=8")
    return parser


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, with `~` expanded in paths and `size`, such as ("width", 1920), None if none is asked.

    A mistake ends the program with one sentence and exit code 2.
    """
    parser = make_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.exit(2, f"{unknown[0]} is no option; did you mean {meant_by(unknown)}?\n")
    if arguments.mode in ("train", "srgan") and (arguments.input or arguments.output):
        parser.exit(2, "--input and --output do not go with training; to restore photos run: python main.py "
                       f"--mode=evaluate --input {shlex.join(arguments.input or ['photo.jpg'])}\n")
    if arguments.mode == "app" and (arguments.input or arguments.output):
        parser.exit(2, "--input and --output do not go with --mode=app; drop the photos into its window.\n")
    if arguments.share_on_network and arguments.mode != "app":
        parser.exit(2, "--share-on-network is for the window, --mode=app.\n")
    given = {option: value for option in FOR_PHOTOS
             if (value := vars(arguments)[option[2:].replace("-", "_")]) is not None and value is not False}
    if given and not (arguments.mode == "evaluate" and arguments.input):
        others = "; training and scoring take --set TRAIN.scale=2 and VALID.scale=2" if {*SIZES} & {*given} else ""
        parser.exit(2, f"{next(iter(given))} is for photos to restore, --mode=evaluate --input photo.jpg{others}\n")
    arguments.size = next(((option[2:], given[option]) for option in SIZES if option in given), None)
    if arguments.mode == "mos" and len(arguments.input) > 1:
        parser.exit(2, "--mode=mos takes one --input; put the raters' files into one folder.\n")
    try:
        arguments.input = [local_path(path, "--input") for path in arguments.input]
        arguments.output = arguments.output and local_path(arguments.output, "--output")
        arguments.weights = arguments.weights and local_path(arguments.weights, "--weights")
    except UserError as error:
        parser.exit(2, f"{error}\n")
    return arguments


def meant_by(unknown: list[str]) -> str:
    """The option that words on the command line lack, for a "did you mean"."""
    word = unknown[0]
    name = word.lstrip("-").partition("=")[0]
    if name in MODES:
        return f"--mode={name}"
    keys = [key for key in flatten(config) if name in (key, key.rpartition(".")[2])]
    if keys:
        return f"--set {keys[0]}{word[word.index('='):] if '=' in word else '=VALUE'}"
    if word.startswith("-"):
        return (difflib.get_close_matches(word, OPTIONS, 1) or ["--help"])[0]
    return f"--mode=evaluate --input {shlex.quote(with_spaces(unknown) or word)}"


def with_spaces(words: list[str]) -> str | None:
    """The first path that exists if some of the words are one name with spaces, as when its quotes were forgotten."""
    names = (" ".join(words[start:stop]) for start, stop in itertools.combinations(range(len(words) + 1), 2)
             if stop - start > 1)
    return next(filter(os.path.exists, names), None)


def check_paths(arguments: argparse.Namespace, settings: EasyDict) -> None:
    """Answer a wrong path before the seconds that TensorFlow takes to import. Raises UserError."""
    from files import photo_files  # takes a moment, which --help should not

    folders = [("--input", path) for path in filter(os.path.isdir, arguments.input)]
    if not (arguments.input or arguments.mode in ("app", "export") or settings.TRAIN.dataset != "folder"):
        section = "VALID" if arguments.mode == "evaluate" else "TRAIN"
        folders = [(f"{section}.hr_img_path", settings[section].hr_img_path)]
    for path in arguments.input:
        if not os.path.exists(path):
            whole = with_spaces(arguments.input)
            hint = f"put quotes around {shlex.quote(whole)}" if whole else "name a photo or a folder of photos"
            raise UserError(f"{path} (--input) does not exist; {hint}.")
    for setting, folder in folders:
        downloaded = os.path.isdir(folder) or not is_div2k(folder)
        if downloaded and not (os.path.isdir(folder) and photo_files.list_images(folder)):
            photo_files.find_images(folder, setting)
    if arguments.weights and Path(arguments.weights).suffix and not os.path.exists(arguments.weights):
        raise UserError(f"{arguments.weights} (--weights) does not exist; name a file of weights, or pretrained.")
    if arguments.output:
        output = Path(arguments.output)
        is_file = photo_files.is_image_name(output) and not arguments.output.endswith((os.sep, "/"))
        if is_file and arguments.input:
            photo_files.check_suffix(output, arguments.frames)
        check_writable(output.parent if is_file else output, "--output")


def configure(arguments: argparse.Namespace) -> EasyDict:
    """The settings of this run, checked. Raises UserError."""
    settings = copy.deepcopy(config)  # in Jupyter the next run must not inherit this run's
    override(settings, arguments.set)
    resolve(settings)
    restores = bool(arguments.input) or arguments.mode in ("app", "export")
    asked, other = ("RESTORE", "VALID") if restores else ("VALID", "RESTORE")
    for setting in arguments.set if arguments.mode in ("evaluate", "app", "export") else []:
        section, _, name = setting.partition("=")[0].removeprefix("config.").partition(".")
        if section == other and name in settings[asked]:
            raise UserError(f"{other}.{name} is for {'scoring' if restores else 'restoring photos'} alone; here it is "
                            f"{asked}.{name}.")
    if arguments.mode in ("train", "srgan", "evaluate", "app", "export"):
        check_paths(arguments, settings)
    return settings


def main(arguments: argparse.Namespace) -> int:
    """Run the mode of the command line. Returns the exit code: 0, 1 if some photos failed, 2 for a user's mistake."""
    try:
        settings = configure(arguments)
        name = arguments.mode.replace("srgan", "train")
        if arguments.input:
            name = {"mos": "ratings", "evaluate": "restore"}.get(name, name)
        with quiet():  # most modes import TensorFlow
            mode = importlib.import_module(MODULES.get(name, name))
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        match name:
            case "app":
                mode.launch(arguments.share_on_network, settings, arguments.weights)
            case "mos":
                mode.build(settings, arguments.restart)
            case "ratings":
                mode.analyse(settings, arguments.input[0])
            case "download":
                mode.div2k(settings.DOWNLOAD.url)
            case _:
                return getattr(mode, name)(arguments, settings)
        return 0
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except AttributeError as error:
        if not isinstance(error.obj, EasyDict):
            raise
        print(f"The setting {error.name} is missing in config.py; put its line back.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
