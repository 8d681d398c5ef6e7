"""A small fused network that trains in two minutes on a laptop, for launch/quickstart.sh.

    python launch/prepare.py --source=stage:quickstart --pose=stage --output=data/quickstart
    python launch/train.py --config=configs/quickstart.py --workdir=runs/quickstart
    python launch/evaluate.py --workdir=runs/quickstart --split=test --baselines

923,801 parameters; the key-point branch starts from dance6, whose synthetic skeletons have other
seeds than these scenes. Accuracy (2 CPU cores, jax 0.10.2, seed 0): 0.900 on the 360 people of
held-out groups, 0.850 on val (0.894 and 0.863 on another machine, by the same code); from random
weights with a key-point branch of 128, 128 it was 0.878 and 0.813. On the same key points, the
nearest class mean reaches 0.700, an SVM 0.872 and gradient boosting 0.889 (95 % interval of the
difference to it -0.01 to 0.03). Key points are the limit: with exact ones (stage:paper, without
--pose, 20 epochs) the network from random weights reached 0.926.

A larger input of the pose network helps val, not test: --pose_size=496 gave 0.892 and 0.894 (with
mixup 0.4, 0.896 on val), 640 only 0.792 on val: dancers become larger than those it has seen.
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()
    config.data.dir = "data/quickstart"
    config.data.image_size = 64
    config.batch_size = 64
    config.epochs = 30.0
    config.init_from = "dance6"
    config.log_every = 20
    config.eval_every = 5.0
    config.checkpoint_every = 5.0

    config.model.update(
        features="full",
        width=16,
        stage_sizes=(1, 1, 1, 1),
        stage_dropout=0.0,
        image_widths=(64,),
        keypoint_widths=(512, 512),
        fusion_widths=(64,),
        dropout=0.2,
    )
    config.optimizer.update(
        name="adamw",
        learning_rate=1.5e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup=1.0,
        label_smoothing=0.05,
    )
    config.augment.update(rotation=10.0, scale=0.1, shift=0.05, color=0.3)
    return config
