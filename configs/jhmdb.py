"""Sequences: the paper's one-dimensional network on JHMDB's 14 classes of movements.

FILE is a .npz of sequences with `poses`, `lengths`, `label`, `joints`, `split1` to `split3`.

    python launch/prepare.py --source=FILE --split_column=split1 --output=data/jhmdb1
    python launch/train.py --config=configs/jhmdb.py --workdir=runs/jhmdb1
    python launch/evaluate.py --workdir=runs/jhmdb1 --split=test --views=10

First figures (2 CPU cores, jax 0.10.2, seed 0): 0.790 on the test clips of split
1, with and without 10 views. Inside train of split 1 (108 held out of 433 clips, twice) 0.802,
with 5 views 0.820; batches of 16 change nothing (0.807). The other splits, more seeds and
ensembles are not measured yet.
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()
    config.data.dir = "data/jhmdb1"
    config.batch_size = 32
    config.epochs = 140.0
    config.eval_every = 1000.0
    config.checkpoint_every = 1000.0
    config.model.update(branches="sequence", features="full", stage_dropout=0.0)
    config.optimizer.update(
        name="adamw", learning_rate=2e-3, weight_decay=0.01, schedule="cosine", warmup=2.0
    )
    config.augment.update(
        scale=0.1, stretch=0.1, shear=0.1, joint_noise=0.012, time_crop=0.7, time_warp=0.2
    )
    return config
