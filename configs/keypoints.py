"""The key-point branch alone, for skeletons of any source: no pictures, no pose network needed.

SOURCE is a .npz of skeletons (see the README), or anything else that launch/prepare.py takes.

python launch/prepare.py --source=SOURCE --output=data/skeletons
python launch/train.py --config=configs/keypoints.py --workdir=runs/keypoints
  --config.data.dir=data/skeletons
python launch/evaluate.py --workdir=runs/keypoints --split=test [--drop_joints=legs]

RESULTS
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()
    config.data.dir = "data/skeletons"
    config.batch_size = 128
    config.epochs = 40.0
    config.log_every = 100
    config.eval_every = 10.0
    config.checkpoint_every = 10.0

    config.model.update(
        branches="keypoints",
        features="full",
        keypoint_widths=(256, 256),
        fusion_widths=(128,),
        dropout=0.2,
    )
    config.optimizer.update(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup=1.0,
        label_smoothing=0.05,
    )
    # x and y of a source may be divided by the width and the height of some picture: stretch.
    # Legs are often hidden by furniture or cut off: drop them together.
    config.augment.update(
        flip=0.0,  # classes may be sides; 0.5 where they are not
        rotation=10.0,
        stretch=0.4,
        joint_noise=0.01,
        joint_dropout=0.1,
        legs_dropout=0.3,
    )
    return config
