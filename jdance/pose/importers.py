"""Published weights files, each to a pose network's configuration and variables."""

from pathlib import Path
from typing import Any

from jdance.pose import vgg_weights, weights

Imported = tuple[dict[str, Any], weights.Variables]


def _mobilenet_v2_small(path: str | Path) -> Imported:
    config = {"network": "mobilenet_v2_small", "statistics": "picture"}
    return config, weights.import_mobilenet_v2_small(path)


# By the network's name.
IMPORTERS = {
    "mobilenet_v2_small": _mobilenet_v2_small,
    "openpose_vgg19": vgg_weights.import_openpose_vgg19,
}


def import_file(path: Path) -> Imported:
    """Reads a published file, told by its suffix: .pth, .pt and .caffemodel are of openpose_vgg19,
    others of mobilenet_v2_small.

    Raises:
        UserError: see the importers.
    """
    is_vgg = path.suffix in (".pth", ".pt", ".caffemodel")
    return IMPORTERS["openpose_vgg19" if is_vgg else "mobilenet_v2_small"](path)
