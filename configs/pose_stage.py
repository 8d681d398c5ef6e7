"""The light pose network that the package ships as --pose=stage."""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.pose()
    config.data.image_size = 192
    config.data.max_people = 6
    config.data.threads = 2
    config.batch_size = 8
    config.epochs = 10.0
    config.log_every = 50
    config.eval_every = 1.0
    config.checkpoint_every = 0.25
    config.model = ConfigDict(dict(network="light", width=40, stages=2))
    config.optimizer.update(
        name="adamw",
        learning_rate=3e-3,
        weight_decay=0.01,
        schedule="cosine",
        warmup=0.1,
    )
    config.heat_weight = 4.0  # a joint covers fewer cells than a limb
    config.optimizer.later_stages = 1.0
    config.augment.update(person_height=(75.0, 200.0), rotation=10.0, color=0.3)
    return config
