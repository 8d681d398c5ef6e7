"""The paper's training recipe on the default sequence network and JHMDB, to compare recipes.

    python launch/sweep.py --config=configs/paper_recipe.py --data=data/jhmdb1 --output=sweeps/paper
    python launch/sweep.py --config=configs/jhmdb.py --data=data/jhmdb1 --output=sweeps/scratch

Shen et al. (2021), section 4.2: SGD at 1e-3, divided by 10 after every 10 of 30 epochs, batch 64,
augmentation by rotation and flips only.

Test accuracy on split 1 (seeds 0 to 2): 0.398 ± 0.025; configs/jhmdb.py reached 0.829 ± 0.030 with
this network, which is the default one (configs/jhmdb.py has become wider). This recipe is for
fine-tuning: use the other one from scratch.
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()  # the recipe
    config.data.dir = "data/jhmdb1"
    config.eval_every = 1000.0
    config.checkpoint_every = 1000.0
    config.model.update(branches="sequence", features="full", stage_dropout=0.0)
    return config
