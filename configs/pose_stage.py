"""A light pose network, trained on StageDance alone; its weights ship as --pose=stage.

    python launch/prepare.py --source=stage:pose --task=pose --seed=7 --output=data/pose
    python launch/train.py --config=configs/pose_stage.py --workdir=runs/pose
    python launch/evaluate.py --workdir=runs/pose --split=test

533,914 parameters. The shipped weights were trained in four steps on one shared CPU core (jax
0.10.2; 64, 25, 47 and 40 minutes). The first step is the configuration below, on an earlier version
of StageDance without dancers seen from behind: AP 0.773 on its 143 scenes of val, and 0.600 on
today's, where a back is visible in 15 of 100. Each further step continues on today's scenes, for
instance the second:

    python launch/train.py --config=configs/pose_stage.py --workdir=runs/pose2 --config.epochs=6 \\
        --config.init_from=runs/pose/pose.npz --config.optimizer.learning_rate=1.5e-3 \\
        --config.heat_weight=12

    6 epochs at 1.5e-3     1      2      3      4      5      6
    AP                     0.616  0.630  0.689  0.704  0.706  0.717

    14 epochs at 2e-3      1      2      4      6      8      10     12     14
    AP                     0.637  0.670  0.718  0.724  0.751  0.761  0.766  0.774
    AP50                   0.913  0.934  0.967  0.967  0.968  0.969  0.979  0.979
    AP75                   0.744  0.816  0.848  0.858  0.892  0.926  0.917  0.917

    12 epochs at 1.2e-3    1      2      4      6      8      10     12
    AP                     0.747  0.738  0.768  0.775  0.778  0.783  0.787
    AP50                   0.968  0.954  0.979  0.978  0.979  0.979  0.979
    AP75                   0.878  0.892  0.927  0.924  0.938  0.926  0.928

On the 408 scenes of test: AP 0.775, AP50 0.979, AP75 0.890, AR 0.816. The last 12 epochs gained 1.3
points. Model size is the limit: after the second step, AP on training scenes was 0.729, hardly
above val. Most OKS losses are at nose and eyes, for which COCO is strictest: half of them are
within 3.6 % of the square root of the person's area, or 2 to 3 input pixels. Refining peaks by
centroids instead of parabolas is worse.
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
