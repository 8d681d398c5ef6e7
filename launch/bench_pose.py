"""Benchmarks pose networks and the decoder.

python launch/bench_pose.py --pose=runs/pose/pose.npz --pose=mobilenet_v2_small

Prints the median and the minimum time of each network for one image of its input size. Candidates
take turns, round after round, so that other load on the machine affects them alike.

--baseline also times the published graph of mobilenet_v2_small in TensorFlow (pip install -e
'.[bench]') and a decoder in C (needs the compiler cc).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from jdance.bench import pose_baselines, timing
from jdance.bench.inputs import crowd
from jdance.cli import former_name, pose_flags, run
from jdance.errors import UserError
from jdance.pose import DecodeConfig, PoseEstimator, targets
from jdance.pose.decode import decode

_POSE = flags.DEFINE_multi_string(
    "pose", ["mobilenet_v2_small"], "Pose network, as for launch/recognize.py."
)
_POSE_SIZE, _POSE_VIEWS = pose_flags()
_ROUNDS = flags.DEFINE_integer("rounds", 30, "Number of timed rounds.", lower_bound=1)
_BASELINE = flags.DEFINE_bool("baseline", False, "Also time the TensorFlow and C baselines.")
former_name("alternative", "baseline")
_CELLS = (46, 46)


def _candidates() -> dict[str, Callable[[], Any]]:
    """Returns the functions to time, by name."""
    rng = np.random.default_rng(0)
    result: dict[str, Callable[[], Any]] = {}
    for name in _POSE.value:
        estimator = PoseEstimator.load(name, size=_POSE_SIZE.value, view_names=_POSE_VIEWS.value)
        side = estimator.size
        image = jax.device_put(rng.integers(0, 256, (1, side, side, 3), np.uint8))
        result[f"{name}: network"] = lambda e=estimator, i=image: e.maps(i)  # type: ignore[misc]
        result[f"{name}: network and decode"] = lambda e=estimator, i=image: e(i)  # type: ignore[misc]
    if _BASELINE.value:
        square = rng.integers(0, 256, (368, 368, 3), np.uint8)
        try:
            graph = pose_baselines.load_tensorflow()
        except ImportError as error:
            raise UserError(f"--baseline: {error}; pip install -e '.[bench]'") from error
        result["mobilenet_v2_small in TensorFlow: network"] = lambda: graph(square)
        in_c = pose_baselines.build_c_decoder(DecodeConfig())
    maps = {f"{n} people": targets.encode(jnp.asarray(crowd(n)[1][None]), _CELLS) for n in (1, 20)}
    noise = (rng.normal(0, 1, (1, *_CELLS, n)).astype(np.float32) for n in (19, 38))
    maps["noise"] = jax.device_put(tuple(noise))
    for name, (heat, paf) in maps.items():
        found = int(decode(heat, paf).valid.sum())
        label = f"decode, {name} ({found} found, at most {DecodeConfig().max_people})"
        result[label] = lambda h=heat, p=paf: decode(h, p)  # type: ignore[misc]
        if _BASELINE.value:
            h, p = (np.asarray(m)[0] for m in (heat, paf))
            label = f"decode in C, {name} ({len(in_c(h, p))} found)"
            result[label] = lambda h=h, p=p: in_c(h, p)  # type: ignore[misc]
    return result


def main() -> None:
    for name, times in timing.interleave(_candidates(), _ROUNDS.value).items():
        median, minimum = 1e3 * np.median(times.wall), 1e3 * min(times.wall)
        print(f"{name:60} median {median:7.1f} ms, min {minimum:7.1f} ms, {1e3 / median:6.1f}/s")


if __name__ == "__main__":
    run(main, keep_memory=True)
