"""The key-point branch alone, for skeletons of any source: no pictures, no pose network needed.

SOURCE is a .npz of skeletons (see the README), or anything else that launch/prepare.py takes.

    python launch/prepare.py --source=SOURCE --output=data/skeletons
    python launch/train.py --config=configs/keypoints.py --workdir=runs/keypoints
    python launch/evaluate.py --workdir=runs/keypoints --split=test [--drop_joints=legs]

Accuracy on real OpenPose skeletons (2 CPU cores, jax 0.10.2, seed 0), also without
hips, knees and ankles, and without a random share of all joints:

                                                 all    legs gone  20 % gone  50 % gone
  20 poses of pose-classification-kit, random    0.992  0.943      0.887      0.448
  the same, split in blocks of time              0.983  0.872      0.884      0.442
  4 actions (stand, walk, squat, wave), random   0.986  0.942      -          -
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()
    config.data.dir = "data/skeletons"
    config.batch_size = 128
    config.epochs = 80.0
    config.log_every = 100
    config.eval_every = 10.0
    config.checkpoint_every = 10.0

    config.model.update(
        branches="keypoints",
        features="full",
        keypoint_widths=(512, 512),
        fusion_widths=(256,),
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
        rotation=7.0,
        stretch=0.4,
        joint_noise=0.006,
        joint_dropout=0.08,
        legs_dropout=0.5,
    )
    return config
