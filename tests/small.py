"""main.py with networks of few layers and small photos, to train in seconds: what is tested is the training alone."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import data
import main
import model


def discriminator(x, architecture):
    x = model.batch_norm(model.conv(x, 8, 3, "conv_1", architecture, strides=4, use_bias=False), "bn_1", architecture)
    return model.layers.Flatten(name="flatten")(model.leaky_relu(x, "act_1"))


REPLACED = [(model, "N_BLOCKS", 1), (model, "_paper_discriminator", discriminator),
            (data, "PACKAGED", {**data.PACKAGED, "valid": ["skimage/data/microaneurysms.png"]})]

if __name__ == "__main__":
    for replaced in REPLACED:
        setattr(*replaced)
    arguments = main.parse_arguments()
    main.configure(arguments.set)
    sys.exit(main.main(arguments))
