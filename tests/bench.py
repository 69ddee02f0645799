"""How fast training and evaluation are, beside peers with the same weights: `python tests/bench.py`, or with --quick.

Runs training's own steps (`train.Trainer`), evaluation's own upscaling (`upscaling.Upscaler`) and `main.py` as a user
does. The peers (peers.py) are PyTorch, ONNX Runtime, OpenVINO and ncnn, as far as they are installed. Each row is
measured in float32 and, where the processor has it, in bfloat16: against the peers in the same precision, and against
each peer as it comes. That a peer computes the same is checked before it is timed. Candidates take turns, so that other
load on the machine hits all alike. A time is a median, with the fastest and the slowest run in brackets; a ratio is one
of medians. No time is asserted.
"""
import argparse
import contextlib
import functools
import importlib
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import utils  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
import peers  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image  # noqa: E402

import data  # noqa: E402
import losses  # noqa: E402
import model  # noqa: E402
import train  # noqa: E402
import weights  # noqa: E402
from config import config, resolve  # noqa: E402
from engine import devices, upscaling  # noqa: E402
from files import images, photo_files  # noqa: E402

PACKAGES = {"torch": "PyTorch", "onnx": "ONNX", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "ncnn": "ncnn"}
with utils.quiet():
    PRECISIONS = tuple(dict.fromkeys(("float32", devices.precision("auto"))))
if os.environ.get("ONEDNN_MAX_CPU_ISA") == "AVX2":  # to measure what a processor with AVX2 alone does
    PRECISIONS = PRECISIONS[:1]
BATCH, PATCH = 16, 96
N_PHOTOS = 800  # as in DIV2K
ARGUMENTS = argparse.ArgumentParser(description=__doc__.split("\n")[0])
ARGUMENTS.add_argument("--quick", action="store_true", help="smaller batches and photos, three runs: within 3 minutes")
ARGUMENTS.add_argument("--photos", metavar="DIR",
                       help="make 800 photos of 2K from those here, and measure the first epoch on them; needs 8 GB")


# --------------------------------------------------------------------------------------------------------- timing


def take_turns(candidates, n_runs):
    """Seconds of each run of each candidate, {key: function}, called in turn; the first call was that of the check."""
    seconds = {key: [] for key in candidates}
    for _ in range(n_runs):
        for key, candidate in candidates.items():
            began = time.perf_counter()
            candidate()
            seconds[key].append(time.perf_counter() - began)
    return seconds


def spread(seconds):
    """Median, fastest and slowest as text."""
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def row(what, ours, beside, ratio, target):
    """Print a row of the table as soon as it is known."""
    print(f"| {what} | {ours} | {beside} | {ratio} | {target} |", flush=True)


def compare(what, seconds, defaults, targets):
    """The rows of times of `take_turns`, whose keys are (name, precision); ours are called "ours".

    A row for each precision, with the peers in the same one. Where there are several, a further row has ours and the
    peers as they come (`defaults`: their keys); its ratio is that to the fastest peer in any precision.
    """
    ours = {precision: times for (name, precision), times in seconds.items() if name == "ours"}
    others = {key: times for key, times in seconds.items() if key[0] != "ours"}

    def print_row(title, times, shown, fastest_of):
        ratio = "no peer here"
        if fastest_of:
            ratio = f"{statistics.median(times) / min(map(statistics.median, fastest_of.values())):.2f}"
        row(f"{what}, {title}", spread(times), ", ".join(f"{name} {spread(t)}" for name, t in shown.items()), ratio,
            targets.get(title, ""))

    for precision, times in ours.items():
        same = {name: t for (name, p), t in others.items() if p == precision}
        print_row(precision, times, same, same)
    if len(ours) > 1:
        shown = {f"{name} ({precision})": t for (name, precision), t in others.items() if (name, precision) in defaults}
        print_row("as each comes", ours["bfloat16"], shown, others)


def check_same(what, ours, peer, tolerance, measure=np.max):
    """Stop if a peer computes something else: the comparison would be void."""
    difference = measure(np.abs(np.asarray(ours, float) - np.asarray(peer)))
    if not difference <= tolerance * max(1, np.abs(ours).max()):
        sys.exit(f"{what} differs from ours by {difference:.2g}: the comparison would be void.")


def run(*command):
    """Seconds and peak resident MB of a command, from the shell's view."""
    began = time.perf_counter()
    with open("run.log", "w") as log:
        process = subprocess.Popen([sys.executable, *map(str, command)], stdout=log, stderr=log)
    peak = 0
    while process.poll() is None:  # not os.wait4, which also counts the memory of the process that started it
        with contextlib.suppress(OSError):
            match = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            peak = int(match[1]) / 1024 if match else peak
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"{command} failed: {Path('run.log').read_text()[-1000:]}")
    return time.perf_counter() - began, peak


