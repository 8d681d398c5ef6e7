"""Imports published weights as a folder of our own.

    python launch/import_weights.py --kind=resnet50 --input=resnet50.pth --output=DIR

reads a ResNet in torchvision's format (.pth or .safetensors; with or without classifier, and with
the names of CBAM's authors); train with --config.init_from=DIR.

    python launch/import_weights.py --kind=mobilenet_v2_small --input=graph_opt.pb --output=DIR

reads a pose network; any program's --pose=DIR then uses it. Without --calibrate it normalises with
the statistics of each picture, as its graph was published; with it, with fixed statistics measured
on your own pictures, which suit them better.
"""

from absl import flags

from jdance import models
from jdance.errors import UserError
from jdance.launcher import run
from jdance.pose import weights
from jdance.weights import resnet

_KIND = flags.DEFINE_enum(
    "kind", None, [*weights.IMPORTERS, *resnet.KINDS], "The network.", required=True
)
_INPUT = flags.DEFINE_string("input", None, "The weights file as published.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write.", required=True)
_CALIBRATE = flags.DEFINE_string(
    "calibrate",
    None,
    "Pose networks: a folder of pictures to measure fixed batch-norm statistics on.",
)


def _import_pose() -> str:
    variables = weights.IMPORTERS[_KIND.value](_INPUT.value)
    config = {"network": _KIND.value, "statistics": "picture"}
    if _CALIBRATE.value is not None:
        config["statistics"] = "fixed"
        statistics = weights.calibrate_folder(variables, _CALIBRATE.value)
        variables = weights.with_statistics(variables, statistics)
    weights.save(_OUTPUT.value, config, variables)
    return f"statistics {config['statistics']}"


def _import_resnet() -> str:
    if _CALIBRATE.value is not None:
        raise UserError(f"--calibrate={_CALIBRATE.value}: is for pose networks only")
    config, variables = resnet.import_file(_KIND.value, _INPUT.value)
    resnet.save(_OUTPUT.value, _KIND.value, config, variables)
    attention = (
        f"CBAM{config.attention} in every block" if config.attention >= 0 else "no attention"
    )
    classifier = f"{config.classes} classes" if config.classes else "no classifier"
    return f"{models.count_parameters(variables):,} parameters, {attention}, {classifier}"


def main() -> None:
    summary = _import_resnet() if _KIND.value in resnet.KINDS else _import_pose()
    print(f"{_OUTPUT.value}: {_KIND.value}, {summary}")


if __name__ == "__main__":
    run(main)
