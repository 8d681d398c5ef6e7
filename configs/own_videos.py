"""Labeled videos of your own: two seconds of a person's track to a motion.

    python launch/prepare.py --source=manifest.csv --window=2 --frames_per_second=4 \\
        --output=data/my_videos
    python launch/train.py --config=configs/own_videos.py --workdir=runs/my_videos
    python launch/evaluate.py --workdir=runs/my_videos --split=val --calibrate
    python launch/recognize.py --sequence_model=runs/my_videos --input=dance.mp4 --output=out

manifest.csv labels parts of videos (docs/data-formats.md); launch/stage.py --video and the web page
write such files, too. The network starts from the sequence form of dance6, which has seen 20,000
synthetic windows, and classifies each moment by the second before and after it.

StageDance, 24 videos of 15 s to train (--seed=5001, 400 x 300 pixels) and 4 to choose by
(--seed=6001), --pose=stage: on ten unseen videos (--seed=4001) F1@50 0.806 ± 0.080, 85.9 % of the
time correct; on the 4 videos 0.870 with mixup and 0.853 without, 87.3 % and 87.7 %. dance6_sequence
itself reaches 0.691 and 73.0 % on the ten. 2 shared CPU cores, jax 0.10.2, 2 minutes.
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()
    config.data.dir = "data/my_videos"
    config.batch_size = 64
    config.epochs = 20.0
    config.eval_every = 5.0
    config.checkpoint_every = 5.0
    config.init_from = "dance6_sequence"
    config.model.update(branches="sequence", features="full", stage_dropout=0.0, dropout=0.4)
    config.model.sequence.spreads = True
    config.optimizer.update(
        name="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup=1.0,
        label_smoothing=0.05,
    )
    # A window has the label of its middle, so its length is fixed.
    config.augment.update(
        flip=0.5,
        rotation=8.0,
        stretch=0.2,
        joint_noise=0.003,
        joint_dropout=0.06,
        time_crop=1.0,
        time_warp=0.05,
        mixup=0.4,
    )
    return config
