"""The paper's network and recipe: CBAM1 ResNet-50 fused with 18 key-point features.

    python launch/prepare.py --source=stage:paper --pose=stage --output=data/stage
    python launch/train.py --config=configs/paper.py --workdir=runs/paper
    python launch/evaluate.py --workdir=runs/paper --split=test

Shen, Jiang and Teng (2021), sections 3 and 4: 26,994,217 parameters at 6 classes; batch 64,
30 epochs, SGD with momentum 0.9, learning rate 1e-3 divided by 10 after epochs 10 and 20.

Not trained to the end yet: 1500 steps would take about five hours on two idle CPU cores (12.7 s and
20 GB a step; with --config.accumulate=4, whose batch norm sees 16 examples at a time, 12 s and 3
GB). The learning rate suits fine-tuning of a pretrained backbone; from scratch, val is still at the
fraction of the largest class (0.251) after 14 of 30 epochs.
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    return defaults.base()
