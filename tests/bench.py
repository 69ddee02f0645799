"""How fast training and evaluation are, beside peers with the same weights: `python tests/bench.py`, or with --quick.

Runs training's own steps (`train.Trainer`), evaluation's own upscaling (`model.Upscaler`) and `main.py` as a user does.
Peers are PyTorch, ONNX Runtime and OpenVINO, where they are installed; that they compute the same is checked before they
are timed. Candidates take turns, so that whatever else the machine does hits all alike. A time is the median, with the
fastest and the slowest run behind it; a ratio is that of two medians. Nothing is asserted on time.
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
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import utils  # noqa: E402

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image  # noqa: E402

import data  # noqa: E402
import devices  # noqa: E402
import images  # noqa: E402
import model  # noqa: E402
import train  # noqa: E402
import weights  # noqa: E402
from config import config, resolve  # noqa: E402

PEERS = {"torch": "PyTorch", "onnx": "ONNX", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
BATCH, PATCH = 16, 96
N_PHOTOS = 800  # as many as DIV2K has
ARGUMENTS = argparse.ArgumentParser(description=__doc__.split("\n")[0])
ARGUMENTS.add_argument("--quick", action="store_true", help="smaller batches and photos, fewer runs: within 2 minutes")
ARGUMENTS.add_argument("--photos", metavar="DIR",
                       help="make 800 photos of 2K from those here, and measure the first epoch on them; 8 GB")


# --------------------------------------------------------------------------------------------------------- timing


def take_turns(candidates, n_runs):
    """Seconds of each run of each candidate, {name: function}, called in turn; all were called before, to be checked."""
    seconds = {name: [] for name in candidates}
    for _ in range(n_runs):
        for name, candidate in candidates.items():
            began = time.perf_counter()
            candidate()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def spread(seconds):
    """Median, fastest and slowest as text."""
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def row(what, ours, beside, ratio, target):
    """A row of the table, printed as soon as it is known."""
    print(f"| {what} | {ours} | {beside} | {ratio} | {target} |", flush=True)


def compare(what, target, seconds):
    """The row of times of `take_turns`: ours, named "ours", against the fastest of the others."""
    ours, ratio = seconds.pop("ours"), "no peer here"
    if seconds:
        ratio = f"{statistics.median(ours) / min(map(statistics.median, seconds.values())):.2f}"
    row(what, spread(ours), ", ".join(f"{name} {spread(times)}" for name, times in seconds.items()), ratio, target)


def check_same(what, ours, peer, tolerance):
    """A peer that computes something else is no peer."""
    difference = np.abs(np.asarray(ours) - np.asarray(peer)).max()
    if not difference <= tolerance * max(1, np.abs(ours).max()):
        sys.exit(f"{what} differs from ours by {difference:.2g}: the comparison would be void.")


def run_main(*arguments):
    """Seconds and peak resident MB of `python main.py ...`, a whole process from the shell's view."""
    began = time.perf_counter()
    with open("main.log", "w") as log:
        process = subprocess.Popen([sys.executable, ROOT / "main.py", *map(str, arguments)], stdout=log, stderr=log)
    peak = 0
    while process.poll() is None:  # not by os.wait4, which counts the memory of the process that started it
        with contextlib.suppress(OSError):
            match = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            peak = int(match[1]) / 1024 if match else peak
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"main.py failed: {Path('main.log').read_text()[-1000:]}")
    return time.perf_counter() - began, peak


# -------------------------------------------------------------------------------------------- the networks in PyTorch


