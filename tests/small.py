"""main.py with networks of few layers and small photos, to train in seconds: what is tested is the training alone."""
import dataclasses
import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

import keras

import data
import main
import model


def discriminator(hr, kit):
    x = kit.leaky_relu(kit.conv_norm(hr, 8, 3, "conv_1", strides=4), "act_1")
    return kit.logits(keras.layers.Flatten(name="flatten")(x))


PAPER = dataclasses.replace(model.PAPER, n_blocks=1, discriminator=discriminator)
REPLACED = [(model.ARCHITECTURES, "paper", PAPER),
            (data.PACKAGED, "valid", ["skimage/data/microaneurysms.png"])]


def replace():
    os.fsync = lambda file: None  # as in conftest.py
    for table, key, value in REPLACED:
        table[key] = value


def run(folder, arguments, environment):
    os.chdir(folder)
    os.environ.update(environment)
    replace()
    sys.exit(main.main(main.parse_arguments(arguments)))


def print_to(output, function, *arguments):
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    sys.stdout.reconfigure(line_buffering=True)
    function(*arguments)


class Fork:
    """A process that calls a function, as subprocess.Popen would start it, with output and errors in `stdout`.

    It is the fork of a server that has imported TensorFlow, which takes longer than most trainings here.
    """

    def __init__(self, function, *arguments):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["small", "train"])
        with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
            forkserver.ensure_running()
        reader, writer = context.Pipe(duplex=False)
        self.process = context.Process(target=print_to, args=(writer, function, *arguments))
        self.process.start()
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()))
        reader.close()
        self.pid, self.terminate, self.kill = self.process.pid, self.process.terminate, self.process.kill

    @property
    def returncode(self):
        return self.process.exitcode

    def communicate(self, timeout=None):
        output = self.stdout.read()
        self.process.join(timeout)
        return output, None

    def send_signal(self, number):
        os.kill(self.pid, number)


class Training(Fork):
    """A process of this file in a folder."""

    def __init__(self, folder, *arguments, **environment):
        super().__init__(run, folder, [*map(str, arguments)], environment)


if __name__ == "__main__":
    replace()
    arguments = main.parse_arguments()
    sys.exit(main.main(arguments))