# -------------------------------------------------------------------------------------------------------- training


def make_trainer(photos, architecture="paper", loss="srgan_mse", precision="float32", discriminator="own"):
    config.TRAIN.architecture, config.TRAIN.loss = architecture, loss
    keras.utils.set_random_seed(0)
    patches = data.Patches(photos, 0, BATCH, PATCH, 8)
    with devices.compute_in(precision):
        recipes = losses.read_recipes(config)
        layers = losses.vgg_layers(*recipes)
        networks, _ = train.make_networks(config.TRAIN, None, {"discriminator": discriminator})
        trainer = train.Trainer(tf.distribute.get_strategy(), config.TRAIN, patches, networks, recipes,
                                losses.get_vgg(layers) if layers else None)
    rng = np.random.default_rng(0)
    for weight in networks.generator.weights:  # blocks that start as the identity would hide much from the checks
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(rng.uniform(0.2, 0.4, weight.shape))
    for optimizer in trainer.optimizers:
        optimizer.learning_rate.assign(1e-4)
    return trainer


def losses_of(step, batch):
    return {name: float(loss) for name, loss in step(*batch).items()}  # waits for the result


def bench_step(what, phase, targets, batch, installed, n_runs, make):
    """Rows for the step of a phase beside PyTorch's. The losses of the first step must be equal.

    make: makes the trainer for a precision. Returns the trainers by precision.
    """
    trainers = {precision: make(precision=precision) for precision in PRECISIONS}
    steps = {("ours", precision): trainer.phases[phase - 1].step for precision, trainer in trainers.items()}
    defaults = set()
    if "torch" in installed:
        import torch
        for precision in PRECISIONS:
            peer = peers.TorchTrainer(trainers["float32"], torch.channels_last, precision)
            steps["PyTorch NHWC", precision] = peer.steps[phase - 1]
        peer = peers.TorchTrainer(trainers["float32"], torch.contiguous_format, "float32")
        steps["PyTorch NCHW", "float32"] = peer.steps[phase - 1]
        defaults.add(("PyTorch NCHW", "float32"))

    first = {key: losses_of(step, batch) for key, step in steps.items()}
    for (name, precision), values in first.items():
        for loss, value in values.items():
            check_same(f"{what}, the loss {loss} of {name}, {precision},", first["ours", "float32"][loss], value,
                       1e-3 if precision == "float32" else 3e-2)
    candidates = {key: functools.partial(losses_of, step, batch) for key, step in steps.items()}
    compare(what, take_turns(candidates, n_runs), defaults, targets)
    return trainers


def bench_alone(what, trainers, batch, n_runs):
    """Rows for the step of the discriminator alone, beside phase 2's."""
    for precision, trainer in trainers.items():
        both = trainer.phases[1].step
        losses_of(both.discriminator_alone, batch)  # compiled here
        seconds = take_turns({step: functools.partial(losses_of, step, batch)
                              for step in (both.discriminator_alone, both)}, n_runs)
        alone, beside = seconds.values()
        row(f"{what}, {precision}", spread(alone), f"phase-2 step {spread(beside)}",
            f"{statistics.median(alone) / statistics.median(beside):.2f}", "0.40")


def bench_training(photos, installed, quick):
    batch_size, n_runs = (4, 3) if quick else (BATCH, 5)
    batch = next(iter(data.Patches(photos, 0, batch_size, PATCH, 8).dataset(1, 0, 1)))
    size = f"batch {batch_size}, HR {PATCH}"
    for architecture, target in (("paper", "0.80"), ("tensorlayer", "0.90"))[:1 if quick else 2]:
        targets = {"float32": target, "bfloat16": "0.80"}
        bench_step(f"phase-1 step, {architecture}, {size}", 1, targets, batch, installed, n_runs,
                   functools.partial(make_trainer, photos, architecture))
    for loss, what in (("original", "with VGG19"), ("srgan_mse", "SRGAN-MSE"))[:1 if quick else 2]:
        targets = {"float32": "0.85", "bfloat16": "0.85"}
        trainers = bench_step(f"phase-2 step, {what}, {size}", 2, targets, batch, installed, n_runs,
                              functools.partial(make_trainer, photos, loss=loss))
        bench_alone(f"step of the discriminator alone, {what}, {size}", trainers, batch, n_runs)
    if not quick:
        trainers = {precision: make_trainer(photos, loss="textures", precision=precision, discriminator="unet")
                    for precision in PRECISIONS}
        bench_alone(f"step of the discriminator alone, U-Net and textures, {size}", trainers, batch, n_runs)
    for recipe in ("bicubic", "photo"):
        bench_data(trainers[PRECISIONS[-1]], photos, recipe, 10 if quick else 40)


