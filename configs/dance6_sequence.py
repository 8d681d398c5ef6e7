"""The sequence form of dance6: two seconds of a person's key points to six motions and `unknown`.

    python launch/prepare.py --source=stage:dance6_sequence --output=data/dance6_sequence
    python launch/train.py --config=configs/dance6_sequence.py --workdir=runs/dance6_sequence

Then, to calibrate it, and to write what ships:

    python launch/evaluate.py --workdir=runs/dance6_sequence --split=val --calibrate
    python launch/pack.py --workdir=runs/dance6_sequence \\
        --output=jdance/recognize/dance6_sequence.npz

Results (2 shared CPU cores, jax 0.10.2, seed 0; about 15 minutes of CPU time to draw and 7 to
train): accuracy 0.907 on the 1500 synthetic windows of test; temperature 0.904, threshold 0.81.
Without the standard deviations over time (model.sequence.spreads) the network ignores small
movements: a bent arm held still was a wave as surely as one that swings.
docs/motion-models.md has the figures on videos and the limits.
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()
    config.data.dir = "data/dance6_sequence"
    config.batch_size = 128
    config.epochs = 24.0
    config.log_every = 100
    config.eval_every = 4.0
    config.checkpoint_every = 4.0
    config.model.update(branches="sequence", features="full", stage_dropout=0.0, dropout=0.3)
    config.model.sequence.spreads = True
    config.optimizer.update(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup=1.0,
        label_smoothing=0.02,
    )
    # A window has the label of its middle, so its length is fixed; cut off, hidden and displaced
    # joints are part of the data.
    config.augment.update(
        flip=0.5,
        rotation=8.0,
        stretch=0.2,
        joint_noise=0.003,
        joint_dropout=0.02,
        legs_dropout=0.0,
        time_crop=1.0,
        time_warp=0.05,
    )
    return config
