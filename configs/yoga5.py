"""yoga5"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()
    config.data.dir = "/tmp/yoga5"
    config.data.image_size = 112
    config.batch_size = 32
    config.epochs = 100.0
    config.eval_every = 10.0
    config.checkpoint_every = 25.0
    m = config.model
    m.features = "full"
    m.width = 16
    m.stage_sizes = (1, 1, 1, 1)
    m.image_widths = (128,)
    m.keypoint_widths = (128, 128)
    m.fusion_widths = (128,)
    m.dropout = 0.3
    m.stage_dropout = 0.0
    o = config.optimizer
    o.name = "adamw"
    o.learning_rate = 2e-3
    o.weight_decay = 0.05
    o.schedule = "cosine"
    o.warmup = 5.0
    o.label_smoothing = 0.1
    a = config.augment
    a.rotation = 15.0
    a.scale = 0.15
    a.shift = 0.08
    a.stretch = 0.1
    a.color = 0.4
    a.erase = 0.25
    a.joint_noise = 0.01
    a.joint_dropout = 0.05
    return config
