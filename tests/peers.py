"""Our networks in PyTorch, ONNX Runtime, OpenVINO and ncnn, with the same weights, for bench.py to compare with.

Packages are imported where they are used: none of them has to be installed.
"""
import os
import warnings
from pathlib import Path

import numpy as np

import model

# -------------------------------------------------------------------------------------------------------- PyTorch


def torch_generator(architecture, folded=False):
    """The generator as one writes it in PyTorch, with modules named like our layers. NCHW."""
    from torch import nn
    paper = architecture.name == "paper"
    blocks = [f"block_{block}" for block in range(1, architecture.n_blocks + 1)]

    def conv(channels, filters, size, bias=True):
        return nn.Conv2d(channels, filters, size, padding=size // 2, bias=bias)

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.head_conv = conv(3, 64, 9 if paper else 3)
            for name in (*(f"{block}_{{}}_{number}" for block in blocks for number in (1, 2)), "trunk_{}_1"):
                self.add_module(name.format("conv"), conv(64, 64, 3, bias=folded))
                self.add_module(name.format("bn"), nn.Identity() if folded else nn.BatchNorm2d(64, model.BN_EPSILON))
            self.upsample_1_conv, self.upsample_2_conv = conv(64, 256, 3), conv(64, 256, 3)
            self.tail_conv = conv(64, 3, 9 if paper else 1)
            for name in ("head", *blocks, "upsample_1", "upsample_2"):
                self.add_module(f"{name}_act", nn.PReLU(64) if paper else nn.ReLU())
            self.shuffle = nn.PixelShuffle(2)

        def forward(self, x):
            def conv_norm(x, name, number):
                return getattr(self, f"{name}_bn_{number}")(getattr(self, f"{name}_conv_{number}")(x))

            x = head = self.head_act(self.head_conv(x))
            for block in blocks:
                x = x + conv_norm(getattr(self, f"{block}_act")(conv_norm(x, block, 1)), block, 2)
            x = conv_norm(x, "trunk", 1) + head
            x = self.upsample_1_act(self.shuffle(self.upsample_1_conv(x)))
            x = self.upsample_2_act(self.shuffle(self.upsample_2_conv(x)))
            return self.tail_conv(x).tanh()

    return Generator()


def torch_discriminator(patch_size):
    """The discriminator of the article in PyTorch, with modules named like our layers. NCHW."""
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
    network.add_module("dense", nn.Linear(512 * (patch_size // 16) ** 2, 1024))
    network.add_module("dense_act", nn.LeakyReLU(0.2))
    network.add_module("logits", nn.Linear(1024, 1))
    return network


def torch_vgg():
    """VGG19 up to pool4 in PyTorch, with modules named like those of keras.applications. NCHW, preprocessed input."""
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
    """Copy the weights of our network to one of PyTorch, matching layers by name.

    mirrored: for a network whose images are turned by 180 degrees. TensorFlow pads a convolution of stride 2 below and
    on the right, PyTorch above and on the left, so that their discriminators see each other's mirror image.
    """
    import torch
    for layer in network.layers:
        if not layer.weights:
            continue
        target, (weight, *others) = getattr(peer, layer.name), layer.get_weights()
        if weight.ndim == 4:
            weight = weight[::-1, ::-1] if mirrored else weight
            if layer.name.startswith("upsample"):  # PyTorch numbers the sub-pixels of a channel first
                weight = weight.reshape(3, 3, 64, 4, 64).swapaxes(3, 4)
                others = [others[0].reshape(4, 64).T.reshape(-1)]
            weight = weight.reshape(*weight.shape[:3], -1).transpose(3, 2, 0, 1)
        elif weight.ndim == 2:
            if layer.name == "dense":  # the one after the flattened maps
                side = round((len(weight) / 512) ** 0.5)
                maps = weight.reshape(side, side, 512, -1)
                weight = (maps[::-1, ::-1] if mirrored else maps).transpose(2, 0, 1, 3).reshape(weight.shape)
            weight = weight.T
        tensors = [t for name, t in target.state_dict().items() if name != "num_batches_tracked"]
        for tensor, array in zip(tensors, [weight, *others], strict=True):
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))
    return peer


def nchw(batch):
    """A batch as PyTorch indexes it; the memory stays as it is, which PyTorch calls channels_last."""
    import torch
    return torch.from_numpy(np.array(batch)).permute(0, 3, 1, 2)


def autocast(precision):
    import torch
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


class TorchTrainer:
    """The steps of train.Trainer as one writes them in eager PyTorch: same networks, weights, losses and optimizers."""

    def __init__(self, trainer, memory_format, precision):
        import torch
        step = trainer.phases[1].step
        self.torch, self.format, self.precision, self.recipe = torch, memory_format, precision, step.recipe
        self.steps = self.init_step, self.gan_step
        networks = trainer.networks
        self.architecture = networks.generator.architecture
        self.generator = self.place(give_weights(networks.generator, torch_generator(self.architecture)))
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), 1e-4)
        if self.architecture.name == "paper":
            discriminator = torch_discriminator(networks.discriminator.input_shape[1])
            self.discriminator = self.place(give_weights(networks.discriminator, discriminator, mirrored=True))
            self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), 1e-4)
        self.vgg = None
        if step.vgg:
            self.vgg = self.place(give_weights(step.vgg, torch_vgg())).requires_grad_(False)

    def place(self, network):
        return network.to(memory_format=self.format)

    def images(self, lr, hr):
        lr = nchw(model.normalize_lr(lr, self.architecture)).contiguous(memory_format=self.format)
        return lr, nchw(model.normalize_hr(hr)).contiguous(memory_format=self.format)

    def features(self, hr):
        mean = self.torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
        return self.vgg((hr.flip(1) + 1) * 127.5 - mean)

    def init_step(self, lr, hr):
        lr, hr = self.images(lr, hr)
        with autocast(self.precision):
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
        with autocast(self.precision):
            sr = self.generator(lr)
            logits_hr, logits_sr = self.discriminator(hr.flip(2, 3)), self.discriminator(sr.flip(2, 3))
            mse, adversarial = functional.mse_loss(sr, hr), cross_entropy(logits_sr, 1)
            g_loss = self.recipe["mse"] * mse + self.recipe["adv"] * adversarial
            losses = {"mse": mse, "adv": adversarial}
            if self.vgg:
                with self.torch.no_grad():
                    truth = self.features(hr)
                losses["vgg:pool4"] = functional.mse_loss(self.features(sr), truth)
                g_loss = g_loss + self.recipe["vgg:pool4"] * losses["vgg:pool4"]
            losses["d"] = d_loss = cross_entropy(logits_hr, 1) + cross_entropy(logits_sr, 0)
        self.g_optimizer.zero_grad()
        self.d_optimizer.zero_grad()
        g_loss.backward(inputs=list(self.generator.parameters()), retain_graph=True)
        d_loss.backward(inputs=list(self.discriminator.parameters()))
        self.g_optimizer.step()
        self.d_optimizer.step()
        return {name: loss.item() for name, loss in losses.items()}


