"""Plan of a reproduction: the method, its variants and baselines, and the paper's results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict

from jdance import shipped
from jdance.train.sweep import Variant, apply_variant

PROPOSED, STR, QES, FLAT = "proposed", "STR", "QES", "QES, flat network"
COMPARED = (PROPOSED, STR, QES, FLAT)

_ABLATIONS: dict[str, dict[str, Any]] = {
    "key points only": {"model.branches": "keypoints", "freeze_epochs": 0.0},
    "image only": {"model.branches": "image"},
    "no attention": {"model.attention": -1, "model.attention_block": ""},
    "CBAM0": {"model.attention": 0, "model.attention_block": ""},
    "CBAM1": {"model.attention": 1, "model.attention_block": ""},
    "CBAM2": {"model.attention": 2, "model.attention_block": ""},
    "fused18": {"model.features": "fused18"},
    "pos18": {"model.features": "pos18"},
    "full": {"model.features": "full"},
    "as the data come": {"data.sampling": "shuffled"},
    "balanced": {"data.sampling": "balanced"},
    "balanced by confusion": {"data.sampling": "confusion"},
}


@dataclass(frozen=True)
class Preset:
    """Extent of a reproduction.

    Attributes:
        proposed: the method's file in configs/, with an argument if it takes one.
        seeds: number of runs of each variant.
        splits: "video", "frame" or both.
        ablations: whether to train the method's variants, too.
        changes: to the configurations "proposed", "str" and "qes", by key.
    """

    proposed: str
    seeds: int
    splits: tuple[str, ...] = ("video", "frame")
    ablations: bool = True
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


PRESETS = {
    # The paper's network, for a GPU; from random weights, its own recipe stays at chance.
    "full": Preset("paper.py:scratch", 3),
    # The same tables with a network that trains on a CPU in minutes.
    "small": Preset(
        "quickstart.py",
        3,
        changes={
            "proposed": {"init_from": ""},  # all methods start from random weights
            "str": {
                "epochs": 16.0,
                "optimizer.boundaries": (6.4, 12.8),
                "eval_every": 4.0,
                "checkpoint_every": 4.0,
            },
        },
    ),
    # A quick check of the whole report.
    "reduced": Preset(
        "quickstart.py",
        1,
        splits=("video",),
        ablations=False,
        changes={
            "proposed": {
                "init_from": "",
                "data.image_size": 48,
                "epochs": 12.0,
                "eval_every": 3.0,
            },
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
    """Returns the method's configuration, and the variants to train, the method first.

    Args:
        preset: the extent.
        load: loads a configuration by its file in configs/.
        search: whether to include the paper's search over widths and batch sizes.
    """
    names = {"proposed": preset.proposed, "str": "str.py", "qes": "qes.py"}
    base, str_config, qes_config = (
        apply_variant(load(file), Variant(name, dict(preset.changes.get(name, {}))))
        for name, file in names.items()
    )
    result = [Variant(PROPOSED, {})]
    ablations = dict(_ABLATIONS) if preset.ablations else {}
    if ablations and base.init_from not in shipped.FILES:  # perhaps an image branch alone
        ablations["key points only"] = ablations["key points only"] | {"init_from": ""}
    if search:
        ablations |= _search(base)
    for name, changes in ablations.items():
        variant = Variant(name, changes)
        if apply_variant(base, variant) != base:  # otherwise it is the method itself
            result.append(variant)
    result.append(Variant(STR, {}, str_config))
    result.append(Variant(QES, {}, qes_config))
    result.append(Variant(FLAT, {"model.branches": "qes_flat"}, qes_config))
    return base, result


def differences(preset: Preset) -> str:
    """Describes a preset's changes to the configurations for the report; "" without any."""
    changed = [
        f"{name}: {', '.join(f'{key}={value}' for key, value in changes.items())}"
        for name, changes in preset.changes.items()
    ]
    return f"Changed here, {'; '.join(changed)}." if changed else ""


def _search(base: ConfigDict) -> dict[str, dict[str, Any]]:
    """The paper's search over batch sizes and widths of dense layers."""
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


# Table 1: persons by class in train and test. The sixth class has no name there, here "stand".
COUNTS = {
    "akimbo": (795, 88),
    "hold_high": (470, 51),
    "single_arm_open": (470, 52),
    "wave": (250, 27),
    "walk": (647, 71),
    "stand": (568, 61),
}

# Table 2: accuracy by class. Those of wave and walk are no multiples of 1/27 and 1/71, and that of
# the sixth class is missing.
PER_CLASS = {
    "akimbo": 0.989,
    "hold_high": 0.843,
    "single_arm_open": 0.942,
    "wave": 0.843,
    "walk": 0.966,
}

# Table 4: mean accuracy by method.
ACCURACY = {"proposed": 0.926, "STR": 0.789, "QES": 0.893}

FRAMES_PER_SECOND = 0.75  # the whole pipeline, on a Tesla P4
