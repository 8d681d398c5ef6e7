"""OpenPose's network and recipe on COCO's key points (Cao et al., 2017).

    python launch/prepare.py --source=DIR --task=pose --output=data/coco --workers=8
    python launch/train.py --config=configs/pose_openpose.py --workdir=runs/openpose
    python launch/evaluate.py --workdir=runs/openpose --split=val

DIR has COCO's layout: annotations/person_keypoints_train2017.json and ..._val2017.json beside the
image folders train2017 and val2017. To start from published weights: --config.init_from=FILE.

SGD at 4e-5, four times that in stages 2 to 6, multiplied by 0.333 every 136,106 steps of 10 images;
64,115 images of train2017 have people. Not run: it needs COCO and days on a GPU.
"""

from ml_collections import ConfigDict

from jdance import config as defaults

_EPOCHS_PER_PHASE = 136_106 * 10 / 64_115


def get_config() -> ConfigDict:
    config = defaults.pose()
    config.data.dir = "data/coco"
    config.model = ConfigDict(dict(network="openpose_vgg19", stages=6))
    config.epochs = 5 * _EPOCHS_PER_PHASE
    config.optimizer.boundaries = tuple(i * _EPOCHS_PER_PHASE for i in range(1, 5))
    return config