def bench_devices():
    """A row for training's own seconds a step on one device and on two that are parts of the CPU."""
    seconds = []
    for n_devices in (1, 2):
        run(ROOT / "main.py", "--set", f"TRAIN.devices={n_devices}", f"TRAIN.batch_size={BATCH}", "VALID.n_quick=1",
            "TRAIN.n_epoch_init=1", "TRAIN.n_epoch=0", "TRAIN.patches_per_image=18",
            f"TRAIN.checkpoint_path=on_{n_devices}/")
        seconds.append(float(re.search(r"([\d.]+) s a step", Path("run.log").read_text())[1]))
    row("phase-1 step on two devices that share the CPU", f"{seconds[1]:.2f} s", f"one device {seconds[0]:.2f} s",
        f"{seconds[1] / seconds[0]:.2f}", "")


def bench_data(trainer, photos, recipe, n_steps):
    """Rows for the input pipeline, LR made by a recipe: alone, and while phase 1 trains."""
    degradation = None if recipe == "bicubic" else config.DEGRADATION[recipe]
    batches = iter(data.Patches(photos, 0, BATCH, PATCH, 8, degradation).dataset(1, 0, 10 ** 6))
    for _ in range(10):
        next(batches)
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(5 * n_steps):
        next(batches)
    rate, cpu = 5 * n_steps * BATCH / (time.perf_counter() - began), (time.process_time() - cpu) / (5 * n_steps)
    row(f"input pipeline, cached, {recipe}", f"{rate:,.0f} pairs/s", f"{1000 * cpu:.1f} ms of processor time a batch",
        f"{rate / 1500:.1f}", "1,500 pairs/s" if recipe == "bicubic" else "")
    waited = trained = 0.0
    step = trainer.phases[0].step
    float(step(*next(batches))["mse"])
    for _ in range(n_steps):
        began = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - began
        float(step(*batch)["mse"])
        trained += time.perf_counter() - began
    row(f"training waits for data, {recipe}", f"{1000 * waited / n_steps:.1f} ms a step",
        f"{trained / n_steps:.2f} s a step", f"{waited / trained:.2%}", "2%")


def bench_first_epoch(folder):
    """A row for the first epoch on 800 photos of 2K, made from those in `folder`."""
    originals = photo_files.list_images(folder)
    Path("800").mkdir()
    for number in range(N_PHOTOS):
        photo = Image.fromarray(images.read_image(originals[number % len(originals)]))
        photo.resize((2040, 1356), Image.BICUBIC, reducing_gap=2).save(f"800/{number:04}.jpg", quality=90)
    seconds, memory = run(ROOT / "main.py", "--set", "TRAIN.hr_img_path=800/", "TRAIN.n_epoch_init=1",
                          "TRAIN.n_epoch=0", "VALID.n_quick=1")
    row("first epoch on 800 photos of 2K, from the files", f"{seconds:.0f} s, {memory:.0f} MB at most", "",
        f"{memory / 2048:.2f}", "2,048 MB")


# ------------------------------------------------------------------------------------------------------ evaluation


def make_photo(width, height):
    """A real photo of that size as a file; returns its path and the pixels."""
    largest = max((images.read_image(hr) for hr, _ in data.packaged_pairs("train")), key=np.size)
    path = Path(f"photo_{width}x{height}.png")
    Image.fromarray(largest).resize((width, height), Image.BICUBIC).save(path)
    return path, images.read_image(path)


def bench_upscaling(generator, installed, quick):
    """Rows for the upscaling alone; returns the seconds per pixel of the precision that `--input` uses."""
    upscaling.COMPILE_AFTER = 0  # as for the second photo of a size, or the second tile of a large one
    upscalers = {precision: upscaling.Upscaler(generator, precision=precision)
                 for precision in PRECISIONS}
    per_pixel = []
    for width, height in ((160, 90),) if quick else ((320, 180), (510, 339)):
        _, lr = make_photo(width, height)
        others, defaults = peers.upscalers(generator, lr, installed, PRECISIONS)
        candidates = {("ours", precision): functools.partial(ours, lr) for precision, ours in upscalers.items()}
        sr = candidates["ours", "float32"]() / 127.5 - 1
        for (name, precision), peer in {**candidates, **others}.items():
            found = peer()[0] if name != "ours" else peer() / 127.5 - 1
            if precision == "float32":
                check_same(f"The picture of {name}", sr, found, 0.6 / 127.5)  # ours is rounded to 8 bits
            else:
                check_same(f"The picture of {name} in {precision}", sr, found, 1 / 127.5, np.mean)
        seconds = take_turns({**candidates, **others}, 3 if quick else 5)
        per_pixel.append(statistics.median(seconds["ours", PRECISIONS[-1]]) / (width * height))
        compare(f"upscaling {width}x{height}", seconds, defaults, {"float32": "0.75", "as each comes": "0.90"})
    return per_pixel[0]


