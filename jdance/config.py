"""Defaults of every experiment; the files in configs/ change what differs.

The defaults are the paper's exact network and recipe (Shen et al., 2021, sections 3 and 4).
"""

import runpy
from typing import Any

from ml_collections import ConfigDict

from jdance.errors import UserError


def model() -> ConfigDict:
    """The network; training takes `classes` from the data set."""
    return ConfigDict(
        dict(
            classes=6,
            layout="coco18",  # of the skeleton; training takes it from the data set, too
            branches="fused",  # or "image", "keypoints", "sequence", "str", "qes", "qes_flat"
            features="fused18",  # or "pos18", "full", "segments22"
            block="bottleneck",  # or "basic"
            stage_sizes=(3, 4, 6, 3),  # ResNet-50; (2, 2, 2, 2) and basic: ResNet-18
            width=64,
            version="v1.5",  # stride in the 3x3 convolution; "v1": in the first 1x1
            attention=1,  # CBAM order 0, 1, 2; -1: none
            attention_block="",  # your own instead: "FILE.py:CLASS" or "package.module:CLASS"
            attention_place="end",  # or "blocks"
            gate_norm=False,  # batch norm in CBAM's spatial gate, as its authors released it
            zero_gamma=False,  # blocks start as their shortcuts
            stage_dropout=0.5,  # between the last two stages
            image_widths=(512,),  # (2048, 512): the literal two dense layers after the pool
            keypoint_widths=(256, 512, 512, 512, 512),
            fusion_widths=(512, 512, 256, 256),
            dropout=0.5,
            keypoint_dropout=0.0,  # share of examples trained as if nobody had been found
            image_dropout=0.0,  # share trained on key points alone, where they were found
            sequence=dict(  # of the network for branches="sequence"
                frames=32,  # T that a sequence of any length is resampled to
                stem_width=64,
                stem_kernel=5,
                width=128,
                blocks=3,
                kernel=3,
                reduction=8,
                dense_widths=(256, 128),
            ),
            str=dict(  # of the DenseNet for branches="str", see configs/str.py
                depth=16,  # or 28, 40
                growth=12,
                dropout=0.2,
            ),
            qes=dict(  # of the networks for branches="qes" and "qes_flat", see configs/qes.py
                hidden=30,
                prototypes=8,  # of each class
                fuzziness=1.25,
                categories=(),  # a number for each class; () asks the training data
                least_categories=3,
                confusion=0.05,  # from which on classes share a category
            ),
            sync_batch_norm=True,  # batch statistics of all devices, else of each by itself
            dtype="float32",  # of activations; parameters and statistics are float32
        )
    )


def base() -> ConfigDict:
    """A whole experiment."""
    return ConfigDict(
        dict(
            task="motion",
            seed=0,
            batch_size=64,  # over all devices of all processes
            on_nonfinite="stop",  # where loss or gradient is not finite; "skip": without that step
            accumulate=1,  # parts in which a device works through its share of a batch
            steps_per_dispatch=1,  # that go to the device at once, where nothing is due in between
            epochs=30.0,
            init_from="",  # a run, an imported folder or a weights file to start from
            freeze_epochs=0.0,  # in which the backbone stays as it was initialised
            model=model(),
            data=dict(
                dir="data/stage",  # what launch/prepare.py wrote
                image_size=224,
                threads=4,  # that read, decode and augment
                workers=0,  # processes instead, for many cores
                resident=False,  # all training images lie on the device, and are warped there
                # How often classes come: "shuffled" as they are, "balanced" equally, "confusion"
                # more often the more of a class is taken for others (looked at every eval_every).
                sampling="shuffled",
                sampling_strength=1.0,  # of "confusion": a class never recognised comes 1 + it
            ),
            augment=augment(),
            optimizer=dict(
                name="sgd",  # or "adamw"; "adam", whose weight decay is part of the gradient
                learning_rate=1e-3,
                reference_batch_size=0,  # scale the rate by batch_size / this; 0: take it as it is
                momentum=0.9,
                weight_decay=1e-4,  # of kernels
                schedule="piecewise",  # or "cosine"
                boundaries=(10.0, 20.0),  # epochs at which the rate is multiplied by `decay`
                decay=0.1,
                warmup=0.0,  # epochs of linear warm-up
                label_smoothing=0.0,
            ),
            log_every=20,  # steps
            eval_every=1.0,  # epochs; each evaluation saves a checkpoint, too
            checkpoint_every=1.0,  # epochs
            checkpoints_kept=2,  # of the newest
            best_checkpoints_kept=1,  # of those that did best on val
        )
    )


