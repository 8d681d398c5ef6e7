"""The paper's network: CBAM1 ResNet-50 fused with 18 key-point features.

    python launch/prepare.py --source=stage:paper --pose=stage --output=data/stage
    python launch/train.py --config=configs/paper.py:scratch --workdir=runs/paper
    python launch/evaluate.py --workdir=runs/paper --split=test

configs/paper.py is also the paper's recipe (Shen, Jiang and Teng, 2021, sections 3 and 4):
26,994,217 parameters at 6 classes; batch 64, 30 epochs, SGD with momentum 0.9, learning rate 1e-3
divided by 10 after epochs 10 and 20.
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config(recipe: str = "finetuning") -> ConfigDict:
    """The paper's network.

    Args:
        recipe: "finetuning", the paper's, or "scratch", for random weights.
    """
    config = defaults.base()
    if recipe == "scratch":
        config.model.update(dropout=0.0, zero_gamma=True)
        config.optimizer.update(
            name="adamw",
            learning_rate=1e-3,
            weight_decay=0.05,
            schedule="cosine",
            warmup=1.0,
            label_smoothing=0.05,
        )
        config.augment.update(rotation=10.0, scale=0.1, shift=0.05, color=0.3)
    elif recipe != "finetuning":
        raise ValueError(f"recipe {recipe!r}: expected finetuning or scratch")
    return config