def bench_scales(quick):
    """Rows for the upscaling by networks of each scale, by LR pixel."""
    _, lr = make_photo(160, 90)
    upscalers = {scale: functools.partial(upscaling.Upscaler(
        model.get_G(scale=scale), precision=PRECISIONS[-1]), lr) for scale in model.UPSAMPLING}
    for upscale in upscalers.values():
        upscale()
    for scale, seconds in take_turns(upscalers, 3 if quick else 5).items():
        per_pixel = 1e6 * statistics.median(seconds) / (160 * 90)
        row(f"upscaling 160x90 by {scale}, {PRECISIONS[-1]}", spread(seconds), f"{per_pixel:.1f} us per LR pixel", "",
            "")


def bench_process(generator, per_pixel, quick):
    """Rows for `main.py --input`, whole processes; per_pixel: from `bench_upscaling`."""
    weights.save_network("g.npz", generator)

    def restore(path):
        return run(ROOT / "main.py", "--mode=evaluate", "--weights", "g.npz", "--output", "out", "--input", path,
                   "--set", f"RESTORE.precision={PRECISIONS[-1]}")

    small, _ = make_photo(320, 180)
    imports, restores = [], []
    for _ in range(3 if quick else 5):
        imports.append(run("-c", "import tensorflow")[0])
        restores.append(restore(small))
    times = [seconds for seconds, _ in restores]
    alone = statistics.median(times)
    row("`--input` of a 320x180 photo, whole process",
        f"{spread(times)}, {max(memory for _, memory in restores):.0f} MB at most",
        f'`python -c "import tensorflow"` {spread(imports)}', f"{alone / statistics.median(imports):.2f}", "1.9")

    if quick:
        return
    Path("four").mkdir()
    for width, height in ((320, 180), (300, 192), (240, 240), (360, 160)):  # the same number of pixels
        path, _ = make_photo(width, height)
        path.rename(Path("four") / path.name)
    seconds, _ = restore("four")
    row("`--input` of 4 photos of different sizes, whole process", f"{seconds:.2f} s",
        f"{(seconds - alone) / 3:.2f} s per further photo", "", "")

    width, height = 2040, 1356
    seconds, memory = restore(make_photo(width, height)[0])
    further = 1e6 * (seconds - alone) / (width * height - 320 * 180)
    row(f"`--input` of a {width}x{height} photo, whole process", f"{seconds:.1f} s, {memory:.0f} MB at most",
        f"{further:.1f} us per further pixel, upscaling alone {1e6 * per_pixel:.1f}",
        f"{seconds / 60:.2f}, {memory / 1536:.2f}", "60 s, 1,536 MB")


# ------------------------------------------------------------------------------------------------------------ main


def describe_machine():
    """Print what the table depends on; returns the installed peers with their versions."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.import_module(name).__version__.split("-")[0]
        except ImportError:
            print(f"{PACKAGES[name]} is not installed; it is left out.")
    cpu_info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpu_info.read_text()) if cpu_info.exists() else None
    processor = found[1] if found else platform.processor()
    print(f"{processor}, {os.cpu_count()} cores, {' and '.join(PRECISIONS)}, load {os.getloadavg()[0]:.1f}; Python "
          f"{platform.python_version()}, TensorFlow {tf.__version__}, "
          + ", ".join(f"{PACKAGES[name]} {version}" for name, version in installed.items()))
    return installed


def bench(arguments):
    given = arguments.photos and Path(arguments.photos).resolve()
    began = time.perf_counter()
    with utils.quiet():
        devices.list_devices()
    installed = describe_machine()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        resolve(config)
        config.TRAIN.batch_size, config.TRAIN.hr_patch_size = BATCH, PATCH
        photos = data.cache_photos(data.packaged_pairs("train"), "", "cache/", PATCH, 4)
        print("\n| | here | beside it | ratio | target |\n|---|---|---|---|---|")
        generator = make_trainer(photos).networks.generator
        per_pixel = bench_upscaling(generator, installed, arguments.quick)
        bench_scales(arguments.quick)
        bench_process(generator, per_pixel, arguments.quick)
        bench_training(photos, installed, arguments.quick)
        if not arguments.quick:
            bench_devices()
        if given:
            bench_first_epoch(given)
    print(f"\n{time.perf_counter() - began:.0f} s in all.")


if __name__ == "__main__":
    bench(ARGUMENTS.parse_args())
