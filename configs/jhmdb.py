"""JHMDB."""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()
    config.data.dir = "data/jhmdb1"
    config.batch_size = 32
    config.epochs = 70.0
    config.eval_every = 1000.0
    config.checkpoint_every = 1000.0
    config.model.update(branches="sequence", features="full", stage_dropout=0.0)
    config.optimizer.update(
        name="adamw", learning_rate=2e-3, weight_decay=0.01, schedule="cosine", warmup=2.0
    )
    config.augment.update(
        scale=0.1, stretch=0.1, shear=0.1, joint_noise=0.012, time_crop=0.7, time_warp=0.2
    )
    return config
