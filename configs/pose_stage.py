"""A light pose network, trained on StageDance alone.

    python launch/prepare.py --source=stage:pose --for=pose --seed=7 --output=data/pose
    python launch/train.py --config=configs/pose_stage.py --workdir=runs/pose
    python launch/evaluate.py --workdir=runs/pose --split=test

533,914 parameters. What ships as --pose=stage was trained in two steps on one CPU core that other
work shared (jax 0.10.2, 64 and 25 minutes). The first is the configuration below, on the scenes
that the generator drew when nobody turned their back yet; on the 143 scenes of val of those days:

    epoch       1      2      4      6      8      10     12     14     16
    AP          0.299  0.506  0.641  0.674  0.712  0.727  0.761  0.769  0.773
    AP50        0.815  0.957  0.980  0.980  0.990  0.990  0.990  0.990  0.990
    AP75        0.096  0.464  0.776  0.795  0.866  0.893  0.926  0.927  0.924

The second goes on from there on today's scenes, in 15 of 100 of which a dancer's back is seen; on
val of today the first step's network has AP 0.600:

    python launch/train.py --config=configs/pose_stage.py --workdir=runs/pose2 --config.epochs=6
      --config.init_from=runs/pose/pose.npz --config.optimizer.learning_rate=1.5e-3
      --config.heat_weight=12

    epoch       1      2      3      4      5      6
    AP          0.616  0.630  0.689  0.704  0.706  0.717
    AP50        0.830  0.879  0.936  0.925  0.935  0.948
    AP75        0.761  0.760  0.828  0.847  0.832  0.862

On the 408 scenes of test: AP 0.710, AP50 0.944, AP75 0.822, AR 0.751. It was still rising: more
training is what it lacks most. Nose and eyes are placed least exactly (half of them within 5 % of
the root of the person's area), to which COCO's measure is strict.
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.pose()
    config.data.image_size = 192
    config.data.max_people = 6
    config.data.threads = 2
    config.batch_size = 8
    config.epochs = 16.0
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
