"""Lightweight OpenPose (Osokin, 2018): fine-tuning, or training with its authors' recipe.

    python launch/prepare.py --source=DIR --task=pose --output=data/coco --workers=8
    python launch/train.py --config=configs/pose_lightweight.py --workdir=runs/fine_tuned
    python launch/evaluate.py --workdir=runs/fine_tuned --split=val

DIR has COCO's layout: annotations/person_keypoints_train2017.json and ..._val2017.json beside the
image folders train2017 and val2017. Training starts from the published weights (hpe0001), whose
batch norm is folded into kernels and biases and stays so. The learning rate is 4e-5, four times
that in the refinement stage, multiplied by 0.333 after 100, 200 and 260 of 280 epochs with batch
80.

The authors train in three steps, each initialized from the one before: twice with one refinement
stage, then with three. From scratch, with batch norm (the authors start from an ImageNet
MobileNet):

    python launch/train.py --config=configs/pose_lightweight.py --config.init_from= \\
        --config.model.batch_norm=True --workdir=runs/step1
    python launch/train.py --config=configs/pose_lightweight.py --config.model.batch_norm=True \\
        --config.init_from=runs/step1/pose.npz --workdir=runs/step2
    python launch/train.py --config=configs/pose_lightweight.py --config.model.batch_norm=True \\
        --config.init_from=runs/step2/pose.npz --config.model.stages=4 --workdir=runs/step3

Not run: it needs COCO and days on a GPU.
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.pose()
    config.data.dir = "data/coco"
    config.model = ConfigDict(dict(network="lightweight_openpose", stages=2, batch_norm=False))
    config.init_from = "hpe0001"
    config.batch_size = 80
    config.epochs = 280.0
    config.optimizer.name = "adam"
    config.optimizer.boundaries = (100.0, 200.0, 260.0)
    return config