def pose() -> ConfigDict:
    """An experiment that trains a pose network; the rest is as in `base`.

    The defaults are OpenPose's recipe (Cao et al., 2017), except for the network.
    """
    config = base()
    config.task = "pose"
    config.batch_size = 10
    config.model = ConfigDict(
        dict(
            network="light",  # a name in jdance.pose.networks.NETWORKS, and its attributes
            width=32,
            stages=2,
        )
    )
    config.heat_weight = 1.0  # of the heat maps' loss beside that of the PAFs
    # config.init_from takes whatever --pose takes.
    config.data.update(dir="data/pose", image_size=368)
    config.data.max_people = 24  # in a view; those farther from its middle are not drawn
    config.augment = ConfigDict(
        dict(
            person_height=(110.4, 242.9),  # pixels in the view
            rotation=40.0,  # degrees, uniform in +-
            flip=0.5,  # probability
            jitter=40.0,  # pixels, uniform in +-
            color=0.0,  # strength of changes of brightness, contrast, saturation
            erase=0.0,  # probability of a grey rectangle, 10 to 40 % of each side
        )
    )
    config.optimizer.update(
        learning_rate=4e-5,
        weight_decay=5e-4,
        boundaries=(),
        decay=0.333,
    )
    config.optimizer.later_stages = 4.0  # factor of the rate in stages from the second on
    return config


def augment() -> ConfigDict:
    """Random changes of training examples; image and key points change together."""
    return ConfigDict(
        dict(
            rotation=15.0,  # degrees, uniform in +-
            flip=0.5,  # probability
            scale=0.0,  # exp(uniform +-)
            shift=0.0,  # of the image's side, uniform +-
            stretch=0.0,  # exp(uniform +-) of x against y
            color=0.0,  # strength of changes of brightness, contrast, saturation
            erase=0.0,  # probability of a grey rectangle, 10 to 40 % of each side
            joint_noise=0.0,  # of the image's side, normal
            joint_dropout=0.0,  # probability of each joint
            legs_dropout=0.0,  # probability that hips, knees and ankles are missing together
            shear=0.0,  # of x by y, uniform +-
            time_crop=1.0,  # least share of a sequence's time that is kept
            time_warp=0.0,  # exponent exp(uniform +-) of its time
        )
    )


def evaluation_views(training: ConfigDict) -> ConfigDict:
    """The mild changes of test-time augmentation, for a training with such an `augment`.

    A small rotation and scale; mirrored where training mirrors, for then no class is a side; of a
    sequence another part of its time, where training draws one.
    """
    result = augment()
    for key in result:
        result[key] = 0.0
    result.update(rotation=5.0, scale=0.05, time_crop=training.time_crop)
    result.flip = 0.5 if training.flip > 0 else 0.0
    return result


def load(path: str) -> ConfigDict:
    """The configuration that a file's `get_config` returns.

    Args:
        path: FILE, or FILE:ARGUMENT, which `get_config` then gets, as ml_collections has it.

    Raises:
        UserError: there is no such file, or its `get_config` fails.
    """
    file, *argument = path.split(":", 1)
    try:
        return runpy.run_path(file)["get_config"](*argument)
    except OSError as error:
        raise UserError(f"--config={path}: {error.strerror}; name a file from configs/") from error
    except Exception as error:  # whatever somebody's Python may raise
        raise UserError(f"--config={path}: not a configuration ({error!r})") from error


def check_key(config: Any, key: str) -> None:
    """Raises KeyError, saying what there is, if a configuration has no such key as "data.dir"."""
    node, path = config, key.split(".")
    for depth, part in enumerate(path):
        if not isinstance(node, ConfigDict) or part not in node:
            place = ".".join(["config", *path[:depth]])
            known = ", ".join(sorted(node)) if isinstance(node, ConfigDict) else "no parts"
            raise KeyError(f"no such key; {place} has {known}")
        node = node[part]
