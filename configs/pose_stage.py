"""A light pose network, trained on StageDance alone.

    python launch/prepare.py --source=stage:pose --for=pose --seed=7 --output=data/pose
    python launch/train.py --config=configs/pose_stage.py --workdir=runs/pose
    python launch/evaluate.py --workdir=runs/pose --split=test

Not trained to the end yet. On 2 CPU cores average precision on val after epochs 1, 2, 3 and 4 of 10
was 0.28, 0.49, 0.55 and 0.64, still rising.
"""

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
