"""The record of a training run: measures, samples, curves."""
import functools
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import metrics
from engine import runs, upscaling
from files import images

VISIBLE_MESH = 1.0  # of `metrics.mesh`


class Monitor:
    """The measures of a training run, its samples, and the curves of both for TensorBoard.

    network: the generator that is measured.
    total_step: of the curves.
    pairs: HR and LR to measure.
    patches: LR and HR to draw, the same each time.
    folder: of the run.
    memory_mb: for upscaling.
    origin: what the run started from. Measures of given weights are added to it, unless the run is `resumed`.
    """

    def __init__(self, network: keras.Model, total_step: tf.Variable, pairs: list[tuple[np.ndarray, np.ndarray]],
                 patches: tuple[np.ndarray, np.ndarray], folder: Path, memory_mb: int, origin: dict, resumed: bool):
        self.network, self.total_step, self.pairs, self.patches = network, total_step, pairs, patches
        self.upscaler = upscaling.Upscaler(network, memory_mb)
        self.writer = tf.summary.create_file_writer(str(runs.tensorflow_path(folder) / "logs"))
        self.origin = origin
        if origin.get("weights") and pairs and not resumed:
            origin |= self.measure(2)

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

    def measure(self, phase: int) -> dict[str, float]:
        """Means of metrics.METRICS of the network, as it is now, on the pairs, without those that are not defined."""
        self.upscaler.refresh(self.network)
        means = metrics.mean([metrics.measure(self.upscaler(lr), hr, lr) for hr, lr in self.pairs])
        means = {name: value for name, value in means.items() if value is not None}
        self.log(phase, means)
        return means

    def describe(self, means: dict[str, float]) -> str:
        """Means beside those of the weights that the run started from, if any, and PSNR beside bicubic's."""
        parts = []
        for name in filter(means.get, ("psnr", "lr_psnr", "niqe")):
            beside = {metrics.METRICS[name].title: means[name], "at the start": self.origin.get(name)}
            if name == "psnr":
                beside["bicubic"] = self.bicubic_psnr
            parts.append(", ".join(metrics.METRICS[name]._replace(title=title).describe(value)
                                   for title, value in beside.items() if value is not None))
        return "; ".join(parts)

    def draw(self, phase: int, path: Path) -> None:
        """Draw the patches into a file: a column each, from above bicubic, SR and HR. Says where SR has a mesh."""
        columns = [(images.resize(lr, *hr.shape[:2]), self.upscaler(lr), hr)
                   for lr, hr in zip(*self.patches, strict=True)]
        bicubic, sr, hr = map(np.hstack, zip(*columns, strict=True))
        images.write_image(path, grid := np.vstack([bicubic, sr, hr]))
        self.log(phase, {}, grid)
        mesh = metrics.mesh(sr, np.hstack(self.patches[0]))
        if phase == 2 and mesh is not None and mesh > VISIBLE_MESH:
            print(f"Smooth areas of {path} have a mesh of {mesh:.1f} levels (0.3 is usual). Give the loss "
                  "weave, which takes it away, a weight in your recipe, such as LOSS.original.weave=5, and run again.")
