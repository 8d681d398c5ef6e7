"""The paper's network and recipe, exactly: CBAM1 ResNet-50 fused with 18 key-point numbers.

Shen, Jiang and Teng (2021), sections 3 and 4: 26,994,217 parameters at 6 classes; batch 64,
30 epochs, SGD with momentum 0.9, learning rate 1e-3 divided by 10 after epochs 10 and 20.

    python launch/prepare.py --source=stage:paper --output=data/stage
    python launch/train.py --config=configs/paper.py --workdir=runs/paper
    python launch/evaluate.py --workdir=runs/paper --split=test

The learning rate is one for fine-tuning a pretrained backbone; from scratch it is too small to get
far in 30 epochs. Not yet trained to the end: that needs a GPU.
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    return defaults.base()