# ------------------------------------------------------------------------------------------------------- upscaling


def write_ncnn(folded, name):
    """Write a folded generator as ncnn's files: `.param`, one line per layer, and `.bin`, the weights in that order.

    https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
    """
    lines, arrays = [], []

    def layer(kind, name, inputs, outputs, *parameters):
        given = [f"{number}={value}" for number, value in enumerate(parameters)]
        lines.append(" ".join([kind, name, f"{len(inputs)} {len(outputs)}", *inputs, *outputs, *given]))
        return outputs[0]

    def conv(x, name):
        kernel, bias = folded.get_layer(name).get_weights()
        kernel = kernel.transpose(3, 2, 0, 1)
        arrays.extend([np.int32(0), kernel, bias])  # 0: the kernel is stored as float32
        filters, _, size, _ = kernel.shape
        return layer("Convolution", name, [x], [name], filters, size, 1, 1, size // 2, 1, kernel.size)

    def prelu(x, name):
        slopes, = folded.get_layer(name).get_weights()
        arrays.append(slopes)
        return layer("PReLU", name, [x], [name], len(slopes))

    def split(x):
        layer("Split", f"{x}_split", [x], [f"{x}_1", f"{x}_2"])
        return f"{x}_1", f"{x}_2"

    def add(x, y, name):
        return layer("BinaryOp", name, [x, y], [name], 0)

    x, head = split(prelu(conv(layer("Input", "lr", [], ["lr"]), "head_conv"), "head_act"))
    for block in range(1, folded.architecture.n_blocks + 1):
        x, y = split(x)
        y = prelu(conv(y, f"block_{block}_conv_1"), f"block_{block}_act")
        x = add(x, conv(y, f"block_{block}_conv_2"), f"block_{block}_sum")
    x = add(conv(x, "trunk_conv_1"), head, "trunk_sum")
    for number in (1, 2):
        x = conv(x, f"upsample_{number}_conv")
        x = layer("PixelShuffle", f"shuffle_{number}", [x], [f"shuffle_{number}"], 2, 1)  # 1: sub-pixels first
        x = prelu(x, f"upsample_{number}_act")
    layer("TanH", "sr", [conv(x, "tail_conv")], ["sr"])
    n_blobs = sum(int(line.split()[3]) for line in lines)
    Path(f"{name}.param").write_text("\n".join(["7767517", f"{len(lines)} {n_blobs}", *lines, ""]))
    Path(f"{name}.bin").write_bytes(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))


