"""QES, a baseline of the paper: two-stage posture classification from segment angles.

    python launch/train.py --config=configs/qes.py --workdir=runs/qes --config.data.dir=data/stage
    python launch/evaluate.py --workdir=runs/qes --split=test

Wu et al., Sensors 19(23):5129, 2019, adapted from inertial sensors to key points. The features are
the angles of 11 body segments to the trunk. A small network predicts a category of motions, and
fuzzy C-means the motion within it. Categories are the classes that a flat network confuses in
cross-validation; --config.model.branches=qes_flat trains the flat network alone.

Accuracy on StageDance's `paper` with key points of --pose=stage (3 seeds): 0.749 (0.777, 0.737,
0.731); the flat network 0.780 (0.797, 0.774, 0.769). The learning rate is the best of four on val
for both: 3e-3 0.700 and 0.696, 1e-2 0.713 and 0.762, 3e-2 0.733 and 0.742, 1e-1 0.738 and 0.775.

launch/feedback.py scores dancers' postures with such a run and gives the angles that correct them.
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