def torch_generator(architecture, folded=False):
    """The generator as one writes it in PyTorch, its modules named as our layers. NCHW."""
    from torch import nn
    paper = architecture == "paper"

    def conv(channels, filters, size, bias=True):
        return nn.Conv2d(channels, filters, size, padding=size // 2, bias=bias)

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()

            def conv_norm(name, number):
                self.add_module(f"{name}_conv_{number}", conv(64, 64, 3, bias=folded))
                self.add_module(f"{name}_bn_{number}", nn.Identity() if folded else nn.BatchNorm2d(64, model.BN_EPSILON))

            self.head_conv = conv(3, 64, 9 if paper else 3)
            for block in range(1, model.PAPER.n_blocks + 1):
                conv_norm(f"block_{block}", 1)
                conv_norm(f"block_{block}", 2)
            conv_norm("trunk", 1)
            self.upsample_1_conv, self.upsample_2_conv = conv(64, 256, 3), conv(64, 256, 3)
            self.tail_conv = conv(64, 3, 9 if paper else 1)
            for name in ("head", *(f"block_{block}" for block in range(1, model.PAPER.n_blocks + 1)), "upsample_1", "upsample_2"):
                self.add_module(f"{name}_act", nn.PReLU(64) if paper else nn.ReLU())
            self.shuffle = nn.PixelShuffle(2)

        def forward(self, x):
            def conv_norm(x, name, number):
                return getattr(self, f"{name}_bn_{number}")(getattr(self, f"{name}_conv_{number}")(x))

            x = head = self.head_act(self.head_conv(x))
            for block in (f"block_{block}" for block in range(1, model.PAPER.n_blocks + 1)):
                x = x + conv_norm(getattr(self, f"{block}_act")(conv_norm(x, block, 1)), block, 2)
            x = conv_norm(x, "trunk", 1) + head
            x = self.upsample_1_act(self.shuffle(self.upsample_1_conv(x)))
            x = self.upsample_2_act(self.shuffle(self.upsample_2_conv(x)))
            return self.tail_conv(x).tanh()

    return Generator()


def torch_discriminator():
    """The discriminator of the article in PyTorch, its modules named as our layers. NCHW."""
    from torch import nn
    network, channels = nn.Sequential(), 3
    for number, filters in enumerate((64, 64, 128, 128, 256, 256, 512, 512), start=1):
        strides = 2 - number % 2
        network.add_module(f"conv_{number}", nn.Conv2d(channels, filters, 3, strides, padding=1, bias=number == 1))
        if number > 1:
            network.add_module(f"bn_{number}", nn.BatchNorm2d(filters, model.BN_EPSILON))
        network.add_module(f"act_{number}", nn.LeakyReLU(0.2))
        channels = filters
    network.add_module("flatten", nn.Flatten())
    network.add_module("dense", nn.Linear(512 * (PATCH // 16) ** 2, 1024))
    network.add_module("dense_act", nn.LeakyReLU(0.2))
    network.add_module("logits", nn.Linear(1024, 1))
    return network


def torch_vgg():
    """VGG19 up to pool4 in PyTorch, its modules named as those of keras.applications. NCHW, input as VGG19 wants it."""
    from torch import nn
    network, channels = nn.Sequential(), 3
    for block, (filters, depth) in enumerate(((64, 2), (128, 2), (256, 4), (512, 4)), start=1):
        for number in range(1, depth + 1):
            network.add_module(f"block{block}_conv{number}", nn.Conv2d(channels, filters, 3, padding=1))
            network.add_module(f"act{block}_{number}", nn.ReLU())
            channels = filters
        network.add_module(f"pool{block}", nn.MaxPool2d(2))
    return network


def give_weights(network, peer, mirrored=False):
    """Give a network of PyTorch the weights of ours, by the names of the layers.

    mirrored: for a network that gets its images upside down and left to right. TensorFlow pads a convolution of stride 2
    below and on the right, PyTorch above and on the left, so that their discriminators see each other's mirror image.
    """
    import torch
    for layer in network.layers:
        if not layer.weights:
            continue
        target, (weight, *others) = getattr(peer, layer.name), layer.get_weights()
        if weight.ndim == 4:
            weight = weight[::-1, ::-1] if mirrored else weight
            if layer.name.startswith("upsample"):  # PyTorch numbers the sub-pixels of a channel first
                weight, others = weight.reshape(3, 3, 64, 4, 64).swapaxes(3, 4), [others[0].reshape(4, 64).T.reshape(-1)]
            weight = weight.reshape(*weight.shape[:3], -1).transpose(3, 2, 0, 1)
        elif weight.ndim == 2:
            if layer.name == "dense":  # the one behind the flattened maps
                maps = weight.reshape(PATCH // 16, PATCH // 16, 512, -1)
                weight = (maps[::-1, ::-1] if mirrored else maps).transpose(2, 0, 1, 3).reshape(weight.shape)
            weight = weight.T
        arrays = [weight, *others]
        tensors = [t for name, t in target.state_dict().items() if name != "num_batches_tracked"]
        for tensor, array in zip(tensors, arrays, strict=True):
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))
    return peer


def nchw(images):
    """As PyTorch has it; the memory stays as it is, which PyTorch calls channels_last."""
    import torch
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


class TorchTrainer:
    """The steps of train.Trainer as one writes them in eager PyTorch: the same networks, weights, losses and optimizers."""

    def __init__(self, trainer, memory_format):
        import torch
        self.torch, self.format, self.recipe = torch, memory_format, trainer.recipe
        self.architecture = trainer.generator.architecture.name
        self.generator = self.place(give_weights(trainer.generator, torch_generator(self.architecture)))
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), 1e-4)
        if self.architecture == "paper":
            self.discriminator = self.place(give_weights(trainer.discriminator, torch_discriminator(), mirrored=True))
            self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), 1e-4)
        self.vgg = None
        if trainer.vgg:
            keras_vgg = next(layer for layer in trainer.vgg.layers if hasattr(layer, "layers"))
            self.vgg = self.place(give_weights(keras_vgg, torch_vgg())).requires_grad_(False)

    def place(self, network):
        return network.to(memory_format=self.format)

    def images(self, lr, hr):
        lr = nchw(model.normalize_lr(lr, model.ARCHITECTURES[self.architecture])).contiguous(memory_format=self.format)
        return lr, nchw(model.normalize_hr(hr)).contiguous(memory_format=self.format)

    def features(self, hr):
        mean = self.torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
        return self.vgg((hr.flip(1) + 1) * 127.5 - mean)

    def init_step(self, lr, hr):
        lr, hr = self.images(lr, hr)
        loss = self.torch.nn.functional.mse_loss(self.generator(lr), hr)
        self.g_optimizer.zero_grad()
        loss.backward()
        self.g_optimizer.step()
        return {"mse": loss.item()}

    def gan_step(self, lr, hr):
        functional = self.torch.nn.functional

        def cross_entropy(logits, truth):
            return functional.binary_cross_entropy_with_logits(logits, self.torch.full_like(logits, truth))

        lr, hr = self.images(lr, hr)
        sr = self.generator(lr)
        logits_hr, logits_sr = self.discriminator(hr.flip(2, 3)), self.discriminator(sr.flip(2, 3))
        mse, adversarial = functional.mse_loss(sr, hr), cross_entropy(logits_sr, 1)
        g_loss = self.recipe.w_mse * mse + self.recipe.w_adv * adversarial
        losses = {"mse": mse, "adv": adversarial}
        if self.vgg:
            with self.torch.no_grad():
                truth = self.features(hr)
            losses["vgg"] = functional.mse_loss(self.features(sr), truth)
            g_loss = g_loss + self.recipe.w_vgg * losses["vgg"]
        losses["d"] = d_loss = cross_entropy(logits_hr, 1) + cross_entropy(logits_sr, 0)
        self.g_optimizer.zero_grad()
        self.d_optimizer.zero_grad()
        g_loss.backward(inputs=list(self.generator.parameters()), retain_graph=True)
        d_loss.backward(inputs=list(self.discriminator.parameters()))
        self.g_optimizer.step()
        self.d_optimizer.step()
        return {name: loss.item() for name, loss in losses.items()}


