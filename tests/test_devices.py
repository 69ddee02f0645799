"""Several devices and several processes train as one does."""
import copy
import json
import os
import shutil
import socket

from utils import UserError

import numpy as np
import pytest
import skimage
import small
import tensorflow as tf
from restoring import EXACTLY

import data
import losses
import model
import train
import weights
from config import config, override, resolve
from engine import devices

# 12 steps of each phase, of 9 photos.
SETTINGS = ("TRAIN.hr_patch_size=32", "TRAIN.batch_size=4", "TRAIN.patches_per_image=5", "TRAIN.n_epoch_init=1",
            "TRAIN.n_epoch=1", "TRAIN.save_every=1", "TRAIN.loss=srgan_mse", "VALID.n_quick=1",
            "TRAIN.degradation=photo", "TRAIN.deterministic=true", "TRAIN.precision=float32")


def start(folder, *settings, place=None):
    """Start a training in a folder, as the process of that place in a cluster."""
    folder.mkdir(exist_ok=True)
    environment = {"TF_CONFIG": json.dumps(place)} if place else {}
    return small.Training(folder, "--set", *SETTINGS, *settings, **environment)


def finish(*processes):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


def places(n=2):
    """TF_CONFIG of n processes on ports that are free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    addresses = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in sockets]
    for sock in sockets:
        sock.close()
    return [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}} for index in range(n)]


def start_two(folder):
    """Two processes of one training, in a folder each, as on two machines."""
    folder.mkdir(exist_ok=True)
    return [start(folder / str(index), place=place) for index, place in enumerate(places())]


# Of weights, in relation to them; by rounding it gets to some 1e-3, and without batch norms of the whole batch to 1e-1.
CLOSE = 5e-3


def difference(folder, other, name):
    a, b = (np.concatenate([array.ravel() for array in np.load(run / "checkpoint" / name).values()
                            if array.dtype == np.float32]) for run in (folder, other))
    return np.linalg.norm(a - b) / np.linalg.norm(a)


@pytest.fixture(scope="module")
def first_phase(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "first_phase"
    finish(start(folder, "TRAIN.n_epoch=0"))
    return folder


@pytest.fixture(scope="module")
def one_device(first_phase):
    folder = shutil.copytree(first_phase, first_phase.parent / "both_phases")
    finish(start(folder))
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    finish(*start_two(folder))
    return folder


def test_two_devices_train_as_one_does(first_phase, tmp_path):
    output, = finish(start(tmp_path, "TRAIN.devices=2", "TRAIN.n_epoch=0"))
    assert "in float32, 2 of the 4 patches of a batch on each" in output
    assert difference(first_phase, tmp_path, "g_srgan_init.npz") < CLOSE


def test_two_devices_train_a_unet_and_features_as_one_does(tmp_path):
    arrays, channels = {}, 3
    for name, filters in (("conv1_1", 64), ("conv1_2", 64), ("conv2_1", 128), ("conv2_2", 128)):
        kernel = np.random.default_rng(channels).normal(0, (2 / 9 / channels) ** 0.5, (3, 3, channels, filters))
        arrays[name], channels = [kernel.astype("float32"), np.zeros(filters, "float32")], filters
    np.save(tmp_path / "vgg19.npy", arrays, allow_pickle=True)
    settings = ("TRAIN.n_epoch_init=0", "TRAIN.discriminator=unet", "TRAIN.loss=own", "LOSS.own.vgg_rel:conv2_2-=1",
                "LOSS.own.adv=0.1", "TRAIN.adv_growth=3", f"VGG.path={tmp_path / 'vgg19.npy'}")
    folders = tmp_path / "one", tmp_path / "two"
    for folder, n_devices in zip(folders, (1, 2), strict=True):
        finish(start(folder, *settings, f"TRAIN.devices={n_devices}"))
    for name in ("g_srgan.npz", "d_srgan.npz"):
        assert difference(*folders, name) < CLOSE / 10  # it is 2e-5, with the features' size on each device 5e-3


def test_a_training_is_resumed_on_another_number_of_devices(first_phase, one_device, tmp_path):
    folder = shutil.copytree(first_phase, tmp_path / "run")
    output, = finish(start(folder, "TRAIN.devices=2"))
    assert "TRAIN.devices 0 -> 2" in output and "Resuming" in output
    assert difference(one_device, folder, "g_srgan.npz") < CLOSE
    assert difference(one_device, folder, "d_srgan.npz") < CLOSE


def test_two_processes_train_as_one_does_and_the_chief_alone_writes(one_device, two_processes):
    assert difference(one_device, two_processes / "0", "g_srgan_init.npz") < CLOSE
    assert difference(one_device, two_processes / "0", "g_srgan.npz") < CLOSE
    assert difference(one_device, two_processes / "0", "d_srgan.npz") < CLOSE
    assert [path.name for path in (two_processes / "1").iterdir()] == ["cache"]


def test_processes_whose_generators_differ_in_depth_say_so(tmp_path):
    weights.save_network(tmp_path / "g.npz", model.get_G(n_blocks=2))
    first, second = places()
    processes = [start(tmp_path, place=first), start(tmp_path, "--weights", tmp_path / "g.npz", place=second)]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 2 and "do not train the same: --weights differ" in output, output


def test_processes_of_which_one_lacks_the_discriminator_say_so(tmp_path):
    settings = "TRAIN.n_epoch_init=0", "TRAIN.n_steps_d_first=1"
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        weights.save_network(tmp_path / name / "g_srgan.npz", model.get_G(small.PAPER))
    weights.save_network(tmp_path / "first" / "d_srgan.npz", model.get_D(small.PAPER, 32))
    processes = [start(tmp_path / name, *settings, "--weights", "g_srgan.npz", place=place)
                 for name, place in zip(("first", "second"), places(), strict=True)]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 2 and "the d_srgan.npz of --weights differ" in output, output


def read_until(process, beginning):
    assert any(line.startswith(beginning) for line in process.stdout)


def test_two_processes_end_alike_however_they_were_interrupted(two_processes, tmp_path):
    chief, worker = start_two(tmp_path)
    read_until(chief, "Phase 1 of 2")
    worker.terminate()  # both stop after the same step
    outputs = [process.communicate(timeout=100)[0] for process in (chief, worker)]
    assert [chief.returncode, worker.returncode] == [143, 143], outputs
    assert "Stopped and saved in /" in outputs[0]

    chief, worker = start_two(tmp_path)
    read_until(chief, "Phase 2 of 2")
    worker.kill()
    output = chief.communicate(timeout=60)[0]
    assert chief.returncode == 2 and "Another process of this run has died" in output and "Traceback" not in output
    worker.communicate()

    output, _ = finish(*start_two(tmp_path))
    assert "Resuming the training in checkpoint/: phase 1, after 1 epoch" in output
    for name in ("g_srgan.npz", "d_srgan.npz"):
        assert difference(two_processes / "0", tmp_path / "0", name) == 0


def test_a_batch_that_does_not_divide_is_a_sentence_that_says_which_do(tmp_path):
    process = start(tmp_path, "TRAIN.devices=3")
    output = process.communicate()[0]
    assert process.returncode == 2 and "TRAIN.batch_size is 4, which 3 devices" in output and "set it to 6" in output


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": 3}', '{"cluster": {"worker": ["a:1"]}}',
                                  '{"cluster": {"ps": ["a:1"]}}',
                                  '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}'])
def test_a_malformed_cluster_is_a_sentence(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="TF_CONFIG"):
        devices.cluster()


def test_the_tasks_of_slurm_are_a_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert devices.cluster() is None
    slurm = {"PROCID": "2", "STEP_NUM_TASKS": "4", "STEP_NODELIST": "n[1-2]", "STEP_TASKS_PER_NODE": "2(x2)"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert devices.cluster() == {"cluster": {"worker": ["n1:8888", "n1:8889", "n2:8888", "n2:8889"]},
                              "task": {"type": "worker", "index": 2}}
    assert json.loads(os.environ.pop("TF_CONFIG"))


def test_a_training_is_resumed_in_another_precision(first_phase, one_device, tmp_path):
    folder = shutil.copytree(first_phase, tmp_path / "run")
    output, = finish(start(folder, "TRAIN.precision=bfloat16"))
    assert "TRAIN.precision float32 -> bfloat16" in output
    assert difference(one_device, folder, "g_srgan.npz") < 10 * CLOSE


def overflow_once(folder):
    """Two steps, in the first of which a gradient of one weight on the second device is infinite."""
    os.chdir(folder)
    small.replace()
    override(config, ["TRAIN.devices=2", "TRAIN.precision=float16", "TRAIN.batch_size=2", "TRAIN.hr_patch_size=32"])
    resolve(config)
    devices.choose_devices(2)
    photos = data.cache_photos(data.packaged_pairs("train"), "", "cache/", 32, 4)
    strategy = tf.distribute.MirroredStrategy(devices.list_devices())
    with strategy.scope(), devices.compute_in("float16"):
        networks, _ = train.make_networks(config.TRAIN, None)
    patches = data.Patches(photos, 0, 2, 32, 1)
    trainer = train.Trainer(strategy, config.TRAIN, patches, networks, [config.LOSS.mse, config.LOSS.srgan_mse], None)
    step, overflow = trainer.phases[0].step, tf.Variable(True)

    def infinite_for_one_weight_on_the_second_device(batch):
        second = tf.distribute.get_replica_context().replica_id_in_sync_group == 1
        bias = tf.reduce_sum(tf.convert_to_tensor(networks.generator.get_layer("tail_conv").bias))
        return losses.mse_loss(batch) + tf.where(second & overflow, np.inf, 0.0) * bias

    losses.LOSSES["mse"] = infinite_for_one_weight_on_the_second_device
    for batch in trainer.batches(trainer.phases[0], 0, 2):
        weights = networks.generator.trainable_variables
        before, scale = [weight.numpy() for weight in weights], float(step.optimizers[0].dynamic_scale.numpy())
        step(*batch)
        moved = any(not np.array_equal(value, copy.numpy()) for value, weight in zip(before, weights, strict=True)
                    for copy in weight.value.values)
        print(moved, float(step.optimizers[0].dynamic_scale.numpy()) / scale)
        overflow.assign(False)


def test_a_step_that_overflows_on_one_device_is_left_out_on_all(tmp_path):
    output, = finish(small.Fork(overflow_once, tmp_path))
    assert output.splitlines()[-2:] == ["False 0.5", "True 1.0"], output


@pytest.mark.parametrize("more", [["--input", "photos", *EXACTLY], []])
def test_evaluation_on_two_devices_gives_what_one_gives(one_device, tmp_path, more):
    photo = skimage.data.chelsea()
    (tmp_path / "photos").mkdir()
    for number in range(5):
        skimage.io.imsave(tmp_path / "photos" / f"{number}.png", photo[20 * number:20 * number + 40 + number, 100:160])
    lines = []
    # Said by a thread, even before the end of another line.
    small_photos = "NIQE looks at blocks of 96x96 pixels; images with fewer than two have none."
    for n_devices in (1, 2):
        process = small.Training(
            tmp_path, "--mode=evaluate", "--weights", one_device / "checkpoint" / "g_srgan.npz", *more,
            "--output", f"on_{n_devices}", "--set", "VALID.hr_img_path=photos", "VALID.n_figures=0",
            f"TRAIN.devices={n_devices}")
        output, = finish(process)
        output = output.replace(f"on_{n_devices}/", "out/").replace(small_photos, "")
        lines.append([*filter(None, output.splitlines())])
    assert lines[0] == lines[1]
    results = sorted(path.name for path in (tmp_path / "on_1").glob("*_gen.png"))
    assert results == [f"{number}_gen.png" for number in range(5)]
    for name in results:
        pictures = (skimage.io.imread(tmp_path / n / name).astype(int) for n in ("on_1", "on_2"))
        np.testing.assert_allclose(*pictures, rtol=0, atol=1)


@pytest.mark.parametrize("features, precision", [("avx2 avx512_bf16 fma", "bfloat16"), ("amx_bf16", "bfloat16"),
                                                 ("avx512_bf16x avx2", "float32")])
def test_auto_is_bfloat16_where_the_processor_has_it(features, precision, monkeypatch):
    monkeypatch.setattr(devices.Path, "read_text", lambda path, **how: f"flags\t: fpu {features}\n")
    assert devices.precision("auto") == precision
    assert devices.precision("float16") == "float16"


def test_auto_is_float32_on_a_gpu(monkeypatch):
    monkeypatch.setattr(devices.tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    assert devices.precision("auto") == "float32"


def test_the_setting_that_precision_replaced_is_named():
    with pytest.raises(UserError, match=r"TRAIN.mixed_precision .* TRAIN.precision"):
        override(copy.deepcopy(config), ["TRAIN.mixed_precision=true"])
