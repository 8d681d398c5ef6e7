"""Default configurations; the files in configs/ override what differs.

The defaults are the paper's exact network and recipe (Shen et al., 2021, sections 3 and 4).
"""

import runpy
from typing import Any

from ml_collections import ConfigDict

from jdance.errors import UserError


def model() -> ConfigDict:
    """The network; training sets `classes` and `layout` from the data set."""
    return ConfigDict(
        dict(
            classes=6,
            layout="coco18",  # of the skeleton
            # Or "image", "keypoints", "sequence", "str", "qes", "qes_flat", "package.module".
            branches="fused",
            features="fused18",  # or "pos18", "full", "segments22"
            block="bottleneck",  # or "basic"
            stage_sizes=(3, 4, 6, 3),  # ResNet-50; (2, 2, 2, 2) and basic: ResNet-18
            width=64,
            version="v1.5",  # stride in the 3x3 convolution; "v1": in the first 1x1
            attention=1,  # CBAM order 0, 1, 2; -1: none
            attention_block="",  # a custom one instead: "FILE.py:CLASS" or "package.module:CLASS"
            attention_place="end",  # or "blocks"
            gate_norm=False,  # batch norm in CBAM's spatial gate, as its authors released it
            zero_gamma=False,  # residual blocks start as identity
            stage_dropout=0.5,  # between the last two stages
            image_widths=(512,),  # (2048, 512): the literal two dense layers after the pool
            keypoint_widths=(256, 512, 512, 512, 512),
            fusion="joint",  # layers on both branches; "late": each branch classifies, see FusedNet
            fusion_widths=(512, 512, 256, 256),
            dropout=0.5,
            keypoint_dropout=0.0,  # fraction of examples whose key points are dropped
            image_dropout=0.0,  # fraction of examples with key points whose image is dropped
            sequence=dict(  # of the network for branches="sequence"
                frames=32,  # length T to which sequences are resampled
                stem_width=64,
                stem_kernel=5,
                width=128,
                blocks=3,
                kernel=3,
                reduction=8,
                dense_widths=(256, 128),
                spreads=False,  # feed standard deviations over time to the dense layers, too
                means=False,  # and means over time
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
                categories=(),  # category of each class; (): found from the training data
                min_categories=3,
                confusion=0.05,  # minimum mutual confusion of classes that share a category
            ),
            sync_batch_norm=True,  # batch statistics over all devices, else per device
            dtype="float32",  # of activations; parameters and statistics are float32
        )
    )


def base() -> ConfigDict:
    """An experiment with a motion network."""
    return ConfigDict(
        dict(
            task="motion",
            seed=0,
            batch_size=64,  # over all devices of all processes
            on_nonfinite="stop",  # on a non-finite loss or gradient; or "skip" the step
            accumulate=1,  # gradient-accumulation micro-batches per device
            steps_per_dispatch=1,  # at most; a dispatch ends where logging or saving is due
            epochs=30.0,
            init_from="",  # a run, imported weights, or a packed model such as dance6 to start from
            freeze_epochs=0.0,  # initial epochs with a frozen backbone
            model=model(),
            data=dict(
                dir="data/stage",  # written by launch/prepare.py
                image_size=224,
                threads=4,  # for reading, decoding and augmentation
                workers=0,  # processes instead of threads, for many cores
                resident=False,  # cache all training images on the device and warp them there
                # Frequency of classes: "shuffled": as in the data; "balanced": equal; "confusion":
                # higher for classes that are confused with others, updated every eval_every.
                sampling="shuffled",
                sampling_strength=1.0,  # of "confusion": weight of recall 0 is 1 + this
            ),
            augment=augment(),
            optimizer=dict(
                name="sgd",  # or "adamw", or "adam" with L2 regularization as weight decay
                learning_rate=1e-3,
                reference_batch_size=0,  # scale learning_rate by batch_size / this; 0: do not scale
                momentum=0.9,
                weight_decay=1e-4,  # of kernels
                schedule="piecewise",  # or "cosine"
                boundaries=(10.0, 20.0),  # epochs at which learning_rate is multiplied by `decay`
                decay=0.1,
                warmup=0.0,  # epochs of linear warm-up
                label_smoothing=0.0,
            ),
            log_every=20,  # steps
            eval_every=1.0,  # epochs; each evaluation also saves a checkpoint
            checkpoint_every=1.0,  # epochs
            checkpoints_kept=2,  # of the newest
            best_checkpoints_kept=1,  # with the highest scores on val
        )
    )


