"""Running the networks: command line, steps of training, tiles, devices, the folder of a training run."""
