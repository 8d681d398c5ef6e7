"""Five yoga poses from 790 photos, from scratch.

YOGA_DOC
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()
    config.data.dir = "data/yoga5"
    config.data.image_size = 112
    config.batch_size = 32
    config.epochs = 40.0
    config.eval_every = 10.0
    config.checkpoint_every = 10.0

    config.model.update(
        features="full",
        width=16,
        stage_sizes=(1, 1, 1, 1),
        stage_dropout=0.0,
        image_widths=(128,),
        keypoint_widths=(128, 128),
        fusion_widths=(128,),
        dropout=0.3,
        keypoint_dropout=0.15,
        image_dropout=0.35,
    )
    config.optimizer.update(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup=5.0,
        label_smoothing=0.1,
    )
    config.augment.update(
        rotation=15.0,
        scale=0.15,
        shift=0.08,
        stretch=0.1,
        color=0.4,
        erase=0.25,
        joint_noise=0.01,
        joint_dropout=0.05,
    )
    return config
