"""The record of a training run: PSNR, samples, curves."""
import functools
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import metrics
from engine import runs, upscaling
from files import images


class Monitor:
    """The PSNR of a training run, its samples, and the curves of both for TensorBoard.

    network: the generator that is measured.
    total_step: of the curves.
    pairs: HR and LR to measure.
    patches: HR and LR to draw, the same each time.
    folder: of the run.
    memory_mb: for upscaling.
    origin: what the run started from. Of given weights the PSNR is added to it, unless the run is `resumed`.
    """

    def __init__(self, network: keras.Model, total_step: tf.Variable, pairs: list[tuple[np.ndarray, np.ndarray]],
                 patches: tuple[np.ndarray, np.ndarray], folder: Path, memory_mb: int, origin: dict, resumed: bool):
        self.network, self.total_step, self.pairs, self.patches = network, total_step, pairs, patches
        self.upscaler = upscaling.Upscaler(network, memory_mb)
        self.writer = tf.summary.create_file_writer(str(runs.tensorflow_path(folder) / "logs"))
        self.origin = origin
        if origin.get("weights") and pairs and not resumed:
            origin["psnr"] = float(self.measure(2))

    @functools.cached_property
    def bicubic_psnr(self) -> float:
        """Mean PSNR of bicubic upscaling on the same images."""
        return np.mean([metrics.psnr(images.resize(lr, *hr.shape[:2]), hr, lr) for hr, lr in self.pairs])

    def log(self, phase: int, scalars: dict[str, float], image: np.ndarray | None = None) -> None:
        """Write numbers, and perhaps an image, for TensorBoard. phase: its number."""
        with self.writer.as_default(int(tf.convert_to_tensor(self.total_step))):
            for name, value in scalars.items():
                tf.summary.scalar(f"phase_{phase}/{name}", value)
            if image is not None:
                tf.summary.image(f"phase_{phase}/samples", image[np.newaxis])
        self.writer.flush()

    def measure(self, phase: int) -> float:
        """Mean PSNR of the network, as it is now, on the pairs; the other measures are logged."""
        self.upscaler.refresh(self.network)
        means = metrics.mean([metrics.measure(self.upscaler(lr), hr, lr) for hr, lr in self.pairs])
        self.log(phase, {name: value for name, value in means.items() if value is not None})
        return means["psnr"]

    def describe(self, psnr: float) -> str:
        """A PSNR beside that of the weights that the run started from, if any, and that of bicubic."""
        start = f"at the start {self.origin['psnr']:.2f} dB, " if "psnr" in self.origin else ""
        return f"PSNR {psnr:.2f} dB, {start}bicubic {self.bicubic_psnr:.2f} dB"

    def draw(self, phase: int, path: Path) -> None:
        """Draw the patches into a file: a column each, from above bicubic, SR and HR."""
        grid = np.hstack([np.vstack([images.resize(lr, *hr.shape[:2]), self.upscaler(lr), hr])
                          for lr, hr in zip(*self.patches, strict=True)])
        images.write_image(path, grid)
        self.log(phase, {}, grid)
