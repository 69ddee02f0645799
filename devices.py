"""GPUs, `tf.distribute` and the cluster that a run computes on."""
import contextlib
import json
import os
import signal

import utils
from utils import UserError

import keras
import tensorflow as tf

from config import config


def choose_devices():
    """Make the devices that `config.TRAIN.devices` admits the ones that TensorFlow sees; raises UserError.

    Without a GPU, several devices are parts of the CPU: no faster, but the same training as on as many GPUs.
    """
    wanted, gpus = config.TRAIN.devices, tf.config.list_physical_devices("GPU")
    if wanted > len(gpus) > 0:
        raise UserError(f"TRAIN.devices is {wanted}, but TensorFlow sees {len(gpus)} GPUs; set it to that, or to 0 for all.")
    if wanted > 1 and not gpus:
        cpu, = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * wanted)
    elif wanted and gpus:
        tf.config.set_visible_devices(gpus[:wanted], "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)


def list_devices():
    return tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")


def cluster():
    """This process's place among several machines, {"cluster": ..., "task": ...} of TF_CONFIG or of Slurm, or None.

    https://www.tensorflow.org/api_docs/python/tf/distribute/cluster_resolver/TFConfigClusterResolver. Raises UserError.
    """
    try:
        if "TF_CONFIG" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            # The GPUs are those that Slurm lets the task see; the resolver's own division of them fails where there is none.
            slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(gpus_per_node=1000, gpus_per_task=1, auto_set_gpu=False)
            os.environ["TF_CONFIG"] = json.dumps(
                {"cluster": slurm.cluster_spec().as_dict(), "task": {"type": slurm.task_type, "index": slurm.task_id}})
        place = json.loads(os.environ.get("TF_CONFIG") or "{}")
        if not place.get("cluster"):
            return None
        workers, task = place["cluster"], place["task"]
        if not set(workers) <= {"chief", "worker"} or not 0 <= int(task["index"]) < len(workers[task["type"]]):
            raise ValueError("its jobs are chief and worker, whose indices begin with 0")
        return place
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise UserError(f"TF_CONFIG, or what Slurm has set, is not what tf.distribute takes ({error!r}); write it as in the README, "
                        "or unset it.") from error


def _first_line(error):
    return str(error).partition("\n")[0]


def make_strategy():
    """The tf.distribute.Strategy of what this run has: several machines, several devices, or one. Raises UserError."""
    place = cluster()
    with utils.quiet():
        choose_devices()
    if place:
        task, addresses = place["task"], [address for group in place["cluster"].values() for address in group]
        print(f"This is {task['type']} {task['index']}, one of {len(addresses)} processes; it waits until all are started, each with "
              f"an index of its own, from 0 on: {', '.join(addresses)}.", flush=True)
        handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # or Ctrl-C would have to wait too
        try:
            with utils.quiet():
                return tf.distribute.MultiWorkerMirroredStrategy()
        except (tf.errors.OpError, RuntimeError) as error:
            raise UserError(f"The processes of TF_CONFIG could not be joined ({_first_line(error)}): the port may be taken, the index "
                            "given twice, or an address not reached from here; mend TF_CONFIG and start all of them again.") from error
        finally:
            signal.signal(signal.SIGINT, handler)
    with utils.quiet():
        devices = list_devices()
        return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else tf.distribute.get_strategy()


def is_chief(strategy):
    """Whether this process is the one that writes; alone it is."""
    resolver = strategy.cluster_resolver
    return not resolver or resolver.task_type == "chief" or (
        resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs)


@contextlib.contextmanager
def silent():
    """Keep lines and progress bars off the screen: of several processes the chief's are enough."""
    utils.progress.visible = False
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


@contextlib.contextmanager
def precision():
    """Let networks that are made inside compute in float16 where `config.TRAIN.mixed_precision` says so."""
    keras.config.set_dtype_policy("mixed_float16" if config.TRAIN.mixed_precision else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")
