"""Imports published weights of a pose network as a pose checkpoint folder.

    python launch/import_weights.py --kind=mobilenet_v2_small --input=graph_opt.pb --output=DIR

Any program's --pose=DIR then uses them. Without --calibrate the network normalises with the
statistics of each picture, as its graph was published; with it, with fixed statistics measured on
your own pictures, which suit them better.
"""

from absl import flags

from jdance.launcher import run
from jdance.pose import weights

_KIND = flags.DEFINE_enum("kind", None, list(weights.IMPORTERS), "The network.", required=True)
_INPUT = flags.DEFINE_string("input", None, "The weights file as published.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write.", required=True)
_CALIBRATE = flags.DEFINE_string(
    "calibrate", None, "A folder of pictures to measure fixed batch-norm statistics on."
)


def main() -> None:
    variables = weights.IMPORTERS[_KIND.value](_INPUT.value)
    config = {"network": _KIND.value, "statistics": "picture"}
    if _CALIBRATE.value is not None:
        config["statistics"] = "fixed"
        statistics = weights.calibrate_folder(variables, _CALIBRATE.value)
        variables = weights.with_statistics(variables, statistics)
    weights.save(_OUTPUT.value, config, variables)
    print(f"{_OUTPUT.value}: {_KIND.value}, statistics {config['statistics']}")


if __name__ == "__main__":
    run(main)