# -------------------------------------------------------------------------------------------------------- training


def make_trainer(photos, architecture="paper", loss="srgan_mse"):
    config.TRAIN.architecture, config.TRAIN.loss = architecture, loss
    tf.keras.utils.set_random_seed(0)
    vgg = None
    if config.LOSS[loss].w_vgg:
        vgg = model.get_VGG(config.LOSS[loss].vgg_layer)
    patches = data.Patches(photos, 0, BATCH, PATCH, 8)
    trainer = train.Trainer(tf.distribute.get_strategy(), config.TRAIN, patches, train.make_networks(config.TRAIN, None),
                            config.LOSS[loss], vgg)
    rng = np.random.default_rng(0)
    for weight in trainer.generator.weights:  # at first its blocks are the identity, which would hide much from the checks
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(rng.uniform(0.2, 0.4, weight.shape))
    for optimizer in trainer.optimizers:
        optimizer.learning_rate.assign(1e-4)
    return trainer


def bench_step(what, target, step, trainer, batch, installed, n_runs):
    """A row for `trainer.init_step` or `.gan_step`, with PyTorch's beside it; the losses of the first step must be equal."""
    def ours():
        return {name: float(loss) for name, loss in getattr(trainer, step)(*batch).items()}

    candidates = {"ours": ours}
    if "torch" in installed:
        import torch
        for name, memory_format in (("PyTorch NCHW", torch.contiguous_format), ("PyTorch NHWC", torch.channels_last)):
            peer = getattr(TorchTrainer(trainer, memory_format), step)
            candidates[name] = lambda peer=peer: peer(*batch)
    losses = {name: candidate() for name, candidate in candidates.items()}
    for name, values in losses.items():
        for loss in values:
            check_same(f"{what}, the loss {loss} of {name},", losses["ours"][loss], values[loss], 1e-3)
    compare(what, target, take_turns(candidates, n_runs))


