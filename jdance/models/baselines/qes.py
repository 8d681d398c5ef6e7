"""QES's classifiers: a flat network, and one in two stages.

Wu et al., Sensors 19(23):5129, 2019; for inertial sensors there, adapted to key points in a
image here. Both see 22 numbers, the feature set "segments22".
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jdance.models.baselines import fuzzy_c_means

_LEAST = 1e-6  # probability of what the two stages rule out; keeps logarithms finite


class FlatPostureNet(nn.Module):
    """One hidden layer of sigmoids: 22 -> `hidden` -> `classes`."""

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
        """Logits float32 [B, M] of features [B, 22]; everything else is not used."""
        x = nn.sigmoid(nn.Dense(self.hidden, name="hidden")(features))
        return nn.Dense(self.classes, name="logits")(x)


class TwoStagePostureNet(nn.Module):
    """Stage 1 names a category of motions, stage 2 the motion in it.

    Stage 1 is a `FlatPostureNet` trained by gradient. Stage 2 has `prototypes` points for each
    class, found by fuzzy C-means before training starts; inside the category, each class gets the
    sum of the memberships to its prototypes.

    Fields:
        categories: the category of each class: G numbers from 0 to G - 1.
        hidden: of stage 1.
        prototypes: of each class.
        fuzziness: m of the memberships.
    """

    categories: Sequence[int]
    hidden: int = 30
    prototypes: int = 8
    fuzziness: float = 1.25

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
        """Logits of features [B, 22]: in training those of the categories, float32 [B, G].

        Else logarithms of the motions' probabilities [B, M]: the memberships inside the category
        that stage 1 names, and nearly 0 for the other motions.
        """
        categories = jnp.array(self.categories)
        stage1 = FlatPostureNet(int(max(self.categories)) + 1, self.hidden, name="category")
        logits = stage1(None, features)
        # Not statistics of batches, but like them they are learned without gradients.
        prototypes = self.variable(
            "batch_stats",
            "prototypes",
            jnp.zeros,
            (len(self.categories), self.prototypes, features.shape[-1]),
        ).value
        if train:
            return logits
        inside = categories == logits.argmax(-1)[:, None]  # [B, M]
        scores = fuzzy_c_means.scores(
            features, prototypes.reshape(-1, features.shape[-1]), self.fuzziness
        ).reshape(*inside.shape, self.prototypes)
        # Prototypes of other categories do not take part: as if infinitely far away.
        scores = jnp.where(inside[..., None], scores, -jnp.inf)
        motions = jax.nn.softmax(scores, axis=(1, 2)).sum(-1)
        return jnp.log(jnp.maximum(motions, _LEAST))