def upscalers(generator, lr, installed, precisions):
    """Peers that upscale `lr` by the folded generator, with input and output ready in memory.

    Returns {(name, precision): function} and the keys of the peers as they come.
    """
    folded = model.fold_network(generator).network()
    x = np.ascontiguousarray(model.normalize_lr(lr[np.newaxis], model.PAPER).numpy().transpose(0, 3, 1, 2))
    peers, defaults = {}, set()

    def add_torch(precision):
        import torch
        channels_last = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)

        def upscale():
            with torch.inference_mode(), autocast(precision):
                return network(channels_last).permute(0, 2, 3, 1).float().numpy()

        peers["PyTorch NHWC", precision] = upscale

    def add_openvino(precision):
        import openvino
        hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
        compiled = openvino.compile_model("generator.onnx", "CPU", {"INFERENCE_PRECISION_HINT": hint})
        peers["OpenVINO", precision] = lambda: compiled(x)[0].transpose(0, 2, 3, 1)

    def add_ncnn(precision):
        import ncnn
        net = ncnn.Net()
        net.opt.num_threads = os.cpu_count()
        net.opt.use_sgemm_convolution = False  # it would unroll the 9x9 tail: 20 GB at 320x180, and slower
        net.opt.use_bf16_storage = net.opt.use_bf16_packed = precision == "bfloat16"
        net.load_param("generator.param")
        net.load_model("generator.bin")

        def upscale():
            extractor = net.create_extractor()
            extractor.input("lr", ncnn.Mat(x[0]))
            return np.array(extractor.extract("sr")[1]).transpose(1, 2, 0)[np.newaxis]

        peers["ncnn", precision] = upscale

    if "torch" in installed:
        import torch
        network = give_weights(folded, torch_generator(model.PAPER, folded=True)).eval()
        network = network.to(memory_format=torch.channels_last)
        for precision in precisions:
            add_torch(precision)
        defaults.add(("PyTorch NHWC", "float32"))
    if "torch" in installed and "onnx" in installed:
        with warnings.catch_warnings(action="ignore"):
            torch.onnx.export(network, (torch.from_numpy(x),), "generator.onnx", dynamo=False, input_names=["lr"])
        if "onnxruntime" in installed:  # has no bfloat16 on x86
            import onnxruntime
            session = onnxruntime.InferenceSession("generator.onnx", providers=["CPUExecutionProvider"])
            peers["ONNX Runtime", "float32"] = lambda: session.run(None, {"lr": x})[0].transpose(0, 2, 3, 1)
            defaults.add(("ONNX Runtime", "float32"))
        if "openvino" in installed:
            for precision in precisions:
                add_openvino(precision)
            defaults.add(("OpenVINO", precisions[-1]))  # its default is bfloat16 where the processor has it
    if "ncnn" in installed:
        write_ncnn(folded, "generator")
        for precision in precisions:
            add_ncnn(precision)
        defaults.add(("ncnn", "float32"))
    return peers, defaults
