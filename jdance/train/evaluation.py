"""Accuracy of a classifier on a split: exact counts, every example once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jdance import models, xla
from jdance.data.loader import Batch
from jdance.train import distributed, intervals, steps

# (variables, device batch) -> probabilities [devices, B / devices, M]
EvalStep = Callable[[Any, dict[str, jax.Array]], jax.Array]
Predictions = dict[str, np.ndarray]


def make_eval_step(config: ConfigDict) -> EvalStep:
    """`steps.eval_step`, compiled for all devices."""
    step = partial(steps.eval_step, model=models.build(config.model))
    return xla.for_inference(jax.pmap(step, axis_name=steps.AXIS, in_axes=(None, 0)))


def predict(eval_step: EvalStep, variables: Any, batches: Iterable[Batch]) -> Predictions:
    """Runs the network over batches.

    Args:
        eval_step: see `make_eval_step`.
        variables: replicated over the devices.
        batches: of this process, see `loader.eval_batches`.

    Returns:
        Arrays over the examples of all processes in the order of the data set, without padding:
        probabilities float32 [N, M], label int32 [N], valid bool [N] (a person was detected), and
        index int32 [N].
    """
    rows: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        output = jax.device_get(eval_step(variables, distributed.shard(batch)))
        found = {name: batch[name] for name in ("label", "valid", "index", "weight")}
        found["probabilities"] = output.reshape(-1, output.shape[-1])
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    merged = {name: distributed.interleave(np.concatenate(parts)) for name, parts in rows.items()}
    real = merged.pop("weight") > 0
    return {name: value[real] for name, value in merged.items()}


def average(predictions: Sequence[Predictions]) -> Predictions:
    """Mean probabilities over several views or networks of the same examples."""
    probabilities = np.mean([part["probabilities"] for part in predictions], axis=0)
    return predictions[0] | {"probabilities": probabilities}


def mistakes(predictions: Predictions, classes: list[str], limit: int = 24) -> list[dict[str, Any]]:
    """Misclassified examples, by decreasing confidence.

    Returns:
        For each: index (in the split), true, guess, and probability (of the guess).
    """
    probabilities = predictions["probabilities"]
    guesses, confidence = probabilities.argmax(-1), probabilities.max(-1)
    wrong = np.flatnonzero(guesses != predictions["label"])
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
    return [
        {
            "index": int(predictions["index"][i]),
            "true": classes[predictions["label"][i]],
            "guess": classes[guesses[i]],
            "probability": round(float(confidence[i]), 4),
        }
        for i in wrong
    ]


def summarize(
    predictions: Predictions, classes: list[str], data: str, split: str, groups: np.ndarray
) -> dict[str, Any]:
    """Evaluation result as written to eval_SPLIT.json.

    Args:
        predictions: of the network.
        classes: of the run.
        data, split: name and split of the data set.
        groups: of all examples of the split, see `records.read_groups`.

    Returns:
        accuracy, its 95 % interval (low, high), interval_method (see `intervals.accuracy`),
        mean_class_accuracy (over the classes that occur), loss (mean cross-entropy), n, classes,
        per_class {class: {accuracy, interval, n}}, confusion [M][M] (true, predicted), found (n and
        accuracy of the examples with a detected person), data, split, and mistakes.
    """
    labels, guesses = predictions["label"], predictions["probabilities"].argmax(-1)
    groups = groups[predictions["index"]]
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (labels, guesses), 1)
    counts = confusion.sum(1)
    true = predictions["probabilities"][np.arange(len(labels)), labels]
    correct = labels == guesses
    valid = predictions["valid"]
    recalls = confusion.diagonal() / np.maximum(counts, 1)
    interval, method = intervals.accuracy(correct, groups)
    per_class: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(classes):
        own = labels == i
        per_class[name] = {"accuracy": None, "interval": None, "n": int(counts[i])}
        if own.any():
            around, _ = intervals.accuracy(correct[own], groups[own])
            per_class[name] |= {"accuracy": float(recalls[i]), "interval": list(around)}
    return {
        "accuracy": float(correct.mean()),
        "interval": list(interval),
        "interval_method": method,
        "mean_class_accuracy": float(recalls[counts > 0].mean()),
        "loss": float(-np.log(np.maximum(true, 1e-30)).mean()),
        "n": len(labels),
        "classes": classes,
        "per_class": per_class,
        "confusion": confusion.tolist(),
        "found": {
            "n": int(valid.sum()),
            "accuracy": float(correct[valid].mean()) if valid.any() else None,
        },
        "data": data,
        "split": split,
        "mistakes": mistakes(predictions, classes),
    }


def only_prediction(result: Mapping[str, Any]) -> str:
    """The class that all examples of several classes were given; "" if predictions differ."""
    confusion = np.array(result["confusion"])
    guessed = np.flatnonzero(confusion.any(0))
    constant = len(guessed) == 1 and confusion.any(1).sum() > 1
    return str(result["classes"][guessed[0]]) if constant else ""
