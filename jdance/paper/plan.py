"""What a reproduction trains: the method, its variants, and what it is compared with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict

from jdance.train.sweep import Variant, apply_variant

PROPOSED, STR, QES, FLAT = "proposed", "STR", "QES", "QES, flat network"
COMPARED = (PROPOSED, STR, QES, FLAT)

_ABLATIONS: dict[str, dict[str, Any]] = {
    "key points only": {"model.branches": "keypoints"},
    "image only": {"model.branches": "image"},
    "no attention": {"model.attention": -1},
    "CBAM0": {"model.attention": 0},
    "CBAM1": {"model.attention": 1},
    "CBAM2": {"model.attention": 2},
    "fused18": {"model.features": "fused18"},
    "pos18": {"model.features": "pos18"},
    "full": {"model.features": "full"},
    "as the data come": {"data.sampling": "shuffled"},
    "balanced": {"data.sampling": "balanced"},
    "balanced by confusion": {"data.sampling": "confusion"},
}


@dataclass(frozen=True)
class Preset:
    """How much a reproduction does.

    Fields:
        proposed: name of the method's file in configs/.
        seeds: runs of each.
        splits: "video", "frame" or both.
        ablations: whether the method's variants are trained, too.
        changes: by configuration ("proposed", "str", "qes"), what differs from the files.
    """

    proposed: str
    seeds: int
    splits: tuple[str, ...] = ("video", "frame")
    ablations: bool = True
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


PRESETS = {
    # The paper's network and recipe, for a GPU.
    "full": Preset("paper", 3),
    # The same tables with a network that a CPU trains in minutes.
    "small": Preset(
        "quickstart",
        3,
        changes={
            "str": {
                "epochs": 16.0,
                "optimizer.boundaries": (6.4, 12.8),
                "eval_every": 4.0,
                "checkpoint_every": 4.0,
            }
        },
    ),
    # A look at everything, in minutes.
    "reduced": Preset(
        "quickstart",
        1,
        splits=("video",),
        ablations=False,
        changes={
            "proposed": {"data.image_size": 48, "epochs": 12.0, "eval_every": 3.0},
            "str": {
                "epochs": 8.0,
                "optimizer.learning_rate": 1e-3,
                "optimizer.boundaries": (4.0, 6.0),
                "eval_every": 2.0,
                "checkpoint_every": 2.0,
            },
        },
    ),
}


def variants(
    preset: Preset, load: Callable[[str], ConfigDict], *, search: bool = False
) -> tuple[ConfigDict, list[Variant]]:
    """The method's configuration, and everything to be trained; the method comes first.

    Args:
        preset: how much.
        load: from the name of a file in configs/ to its configuration.
        search: with the search over widths and batch sizes.
    """
    names = {"proposed": preset.proposed, "str": "str", "qes": "qes"}
    base, for_str, for_qes = (
        apply_variant(load(file), Variant(name, dict(preset.changes.get(name, {}))))
        for name, file in names.items()
    )
    result = [Variant(PROPOSED, {})]
    named = dict(_ABLATIONS) if preset.ablations else {}
    if search:
        named |= _search(base)
    for name, changes in named.items():
        variant = Variant(name, changes)
        if apply_variant(base, variant) != base:  # else it is the method itself
            result.append(variant)
    result.append(Variant(STR, {}, for_str))
    result.append(Variant(QES, {}, for_qes))
    result.append(Variant(FLAT, {"model.branches": "qes_flat"}, for_qes))
    return base, result


def differences(preset: Preset) -> str:
    """What a preset changes in the files of configs/, for the report; "" if nothing."""
    changed = [
        f"{name}: {', '.join(f'{key}={value}' for key, value in changes.items())}"
        for name, changes in preset.changes.items()
    ]
    return f"Changed for brevity, {'; '.join(changed)}." if changed else ""


def _search(base: ConfigDict) -> dict[str, dict[str, Any]]:
    """The paper's search: other batch sizes, and dense layers of other widths."""
    result: dict[str, dict[str, Any]] = {
        f"batch {size}": {"batch_size": size} for size in (16, 32, 64, 128)
    }
    keys = ("image_widths", "keypoint_widths", "fusion_widths")
    for name, factor in (("dense layers of half the width", 0.5), ("of twice the width", 2)):
        result[name] = {
            f"model.{key}": tuple(max(1, int(width * factor)) for width in base.model[key])
            for key in keys
        }
    return result


# Table 1: persons by class, to train and to test. The sixth class has no name in the paper; it is
# called "stand" here.
COUNTS = {
    "akimbo": (795, 88),
    "hold_high": (470, 51),
    "single_arm_open": (470, 52),
    "wave": (250, 27),
    "walk": (647, 71),
    "stand": (568, 61),
}

# Table 2: accuracy of each class. Those of wave and walk are no possible shares of 27 and 71, and
# the sixth is not printed.
PER_CLASS = {
    "akimbo": 0.989,
    "hold_high": 0.843,
    "single_arm_open": 0.942,
    "wave": 0.843,
    "walk": 0.966,
}

# Table 4: mean accuracy, by the names of `plan.variants`.
ACCURACY = {"proposed": 0.926, "STR": 0.789, "QES": 0.893}

FRAMES_PER_SECOND = 0.75  # the whole pipeline, on a Tesla P4
