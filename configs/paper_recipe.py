"""The paper's exact recipe with the network and the data of configs/yoga5.py: which recipe to use.

SGD at 1e-3, a tenth of it after every 10 of 30 epochs, batches of 64, rotation and flips only (Shen
et al., 2021, section 4.2) is a recipe for fine-tuning. RUN is a run of configs/quickstart.py.

    python launch/sweep.py --config=configs/paper_recipe.py --data=data/yoga5 --seeds=3
      --variant=scratch --variant="tuned init_from=RUN" --output=sweeps/paper_recipe
    python launch/sweep.py --config=configs/yoga5.py --data=data/yoga5 --seeds=3
      --variant=scratch --variant="tuned init_from=RUN" --output=sweeps/yoga5
"""

from ml_collections import ConfigDict

from jdance import config as defaults


def get_config() -> ConfigDict:
    config = defaults.base()  # the recipe
    config.data.dir = "data/yoga5"
    config.data.image_size = 112
    config.eval_every = 10.0
    config.checkpoint_every = 10.0
    config.model.update(
        features="full",
        width=16,
        stage_sizes=(1, 1, 1, 1),
        stage_dropout=0.0,
        image_widths=(128,),
        keypoint_widths=(128, 128),
        fusion_widths=(128,),
        dropout=0.3,
        keypoint_dropout=0.15,
        image_dropout=0.35,
    )
    return config
