"""The paper's network: CBAM1 ResNet-50 fused with 18 key-point features.

    python launch/prepare.py --source=stage:paper --pose=stage --output=data/stage
    python launch/train.py --config=configs/paper.py:scratch --workdir=runs/paper
    python launch/evaluate.py --workdir=runs/paper --split=test

configs/paper.py is also the paper's recipe (Shen, Jiang and Teng, 2021, sections 3 and 4):
26,994,217 parameters at 6 classes; batch 64, 30 epochs, SGD with momentum 0.9, learning rate 1e-3
divided by 10 after epochs 10 and 20. It is for fine-tuning: from random weights, val of StageDance
(350 people, 0.251 in the largest class) is still at 0.251 after 14 epochs, and with key points
alone (--config.model.branches=keypoints) after all 30, with each of 3 seeds.

With `:scratch`, seed 0, 2 CPU cores, jax 0.10.2, accuracy on val and on the 350 people of test:

                                                               val    test
  images of 64 pixels, 16 epochs (*)                           0.860  0.797 [0.77, 0.83]
    then 2 epochs with 224 pixels (**)                         0.863  0.789 [0.76, 0.83]
  key points alone, 30 epochs, 3 seeds                         0.893  0.813 +- 0.016
  gradient boosting on the same 18 numbers                            0.800

(*) --config.data.image_size=64 --config.epochs=16, 40 minutes. (**) --config.init_from=RUN
--config.optimizer.learning_rate=3e-4 --config.optimizer.warmup=0.5 --config.epochs=2. A CPU step
with 224 pixels takes 13 to 22 s and 14 GB (3 GB with --config.accumulate=4, whose batch norm
sees 16 examples at a time).
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
