"""A small training process for the multi-process tests: no images, quick to compile.

python tests/cluster_run.py --data=DIR --workdir=DIR [--devices=N] [--epochs=E] [cluster flags]
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from conftest import tiny_config

from jdance.errors import Preempted, UserError
from jdance.train import distributed, loop, workdirs
from jdance.train.motion import MotionTask

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--workdir", required=True)
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--epochs", type=float, default=1.0)
parser.add_argument("--coordinator", default="")
parser.add_argument("--process_id", type=int)
parser.add_argument("--num_processes", type=int)
parser.add_argument("--watchdog", type=float, default=0.0)
parser.add_argument("--resume", default="auto")
parser.add_argument("--checkpoint_every", type=float, default=100.0)
parser.add_argument("--log", default="", help="folder of seen-N.txt; default: --workdir")
parser.add_argument("--pause", type=float, default=0.0, help="extra seconds per step")
FLAGS = parser.parse_args()
# Overrides conftest.py, before any device is used.
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count={FLAGS.devices} --xla_backend_optimization_level=0"
)
os.environ["JAX_PLATFORMS"] = "cpu"


def main() -> int:
    config = tiny_config(FLAGS.data)
    config.update(epochs=FLAGS.epochs, eval_every=100.0, checkpoint_every=FLAGS.checkpoint_every)
    config.model.update(branches="keypoints", keypoint_widths=(8,), fusion_widths=(8,))
    config.optimizer.learning_rate = 0.05
    config.data.threads = 1
    train_batches = MotionTask.train_batches

    def recorded(task, source, start_step, fractions=None):
        """Yields the same batches and logs their examples, one line per step."""
        folder = Path(FLAGS.log or FLAGS.workdir)
        with (folder / f"seen-{FLAGS.process_id or 0}.txt").open("a") as file:
            batches = train_batches(task, source, start_step, fractions)
            for step, batch in enumerate(batches, start=start_step + 1):
                file.write(f"{step} {' '.join(map(str, np.sort(batch['index'])))}\n")
                file.flush()
                time.sleep(FLAGS.pause)
                yield batch

    MotionTask.train_batches = recorded
    address = distributed.address_from_flags(
        FLAGS.coordinator, FLAGS.process_id, FLAGS.num_processes, {}
    )
    try:
        with (
            distributed.initialized(address, FLAGS.watchdog),
            workdirs.opened(FLAGS.workdir) as workdir,
        ):
            result = loop.train(config, workdir, resume=FLAGS.resume, watchdog=FLAGS.watchdog)
            print("result", result["n"], result["confusion"], flush=True)
    except Preempted as notice:
        print(notice, flush=True)
        return 75
    except UserError as error:
        print(f"error: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
