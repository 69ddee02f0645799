"""main.py with networks of few layers, to train in seconds: what is tested is the training, not the networks."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import main
import model


def discriminator(x, architecture):
    x = model.batch_norm(model.conv(x, 8, 3, "conv_1", architecture, strides=4, use_bias=False), "bn_1", architecture)
    return model.layers.Flatten(name="flatten")(model.leaky_relu(x, "act_1"))


NETWORKS = {"N_BLOCKS": 1, "_paper_discriminator": discriminator}

if __name__ == "__main__":
    for name, value in NETWORKS.items():
        setattr(model, name, value)
    arguments = main.parse_arguments()
    main.configure(arguments.set)
    sys.exit(main.main(arguments))
