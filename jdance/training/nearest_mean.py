"""The plainest classifier, to measure the others against: the nearest class mean of features."""

from typing import Any

import numpy as np

from jdance import features
from jdance.data import records


def accuracy(dataset: records.Dataset, split: str, feature_set: str = "fused18") -> float:
    """Accuracy on a split of the nearest (Euclidean) class mean of the training features."""
    train, train_labels = _features(dataset.source("train"), feature_set)
    test, test_labels = _features(dataset.source(split), feature_set)
    means = np.stack([train[train_labels == label].mean(0) for label in np.unique(train_labels)])
    distances = np.linalg.norm(test[:, None] - means, axis=-1)
    return float((np.unique(train_labels)[distances.argmin(1)] == test_labels).mean())


def _features(source: Any, feature_set: str) -> tuple[np.ndarray, np.ndarray]:
    examples = [records.unpack(source[i]) for i in range(len(source))]
    keypoints = np.stack([example.keypoints for example in examples])
    labels = np.array([example.label for example in examples])
    return features.compute(feature_set, keypoints), labels
