"""QES's classifiers: a flat network and a two-stage network.

Wu et al., Sensors 19(23):5129, 2019, for inertial sensors, adapted to key points of an image: the
feature set "segments22".
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from jdance import features
from jdance.features import Inputs
from jdance.models.baselines import fuzzy_c_means

FEATURE_SET = "segments22"
_MIN_PROBABILITY = 1e-6  # of motions in other categories; keeps logarithms finite


class FlatPostureNet(nn.Module):
    """A network with one hidden layer of sigmoids: 22 -> `hidden` -> `classes`."""

    classes: int
    hidden: int = 30

    @nn.compact
    def __call__(
        self,
        image: Array | None,
        features: Array,
        valid: Array | None = None,
        *,
        index: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Logits float32 [B, M] of features [B, 22]; the other arguments are unused."""
        x = nn.sigmoid(nn.Dense(self.hidden, name="hidden")(features))
        return nn.Dense(self.classes, name="logits")(x)


class TwoStagePostureNet(nn.Module):
    """Classifies a category of motions in stage 1, and the motion in it in stage 2.

    Stage 1 is a `FlatPostureNet` trained by gradient descent. Stage 2 has `prototypes` points for
    each class, fitted by fuzzy C-means before training. The score of a class is the sum of the
    memberships in its prototypes.

    Attributes:
        categories: the category of each class, 0 to G - 1.
        hidden: hidden units of stage 1.
        prototypes: number of prototypes of each class.
        fuzziness: m of the memberships.
    """

    categories: Sequence[int]
    hidden: int = 30
    prototypes: int = 8
    fuzziness: float = 1.25

    def setup(self) -> None:
        self.category = FlatPostureNet(int(max(self.categories)) + 1, self.hidden)
        # In batch_stats because they are not trained by gradients.
        self.points = self.variable(
            "batch_stats",
            "prototypes",
            jnp.zeros,
            (len(self.categories), self.prototypes, features.size(FEATURE_SET)),
        )

    def __call__(
        self,
        image: Array | None,
        features: Array,
        valid: Array | None = None,
        *,
        index: Array | None = None,
        train: bool = False,
    ) -> Array:
        """Log-probabilities of the motions float32 [B, M] for features [B, 22].

        They are the memberships inside the category that stage 1 predicts, and close to 0
        elsewhere. `category_logits` is what training uses.
        """
        categories = jnp.array(self.categories)
        inside = categories == self.category_logits(features).argmax(-1)[:, None]  # [B, M]
        points = self.points.value.reshape(-1, features.shape[-1])
        scores = fuzzy_c_means.scores(features, points, self.fuzziness)
        # Prototypes of other categories are treated as infinitely far away.
        scores = jnp.where(inside[..., None], scores.reshape(*inside.shape, -1), -jnp.inf)
        motions = jax.nn.softmax(scores, axis=(1, 2)).sum(-1)
        return jnp.log(jnp.maximum(motions, _MIN_PROBABILITY))

    def category_logits(self, features: Array) -> Array:
        """Logits of the categories (stage 1), float32 [B, G], for features [B, 22]."""
        return self.category(None, features)


def inputs(config: ConfigDict) -> Inputs:
    """Angles of the body segments: the feature set "segments22"."""
    return Inputs(
        compute=partial(features.compute, FEATURE_SET),
        shape=(features.size(FEATURE_SET),),
        feature_set=FEATURE_SET,
    )


def build(
    config: ConfigDict, axis_name: str | None, freeze_backbone: bool, platform: str
) -> FlatPostureNet | TwoStagePostureNet:
    """Builds the network; arguments as for `jdance.models.build`."""
    qes = config.qes
    if config.branches == "qes_flat":
        return FlatPostureNet(config.classes, qes.hidden)
    if qes.fuzziness <= 1:
        raise ValueError(f"model.qes.fuzziness={qes.fuzziness}: must be greater than 1")
    # Until the data set provides categories, each class is its own.
    categories = tuple(qes.categories) or tuple(range(config.classes))
    if len(categories) != config.classes or set(categories) != set(range(len(set(categories)))):
        raise ValueError(
            f"model.qes.categories={categories}: expected a number from 0 on for each of the "
            f"{config.classes} classes"
        )
    return TwoStagePostureNet(categories, qes.hidden, qes.prototypes, qes.fuzziness)
