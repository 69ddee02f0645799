"""The formats of the world: images, weights, datasets, and which files belong together."""
