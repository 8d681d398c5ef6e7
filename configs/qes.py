"""QES, the other system that the paper compares itself with: a posture in two stages.

Wu et al., Sensors 19(23):5129, 2019, adapted from inertial sensors to key points: the angles of 11
body segments to the trunk; a small network names a category of motions, fuzzy C-means the motion
in it. Categories are the classes that a flat network confuses in cross-validation.

    python launch/train.py --config=configs/qes.py --workdir=runs/qes --config.data.dir=data/stage
    python launch/evaluate.py --workdir=runs/qes --split=test

Accuracy on StageDance's `paper` with key points of --pose=stage (3 seeds): 0.749 (0.777, 0.737,
0.731); the flat network 0.780 (0.797, 0.774, 0.769). The learning rate is the best of four on val,
for both: 3e-3 0.700 and 0.696, 1e-2 0.713 and 0.762, 3e-2 0.733 and 0.742, 1e-1 0.738 and 0.775.

The flat network alone: --config.model.branches=qes_flat. What the run learned of the postures tells
dancers what to correct, a score and an angle for each body part: launch/feedback.py.
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()
    config.batch_size = 64
    config.epochs = 60.0
    config.eval_every = 5.0
    config.checkpoint_every = 5.0
    config.model.branches = "qes"
    config.optimizer.update(
        name="adam",
        learning_rate=1e-1,
        weight_decay=0.0,
        schedule="cosine",
        boundaries=(),
    )
    return config
