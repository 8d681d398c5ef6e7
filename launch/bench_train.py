"""Benchmarks training and inference of the paper's network against PyTorch.

python launch/bench_train.py --batch_size=16                                          # CPU
python launch/bench_train.py --batch_size=256 --dtype=bfloat16 --rounds=50            # GPU

Needs PyTorch (`pip install -e '.[bench]'` on Python 3.11, or one for the GPU). Both frameworks
process the same random batch, already on the device. They take turns, round after round, so that
other load on the machine affects them alike. `taskset -c 1` restricts both to one core.
"""

import os
from pathlib import Path

import jax
from absl import flags

from jdance import config as defaults
from jdance.bench import inputs, ratios, timing
from jdance.cli import check_local, run
from jdance.errors import UserError
from jdance.paper.speed import machine
from jdance.report import html
from jdance.train import distributed, tasks

_BATCH = flags.DEFINE_integer("batch_size", 16, "Images per batch.", lower_bound=1)
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Data type of the activations."
)
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Number of timed rounds.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for the result.")
_RECORD = flags.DEFINE_string(
    "record", "", "JSON file by an earlier --output; fails where a ratio has fallen by 20 %."
)
_CLASSES = 6


def main() -> None:
    check_local(_OUTPUT)
    # Both frameworks share the device's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import torch

        from jdance.bench import torch_steps
    except ImportError as error:
        raise UserError(
            "needs PyTorch: pip install -e '.[bench]' (Python 3.11), or pip install torch"
        ) from error
    config = defaults.base()
    config.batch_size, config.model.dtype = _BATCH.value, _DTYPE.value
    task = tasks.make(config, [str(number) for number in range(_CLASSES)])
    distributed.check_batch_size(config.batch_size)
    gpu = jax.devices()[0].platform == "gpu"
    if gpu and not torch.cuda.is_available():
        raise UserError("PyTorch sees no GPU, and jax does; install a PyTorch for the GPU")
    baselines = torch_steps.candidates(
        inputs.batch(task.config, config.batch_size), _CLASSES, _DTYPE.value, gpu
    )
    candidates = inputs.runnable_steps(task)
    versions = f"jax {jax.__version__}, PyTorch {torch.__version__}"
    comparisons = []
    for number, work in enumerate(("training step", "inference")):
        steps = {name: both[number] for name, both in baselines.items()}
        times = timing.interleave({"jdance": candidates[number]} | steps, _ROUNDS.value)
        comparisons.append(
            ratios.Comparison(
                work,
                ("jdance", times.pop("jdance")),
                {f"PyTorch, {name}": t for name, t in times.items()},
                config.batch_size,
            )
        )
    caption = f"{machine()}, {versions}, batch {config.batch_size}, {_DTYPE.value}"
    print(html.table_markdown(ratios.table(comparisons, caption)))
    print(f"\n{caption}")
    if _OUTPUT.value:
        ratios.write(Path(_OUTPUT.value), comparisons, {"about": caption})
    if _RECORD.value:
        ratios.check(Path(_RECORD.value), comparisons, "wall" if gpu else "cpu")


if __name__ == "__main__":
    run(main, keep_memory=True)
