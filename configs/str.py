"""STR, a baseline of the paper: a DenseNet on skeleton images.

    python launch/train.py --config=configs/str.py --workdir=runs/str --config.data.dir=data/stage
    python launch/evaluate.py --workdir=runs/str --split=test

Pham et al., Sensors 19(8):1932, 2019: distances and directions between all pairs of joints form the
colors of a 32 x 32 image, for single frames or sequences; Adam at 3e-4, halved every 100 of 250
epochs, batch 64, L2 1e-4. Parameters at 6 classes: 126,950; with --config.model.str.depth=28
465,878, with 40 1,017,926.

Accuracy on StageDance's `paper` with key points of --pose=stage, after 16 epochs with the learning
rate halved at 6.4 and 12.8: 0.688 (3 seeds: 0.689, 0.700, 0.674). Not trained to the end yet. Of
four learning rates the paper's is the best on val: 3e-4 0.600, 1e-3 0.588, 3e-3 0.583, 6e-3 0.567.
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()
    config.batch_size = 64
    config.epochs = 250.0
    config.eval_every = 10.0
    config.checkpoint_every = 10.0
    config.model.branches = "str"
    config.optimizer.update(
        name="adam",
        learning_rate=3e-4,
        weight_decay=1e-4,
        schedule="piecewise",
        boundaries=(100.0, 200.0),
        decay=0.5,
    )
    return config