def pose() -> ConfigDict:
    """An experiment with a pose network, otherwise as in `base`.

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
    config.heat_weight = 1.0  # of the heat maps' loss relative to that of the PAFs
    # config.init_from takes the same values as --pose.
    config.data.update(dir="data/pose", image_size=368)
    config.data.max_people = 24  # in a view, those nearest to its center
    config.augment = ConfigDict(
        dict(
            person_height=(110.4, 242.9),  # pixels in the view
            rotation=40.0,  # degrees, uniform in +-
            flip=0.5,  # probability
            jitter=40.0,  # pixels, uniform in +-
            color=0.0,  # strength of changes of brightness, contrast, saturation
            erase=0.0,  # probability of a gray rectangle, 10 to 40 % of each side
        )
    )
    config.optimizer.update(
        learning_rate=4e-5,
        weight_decay=5e-4,
        boundaries=(),
        decay=0.333,
    )
    config.optimizer.later_stages = 4.0  # learning-rate multiplier of stages 2 and later
    return config


def augment() -> ConfigDict:
    """Data augmentation, applied to image and key points together."""
    return ConfigDict(
        dict(
            rotation=15.0,  # degrees, uniform in +-
            flip=0.5,  # probability
            scale=0.0,  # exp(uniform +-)
            shift=0.0,  # of the image's side, uniform +-
            stretch=0.0,  # exp(uniform +-) of x against y
            color=0.0,  # strength of changes of brightness, contrast, saturation
            erase=0.0,  # probability of a gray rectangle, 10 to 40 % of each side
            joint_noise=0.0,  # of the image's side, normal
            joint_dropout=0.0,  # probability of each joint
            legs_dropout=0.0,  # probability that hips, knees and ankles are missing together
            shear=0.0,  # of x by y, uniform +-
            time_crop=1.0,  # minimum fraction of a sequence's time that is kept
            time_warp=0.0,  # exponent exp(uniform +-) of its time
            mixup=0.0,  # mix examples with weights from Beta(this, this); 0: do not mix
        )
    )


def evaluation_views(training: ConfigDict) -> ConfigDict:
    """Test-time augmentation that matches the `augment` of a training run.

    Small rotations and scales, and the flips and time crops of training: if it flips, no class
    depends on the side.
    """
    result = augment()
    for key in result:
        result[key] = 0.0
    result.update(rotation=5.0, scale=0.05, time_crop=training.time_crop)
    result.flip = 0.5 if training.flip > 0 else 0.0
    return result


def load(path: str) -> ConfigDict:
    """Calls `get_config` of a configuration file.

    Args:
        path: FILE, or FILE:ARGUMENT to pass an argument, as in ml_collections.

    Raises:
        UserError: the file is missing, or its `get_config` fails.
    """
    file, *argument = path.split(":", 1)
    try:
        return runpy.run_path(file)["get_config"](*argument)
    except OSError as error:
        raise UserError(f"--config={path}: {error.strerror}; name a file from configs/") from error
    except Exception as error:  # from user code
        raise UserError(f"--config={path}: not a configuration ({error!r})") from error


def check_key(config: Any, key: str) -> None:
    """Raises KeyError, listing the known keys, if a key such as "data.dir" does not exist."""
    node, path = config, key.split(".")
    for depth, part in enumerate(path):
        if not isinstance(node, ConfigDict) or part not in node:
            parent = ".".join(["config", *path[:depth]])
            known = ", ".join(sorted(node)) if isinstance(node, ConfigDict) else "no keys"
            raise KeyError(f"no such key; {parent} has {known}")
        node = node[part]
