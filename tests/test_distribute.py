"""Several devices and several processes train as one does."""
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import main
import numpy as np
import pytest
from utils import UserError

SMALL = Path(__file__).parent / "small.py"
# 12 steps of each phase, of 9 photos.
SETTINGS = ("TRAIN.hr_patch_size=32", "TRAIN.batch_size=4", "TRAIN.patches_per_image=5", "TRAIN.n_epoch_init=1",
            "TRAIN.n_epoch=1", "TRAIN.save_every=1", "TRAIN.loss=srgan_mse", "VALID.n_quick=1", "TRAIN.deterministic=true")


def start(folder, *settings, place=None):
    """Start a training in a folder, as the process of that place in a cluster."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **({"TF_CONFIG": json.dumps(place)} if place else {})}
    return subprocess.Popen([sys.executable, SMALL, "--set", *SETTINGS, *settings], cwd=folder, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*processes):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output
    return outputs


def places(n=2):
    """TF_CONFIG of n processes on ports that are free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    addresses = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in sockets]
    for sock in sockets:
        sock.close()
    return [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(n)]


def start_two(folder, *settings):
    """Two processes of one training, of which the second has a folder of its own: what it writes there is not needed."""
    folder.mkdir(exist_ok=True)
    return [start(folder / str(index), *settings, place=place) for index, place in enumerate(places())]


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    finish(start(folder))
    return folder


def assert_close(folder, other):
    """Weights moved alike. Adam divides by the size of a gradient, so that rounding shows where there is hardly any."""
    for name in ("g_srgan_init.npz", "g_srgan.npz", "d_srgan.npz"):
        a, b = np.load(folder / "checkpoint" / name), np.load(other / "checkpoint" / name)
        for key in a.files:
            if a[key].dtype.kind == "f":
                np.testing.assert_allclose(a[key], b[key], rtol=1e-3, atol=2e-5, err_msg=f"{name} {key}")


def test_two_devices_train_as_one_does(on_one_device, tmp_path):
    output, = finish(start(tmp_path, "TRAIN.devices=2"))
    assert "2 devices train together, each with 2 of the 4 patches" in output
    assert_close(on_one_device, tmp_path)
