"""Running networks: whole images in tiles, GPUs and machines, the folder of a training run."""