def bench_training(photos, installed, quick):
    batch_size, n_runs = (4, 1) if quick else (BATCH, 5)
    batch = next(iter(data.Patches(photos, 0, batch_size, PATCH, 8).dataset(1, 0, 1)))
    size = f"batch {batch_size}, HR {PATCH}"
    for architecture in ("paper",) if quick else ("paper", "tensorlayer"):
        trainer = make_trainer(photos, architecture)
        bench_step(f"phase-1 step, {architecture}, {size}", "0.80", "init_step", trainer, batch, installed, n_runs)
    for loss, what in (("original", "with VGG19"), ("srgan_mse", "SRGAN-MSE"))[:1 if quick else 2]:
        trainer = make_trainer(photos, loss=loss)
        bench_step(f"phase-2 step, {what}, {size}", "0.85", "gan_step", trainer, batch, installed, n_runs)
    bench_data(trainer, 3 if quick else 10)


def bench_devices():
    """A row for training's own seconds a step on one device and on two that are parts of the CPU: what sharing costs."""
    seconds = []
    for n_devices in (1, 2):
        run_main("--set", f"TRAIN.devices={n_devices}", f"TRAIN.batch_size={BATCH}", "TRAIN.n_epoch_init=1", "TRAIN.n_epoch=0",
                 "TRAIN.patches_per_image=18", "VALID.n_quick=1", f"TRAIN.checkpoint_path=on_{n_devices}/")
        seconds.append(float(re.search(r"([\d.]+) s a step", Path("main.log").read_text())[1]))
    row("phase-1 step on two devices, which share the CPU", f"{seconds[1]:.2f} s", f"one device {seconds[0]:.2f} s",
        f"{seconds[1] / seconds[0]:.2f}", "what it costs")


def bench_data(trainer, n_steps):
    """Rows for the input pipeline: alone, and while phase 1 trains."""
    batches = iter(trainer.patches.dataset(1, 0, 10 ** 6))
    for _ in range(10):
        next(batches)
    began = time.perf_counter()
    for _ in range(200):
        next(batches)
    rate = 200 * BATCH / (time.perf_counter() - began)
    row("input pipeline, cached", f"{rate:,.0f} pairs/s", "", f"{rate / 1500:.1f}", "1,500 pairs/s")
    waited = trained = 0.0
    float(trainer.init_step(*next(batches))["mse"])
    for _ in range(n_steps):
        began = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - began
        float(trainer.init_step(*batch)["mse"])
        trained += time.perf_counter() - began
    row("training waits for data", f"{1000 * waited / n_steps:.1f} ms a step", f"{trained / n_steps:.2f} s a step",
        f"{waited / trained:.2%}", "3%")


def bench_first_epoch(folder):
    """Rows for the first epoch on 800 photos of 2K, made from those in `folder`, and for the run after it."""
    originals = images.list_images(folder)
    Path("800").mkdir()
    for number in range(N_PHOTOS):
        photo = Image.fromarray(images.read_image(originals[number % len(originals)]))
        photo.resize((2040, 1356), Image.BICUBIC, reducing_gap=2).save(f"800/{number:04}.jpg", quality=90)
    settings = ("--set", "TRAIN.hr_img_path=800/", "TRAIN.n_epoch=0", "TRAIN.save_every=100", "VALID.n_quick=1",
                "TRAIN.n_epoch_init=")
    for what, n_epoch in (("first epoch on 800 photos of 2K, from the files", 1), ("second, from the cache", 2)):
        seconds, memory = run_main(*settings[:-1], f"{settings[-1]}{n_epoch}")
        row(what, f"{seconds:.0f} s, {memory:.0f} MB at most", "", f"{memory / 2048:.2f}", "2,048 MB")


# ------------------------------------------------------------------------------------------------------ evaluation


def make_photo(photos, width, height):
    """A real photo of that size, as a file; returns its path and the pixels."""
    largest = max(photos, key=lambda photo: photo.height * photo.width)
    hr = largest.crop(0, 0, max(largest.height, largest.width))[1]
    path = Path(f"photo_{width}x{height}.png")
    Image.fromarray(hr).resize((width, height), Image.BICUBIC).save(path)
    return path, images.read_image(path)


