"""Devices and precision of a run: GPUs, threads, `tf.distribute`, clusters, the type that networks compute in."""
import collections
import contextlib
import json
import os
import queue
import re
import signal
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import utils
from utils import UserError

import keras
import tensorflow as tf


def choose_devices(n: int) -> None:
    """Restrict TensorFlow to `n` GPUs, 0 for all (TRAIN.devices). Raises UserError if there are fewer.

    Without a GPU, several devices are parts of the CPU: no faster, but the same training as on as many GPUs.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if n > len(gpus) > 0:
        raise UserError(f"TRAIN.devices is {n}, but TensorFlow sees {len(gpus)} GPUs; set it to that, or to 0 for all.")
    if n > 1 and not gpus:
        cpu, = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * n)
    elif n and gpus:
        tf.config.set_visible_devices(gpus[:n], "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)


def list_devices() -> list[tf.config.LogicalDevice]:
    """The GPUs, or the CPU where there is none."""
    return tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")


def cluster() -> dict | None:
    """This process's place among several, {"cluster": ..., "task": ...} from TF_CONFIG or Slurm; None if it is alone.

    https://www.tensorflow.org/api_docs/python/tf/distribute/cluster_resolver/TFConfigClusterResolver. Raises UserError.
    """
    try:
        if "TF_CONFIG" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            # Slurm already limits the visible GPUs; the resolver's own assignment fails on nodes without any.
            slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(
                gpus_per_node=1000, gpus_per_task=1, auto_set_gpu=False)
            os.environ["TF_CONFIG"] = json.dumps({
                "cluster": slurm.cluster_spec().as_dict(), "task": {"type": slurm.task_type, "index": slurm.task_id}})
        place = json.loads(os.environ.get("TF_CONFIG") or "{}")
        if not place.get("cluster"):
            return None
        workers, task = place["cluster"], place["task"]
        if not set(workers) <= {"chief", "worker"} or not 0 <= int(task["index"]) < len(workers[task["type"]]):
            raise ValueError("the jobs must be chief and worker, with indices from 0")
        return place
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise UserError(f"TF_CONFIG, or what Slurm has set, does not describe a cluster ({error!r}); write it as in "
                        "docs/machines.md, or unset it.") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message; TensorFlow appends stack traces."""
    return str(error).partition("\n")[0]


def make_strategy(n: int) -> tf.distribute.Strategy:
    """The strategy for several machines, several devices or one. Connects the machines; raises UserError.

    n: devices of this machine, TRAIN.devices.
    """
    place = cluster()
    with utils.quiet():
        choose_devices(n)
    if place:
        return _join_cluster(place)
    with utils.quiet():
        devices = list_devices()
        return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else tf.distribute.get_strategy()


def _join_cluster(place):
    task, addresses = place["task"], [address for job in place["cluster"].values() for address in job]
    print(f"This is {task['type']} {task['index']}, one of {len(addresses)} processes; waiting until all are started, "
          f"each with its own index, from 0: {', '.join(addresses)}.", flush=True)
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would wait for TensorFlow to return
    try:
        with utils.quiet():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError) as error:
        raise UserError(f"The processes of TF_CONFIG could not connect ({first_line(error)}): a port is in use, an "
                        "index was given twice, or an address can't be reached from here; fix TF_CONFIG and start all "
                        "of them again.") from error
    finally:
        signal.signal(signal.SIGINT, handler)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes files. A single process always does."""
    resolver = strategy.cluster_resolver
    return not resolver or resolver.task_type == "chief" or (
        resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs)


@tf.function
def _sum_over(strategy, number):
    return strategy.reduce("SUM", strategy.run(tf.identity, args=(number,)), axis=None)


def sum_over(strategy: tf.distribute.Strategy, number: int) -> int:
    """Sum `number` over all devices. Blocks until every process calls it; a single process gets its own number."""
    return int(_sum_over(strategy, tf.constant(number, tf.int64))) if strategy.cluster_resolver else number


def take_from_chief(strategy: tf.distribute.Strategy, variables: list[tf.Variable]) -> None:
    """Copy the chief's values of variables to all processes. Blocks until every process calls it."""

    @tf.function
    def take():
        context = tf.distribute.get_replica_context()
        for variable in variables:
            value = tf.convert_to_tensor(variable)
            chiefs = tf.where(context.replica_id_in_sync_group == 0, value, tf.zeros_like(value))
            variable.assign(context.all_reduce("SUM", chiefs))

    strategy.run(take)


def require_same(strategy: tf.distribute.Strategy, settings: dict) -> None:
    """Compare settings, by name, over all processes, each of which must call this. Raises UserError if they differ."""
    checksums = {name: zlib.crc32(json.dumps(value).encode()) for name, value in settings.items()}
    different = [name for name, number in checksums.items()
                 if sum_over(strategy, number) != number * strategy.num_replicas_in_sync]
    if different:
        raise UserError(f"The processes do not train the same: {', '.join(different)} differ; give all of them the "
                        "same config.py, --set, --weights, photos and VGG19.")


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep lines and progress bars of this process off the screen: the chief's are enough."""
    utils.progress.visible = False
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def precision(setting: str) -> str:
    """The type that networks compute in. `auto` is bfloat16 on a CPU that has it, float32 elsewhere.

    setting: TRAIN.precision, RESTORE.precision or VALID.precision.
    """
    if setting != "auto":
        return setting
    if tf.config.list_physical_devices("GPU"):
        return "float32"  # TensorFlow computes it in TF32 on GPUs that have it
    try:
        features = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return "float32"
    return "bfloat16" if re.search(r"\b(avx512_bf16|amx_bf16)\b", features) else "float32"


def describe() -> str:
    """The devices in use, for a line on the screen: `2 CPU cores`, `1 GPU (NVIDIA L4)`."""
    gpus = tf.config.list_physical_devices("GPU")
    gpus = gpus[:len(tf.config.list_logical_devices("GPU"))]
    if not gpus:
        n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return utils.plural(n, "CPU core")
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "unknown")
    return f"{utils.plural(len(gpus), 'GPU')} ({name})"


@contextlib.contextmanager
def compute_in(setting: str) -> Iterator[None]:
    """Build networks inside this context to compute in `precision(setting)` and keep their weights in float32."""
    name = precision(setting)
    keras.config.set_dtype_policy(name if name == "float32" else f"mixed_{name}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def map_ahead(function: Callable, items: Iterable, n_threads: int = 1) -> Iterator:
    """Yield `function(item)` of each item, in order, computed in threads at most `n_threads` ahead of the consumer."""
    running: collections.deque = collections.deque()
    pool = ThreadPoolExecutor(n_threads)
    try:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > n_threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def map_over_devices(function: Callable, items: Iterable, workers: list) -> Iterator:
    """Yield `function(worker, item)` of each item, in order. Each worker, one a device, has one item at a time."""
    if len(workers) == 1:  # in this thread, so that Ctrl-C ends it at once
        yield from (function(workers[0], item) for item in items)
        return
    idle: queue.SimpleQueue = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(item):
        worker = idle.get()
        try:
            return function(worker, item)
        finally:
            idle.put(worker)

    yield from map_ahead(run, items, len(workers))
