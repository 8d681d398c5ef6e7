"""The paper's exact recipe with the network and the data of configs/jhmdb.py: which recipe to use.

SGD at 1e-3, a tenth of it after every 10 of 30 epochs, batches of 64, rotation and flips only (Shen
et al., 2021, section 4.2).

    python launch/sweep.py --config=configs/paper_recipe.py --data=data/jhmdb1 --output=sweeps/paper
    python launch/sweep.py --config=configs/jhmdb.py --data=data/jhmdb1 --output=sweeps/scratch

Accuracy on the test clips of split 1 (seeds 0 to 2): 0.398 ± 0.025, where configs/jhmdb.py reaches
0.829 ± 0.030. It is a recipe for fine-tuning: from scratch use the other one.
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