def upscaling_peers(generator, lr, installed):
    """{name: function} that upscale `lr` by the folded generator, input and output ready in memory."""
    candidates = {}
    if "torch" not in installed:
        return candidates
    import torch
    folded = model.fold_network(generator).network()
    network = give_weights(folded, torch_generator("paper", folded=True)).eval().to(memory_format=torch.channels_last)
    x = nchw(model.normalize_lr(lr[np.newaxis], model.PAPER))

    def by_torch():
        with torch.inference_mode():
            return network(x).permute(0, 2, 3, 1).numpy()

    candidates["PyTorch NHWC"] = by_torch
    if "onnx" in installed:
        with warnings.catch_warnings(action="ignore"):
            torch.onnx.export(network, (x.contiguous(),), "generator.onnx", dynamo=False, input_names=["lr"])
        plain = x.contiguous().numpy()
        if "onnxruntime" in installed:
            import onnxruntime
            session = onnxruntime.InferenceSession("generator.onnx", providers=["CPUExecutionProvider"])
            candidates["ONNX Runtime"] = lambda: session.run(None, {"lr": plain})[0].transpose(0, 2, 3, 1)
        if "openvino" in installed:
            import openvino
            compiled = openvino.compile_model("generator.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            candidates["OpenVINO"] = lambda: compiled(plain)[0].transpose(0, 2, 3, 1)
    return candidates


def bench_upscaling(photos, generator, installed, quick):
    """Rows for the upscaling alone; returns the seconds that 320x180 takes."""
    upscaler, steady = model.Upscaler(generator), []
    for width, height in ((320, 180),) if quick else ((320, 180), (510, 339)):
        _, lr = make_photo(photos, width, height)
        peers = upscaling_peers(generator, lr, installed)
        sr = upscaler(lr)
        for name, peer in peers.items():
            check_same(f"The picture of {name}", sr / 127.5 - 1, peer()[0], 0.6 / 127.5)  # ours is rounded to 8 bits
        seconds = take_turns({"ours": functools.partial(upscaler, lr), **peers}, 2 if quick else 7)
        steady.append(statistics.median(seconds["ours"]))
        compare(f"upscaling {width}x{height}", "1.0", seconds)
    return steady[0]


def bench_process(photos, generator, steady, quick):
    """Rows for `main.py --input`, whole processes; steady: of `bench_upscaling`."""
    weights.save_network("g.npz", generator)

    def restore(path):
        return run_main("--mode=evaluate", "--weights", "g.npz", "--output", "out", "--input", path)

    small, _ = make_photo(photos, 320, 180)
    runs = [restore(small) for _ in range(1 if quick else 3)]
    alone = statistics.median(seconds for seconds, _ in runs)
    row("`--input` of a 320x180 photo, whole process", spread([seconds for seconds, _ in runs]),
        f"{max(memory for _, memory in runs):.0f} MB at most", f"{alone / 10:.2f}", "10 s")

    if not quick:
        Path("four").mkdir()
        for width, height in ((320, 180), (300, 192), (240, 240), (360, 160)):  # as many pixels each
            path, _ = make_photo(photos, width, height)
            path.rename(Path("four") / path.name)
        seconds, _ = restore("four")
        row("`--input` of 4 photos of different sizes and as many pixels", spread([seconds]),
            f"{(seconds - alone) / 3:.2f} s a further photo", "", "no compilation each")

    width, height = (480, 320) if quick else (2040, 1356)
    seconds, memory = restore(make_photo(photos, width, height)[0])
    further = 1e6 * (seconds - alone) / (width * height - 320 * 180)
    row(f"`--input` of a {width}x{height} photo, whole process", f"{seconds:.1f} s, {memory:.0f} MB at most",
        f"{further:.1f} us a pixel more than the small one, in memory {1e6 * steady / (320 * 180):.1f}",
        f"{memory / 1536:.2f}", "1,536 MB")


# ------------------------------------------------------------------------------------------------------------ main


def describe_machine():
    """What is printed above the table; returns the peers that are installed, with their versions."""
    installed = {}
    for name in PEERS:
        try:
            installed[name] = importlib.import_module(name).__version__.split("-")[0]
        except ImportError:
            print(f"{PEERS[name]} is not installed; it is left out.")
    processor = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
                     platform.processor()) if Path("/proc/cpuinfo").exists() else platform.processor()
    print(f"{processor}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, TensorFlow "
          f"{tf.__version__}, " + ", ".join(f"{PEERS[name]} {version}" for name, version in installed.items()))
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
        photos = data.cache_photos(data.packaged_pairs("train"), "", "cache/", PATCH)
        print("\n| | here | beside it | ratio | target |\n|---|---|---|---|---|")
        generator = make_trainer(photos).generator
        steady = bench_upscaling(photos, generator, installed, arguments.quick)
        bench_process(photos, generator, steady, arguments.quick)
        bench_training(photos, installed, arguments.quick)
        if not arguments.quick:
            bench_devices()
        if given:
            bench_first_epoch(given)
        else:
            row("first epoch on 800 photos of 2K", "not run: give --photos DIR", "", "", "2,048 MB")
    print(f"\n{time.perf_counter() - began:.0f} s in all.")


if __name__ == "__main__":
    bench(ARGUMENTS.parse_args())
