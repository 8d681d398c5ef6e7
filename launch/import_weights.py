"""Imports published weights of a pose network as a pose checkpoint folder.

    python launch/import_weights.py --kind=mobilenet_v2_small --input=graph_opt.pb --output=DIR
    python launch/import_weights.py --kind=openpose_vgg19 --input=pose.caffemodel --output=DIR

Any program's --pose=DIR then uses them. OpenPose's network is read from a .caffemodel or a .pth.
mobilenet_v2_small without --calibrate normalises with the statistics of each picture, as its graph
was published; with it, with fixed statistics measured on your own pictures, which suit them better.
"""

from absl import flags

from jdance.errors import UserError
from jdance.launcher import run
from jdance.pose import importers, weights

_KIND = flags.DEFINE_enum("kind", None, list(importers.IMPORTERS), "The network.", required=True)
_INPUT = flags.DEFINE_string("input", None, "The weights file as published.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write.", required=True)
_CALIBRATE = flags.DEFINE_string(
    "calibrate", None, "A folder of pictures to measure fixed batch-norm statistics on."
)


def main() -> None:
    config, variables = importers.IMPORTERS[_KIND.value](_INPUT.value)
    if _CALIBRATE.value is not None:
        if _KIND.value != "mobilenet_v2_small":
            raise UserError(f"--calibrate: {_KIND.value} has no statistics of its own to measure")
        config["statistics"] = "fixed"
        statistics = weights.calibrate_folder(variables, _CALIBRATE.value)
        variables = weights.with_statistics(variables, statistics)
    weights.save(_OUTPUT.value, config, variables)
    print(f"{_OUTPUT.value}: {', '.join(f'{name} {value}' for name, value in config.items())}")


if __name__ == "__main__":
    run(main)
