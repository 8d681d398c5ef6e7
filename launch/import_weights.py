"""Imports published weights into a folder for --pose or --config.init_from.

python launch/import_weights.py --network=resnet50 --input=resnet50.pth --output=DIR
python launch/import_weights.py --network=openpose_vgg19 --input=pose.caffemodel --output=DIR
python launch/import_weights.py --network=mobilenet_v2_small --input=graph_opt.pb --output=DIR

ResNets are read in torchvision's format (.pth or .safetensors), with or without classifier, also
with CBAM under its authors' parameter names: train with --config.init_from=DIR.

Pose networks are for --pose=DIR. OpenPose's is read from a .caffemodel or a .pth. By default
mobilenet_v2_small normalizes with the statistics of each image, like the published graph;
--calibrate=FOLDER measures fixed statistics on images of your own.
"""

from absl import flags

from jdance import models
from jdance.cli import check_local, former_name, run
from jdance.errors import UserError
from jdance.pose import importers, weights
from jdance.weights import resnet

_NETWORK = flags.DEFINE_enum(
    "network",
    None,
    [*importers.IMPORTERS, *resnet.KINDS],
    "Architecture of the weights.",
    required=True,
)
former_name("kind", "network")
_INPUT = flags.DEFINE_string("input", None, "Published weights file.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.", required=True)
_CALIBRATE = flags.DEFINE_string(
    "calibrate",
    None,
    "Folder of images to measure fixed batch-norm statistics on (mobilenet_v2_small only).",
)


def _import_pose() -> str:
    config, variables = importers.IMPORTERS[_NETWORK.value](_INPUT.value)
    if _CALIBRATE.value is not None:
        if _NETWORK.value != "mobilenet_v2_small":
            raise UserError(f"--calibrate: {_NETWORK.value} has no batch-norm statistics")
        config["statistics"] = "fixed"
        statistics = weights.calibrate_folder(variables, _CALIBRATE.value)
        variables = weights.with_statistics(variables, statistics)
    weights.save(_OUTPUT.value, config, variables)
    return ", ".join(f"{name} {value}" for name, value in config.items())


def _import_resnet() -> str:
    if _CALIBRATE.value is not None:
        raise UserError(f"--calibrate={_CALIBRATE.value}: for pose networks only")
    config, variables = resnet.import_file(_NETWORK.value, _INPUT.value)
    resnet.save(_OUTPUT.value, _NETWORK.value, config, variables)
    attention = (
        f"CBAM{config.attention} in every block" if config.attention >= 0 else "no attention"
    )
    classifier = f"{config.classes} classes" if config.classes else "no classifier"
    return f"{models.count_parameters(variables):,} parameters, {attention}, {classifier}"


def main() -> None:
    check_local(_OUTPUT)
    summary = _import_resnet() if _NETWORK.value in resnet.KINDS else _import_pose()
    print(f"{_OUTPUT.value}: {_NETWORK.value}, {summary}")


if __name__ == "__main__":
    run(main)
