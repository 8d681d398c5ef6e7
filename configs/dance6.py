"""The motion model that ships as --model=dance6: key points to six motions and `unknown`.

    python launch/prepare.py --source=stage:dance6 --output=data/dance6
    python launch/train.py --config=configs/dance6.py --workdir=runs/dance6

Then, to calibrate it, to evaluate it, and to write what ships:

    python launch/evaluate.py --workdir=runs/dance6 --split=val --calibrate
    python launch/evaluate.py --workdir=runs/dance6 --split=test
    python launch/pack.py --workdir=runs/dance6 --output=jdance/recognize/dance6.npz

Results (2 CPU cores, jax 0.10.2, seed 0; 3 minutes of CPU time to draw and 3 to train): accuracy
0.937 on the 4800 synthetic skeletons of test; temperature 0.742, threshold 0.84. Accuracy on 2135
real OpenPose skeletons of four motions, from a data set that it was not trained on (but that the
synthetic data were revised with): 0.946, with the threshold 0.914. Of 8177 skeletons of other
poses, 0.988 are `unknown`. docs/motion-models.md has all figures, the photos and the limits.
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()
    config.data.dir = "data/dance6"
    config.batch_size = 256
    config.epochs = 24.0
    config.log_every = 100
    config.eval_every = 6.0
    config.checkpoint_every = 6.0

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
    # Cut off, hidden and displaced joints are part of the data.
    config.augment.update(
        flip=0.5,
        rotation=8.0,
        stretch=0.25,
        joint_noise=0.003,
        joint_dropout=0.02,
        legs_dropout=0.0,
    )
    return config
