"""Tells where the time of a configuration's training step goes, on this machine.

python launch/profile.py --config=configs/paper.py --steps=20 --trace=trace --output=profile.json
python launch/profile.py --config=configs/quickstart.py --data=runs/quickstart/data

The step works on random data that is on the device already; with --data, the loader is measured
with a real data set, alone and together with the step. Two counts of FLOP and bytes are printed:
of the network's convolutions and matrix products, and of the whole program, as the compiler has it.

--trace leaves a trace that ui.perfetto.dev opens (perfetto_trace.json.gz), and xprof.
"""

import json
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from jdance import files
from jdance.data.records import Dataset
from jdance.launcher import run
from jdance.profiling import peaks, profile
from jdance.report import document
from jdance.training import devices, experiment, tasks

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, from configs/.")
_STEPS = flags.DEFINE_integer("steps", 20, "How often the step is timed.", lower_bound=1)
_DATA = flags.DEFINE_string("data", "", "Data set, for the loader's speed; else none is needed.")
_TRACE = flags.DEFINE_string("trace", "", "Folder for a trace of three steps.")
_OUTPUT = flags.DEFINE_string("output", "", "File for the numbers, as JSON.")
_FLOPS = flags.DEFINE_float(
    "peak_flops", None, "FLOP/s that one device could do; known of common GPUs.", lower_bound=1.0
)
_BANDWIDTH = flags.DEFINE_float(
    "peak_bandwidth", None, "Bytes a second of its memory, likewise.", lower_bound=1.0
)
flags.mark_flag_as_required("config")


def main() -> None:
    # What is compiled anew each time has a time to tell.
    jax.config.update("jax_enable_compilation_cache", False)
    config = _CONFIG.value
    classes, dataset = [str(number) for number in range(config.model.get("classes", 0))], None
    if _DATA.value:
        config.data.dir = _DATA.value
        dataset = Dataset(_DATA.value, tasks.data_kind(config))
        classes = dataset.classes
    task = tasks.make(config, classes)
    if dataset is not None:
        task.suit(dataset)
    experiment.check(task)
    devices.check_batch_size(task.config.batch_size, task.config.accumulate)
    known = peaks.of_device(jax.devices()[0].device_kind, task.config.model.get("dtype", "float32"))
    peak = peaks.Peak(_FLOPS.value or known.flops, _BANDWIDTH.value or known.bandwidth)
    trace = Path(_TRACE.value) if _TRACE.value else None
    result = profile.measure(task, _STEPS.value, peak, trace, dataset)
    print(document.to_markdown("Profile", profile.sections(result)))
    if _OUTPUT.value:
        files.write_at_once(Path(_OUTPUT.value), json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    run(main)
