"""SRGAN: `python main.py` trains it, `python main.py --mode=evaluate` scores it and restores photos.

After Ledig et al., Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network,
https://arxiv.org/abs/1609.04802. Settings are in config.py.
"""
import argparse
import importlib
import signal
import sys

try:
    from config import config, override, resolve
except ModuleNotFoundError as error:
    sys.exit(f"The package {error.name} is not installed; run: pip install -r requirements.txt")
except (SyntaxError, NameError) as error:
    sys.exit(f"config.py can't be read ({error}); undo the last edit.")
from utils import UserError, quiet

EXAMPLES = """examples:
  python main.py                                          train, or go on with the training in checkpoint/
  python main.py --set TRAIN.hr_img_path=my_photos/       ... on your own photos
  python main.py --restart                                ... from the beginning
  python main.py --mode=evaluate                          score the trained weights and draw the comparison
  python main.py --mode=evaluate --input photo.jpg        restore a photo of yours, or a folder of them, at 4x
  python main.py --mode=mos                               make a study in which people rate the evaluated pictures
  python main.py --mode=mos --input ratings/              analyse the files that the raters sent back
  python main.py --mode=download                          fetch DIV2K, 4.3 GB
"""


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description="SRGAN: single-image super-resolution by 4x.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", default="train", choices=("train", "srgan", "evaluate", "mos", "download"),
                        help="what to do; srgan is the original's name of train (default: %(default)s)")
    parser.add_argument("--input", metavar="PATH",
                        help="evaluate: a photo or a folder of photos to restore; mos: the folder of the raters' files")
    parser.add_argument("--output", metavar="DIR", help="evaluate: where the results go (default: samples/evaluate/)")
    parser.add_argument("--weights", metavar="FILE",
                        help="evaluate: this generator (.npz, .h5); train: the generator to start from")
    parser.add_argument("--restart", action="store_true",
                        help="train, mos: begin anew; the old checkpoint/ or study is moved aside, not deleted")
    parser.add_argument("--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[],
                        help="settings of config.py for this run, such as TRAIN.batch_size=8")
    arguments = parser.parse_args(argv)
    if arguments.mode in ("train", "srgan") and (arguments.input or arguments.output):
        parser.exit(2, "--input and --output do not go with training; to restore photos run: "
                       f"python main.py --mode=evaluate --input {arguments.input or 'photo.jpg'}\n")
    return arguments


def configure(arguments):
    """Apply `--set` to config and check all of it; `arguments.given` are then the names of the settings that it set."""
    arguments.given = override(config, arguments.set)
    resolve(config)


def main(arguments):
    """Run the mode of the command line. Returns the exit code: 0, 1 if some photos failed, 2 for a user's mistake."""
    try:
        configure(arguments)
        if arguments.mode == "mos" and arguments.input:
            import ratings  # no TensorFlow, so it answers at once
            ratings.analyse(config, arguments.input)
            return 0
        with quiet():  # each other mode imports TensorFlow
            mode = importlib.import_module({"srgan": "train"}.get(arguments.mode, arguments.mode))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if arguments.mode == "evaluate":
            return mode.evaluate(arguments, config)
        if arguments.mode == "mos":
            mode.build(config, arguments.restart)
            return 0
        if arguments.mode == "download":
            mode.div2k(config.DOWNLOAD)
            return 0
        return mode.train(arguments, config)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    # A file name may hold what the screen can't show; in a log file lines appear as they are printed.
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in the middle of the imports
    sys.exit(main(parse_arguments()))
