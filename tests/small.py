"""main.py with networks of few layers and small photos, to train in seconds: what is tested is the training alone."""
import dataclasses
import sys
from pathlib import Path

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
    for table, key, value in REPLACED:
        table[key] = value


if __name__ == "__main__":
    replace()
    arguments = main.parse_arguments()
    sys.exit(main.main(arguments))
