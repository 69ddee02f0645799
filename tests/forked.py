"""Run small.py repeatedly in the current folder, ended by a signal at a random moment each time but the last.

Each training is a fork of this process: to import TensorFlow takes longer than what is tested.
"""
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import small
from small import main

import train  # noqa: F401 (once for all forks)

SIGNALS = [signal.SIGKILL] * 20 + [signal.SIGINT, signal.SIGTERM]


def run(output):
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout.reconfigure(line_buffering=True)
    small.replace()
    arguments = main.parse_arguments()
    sys.exit(main.main(arguments))


def half_file(process):
    """The first that appears."""
    while process.is_alive():
        for path in Path("checkpoint").iterdir():
            if ".partial" in path.name or path.name.endswith("_temp"):
                return path.name
        time.sleep(0.0005)


if __name__ == "__main__":
    rng = random.Random(0)
    epoch = 0.3  # seconds at most, so that no run gets much further than its lines say
    for number in [*rng.sample(SIGNALS, len(SIGNALS)), None]:
        reader, writer = os.pipe()
        process = multiprocessing.get_context("fork").Process(target=run, args=(writer,))
        process.start()
        os.close(writer)
        lines = rng.randint(1, 3)  # "Phase 1 of 2", before it is compiled, "Phase 1, step 1", "Phase 1, epoch 1"
        with os.fdopen(reader) as output:
            began = time.monotonic()
            for line in output:
                print(line, end="")
                if line.startswith("Phase "):
                    began, last = time.monotonic(), began
                    epoch = min(epoch, began - last) if ", epoch " in line else epoch
                    lines -= 1
                    if number and lines == 0:
                        if rng.random() < 0.3:
                            print(f"While saving: {half_file(process)}")
                        else:
                            time.sleep(rng.uniform(0, epoch))
                        os.kill(process.pid, number)
        process.join()
        print(f"Ended by {number and number.name}: {process.exitcode}", flush=True)
