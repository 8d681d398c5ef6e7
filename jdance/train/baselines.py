"""Simple classifiers of key-point features, to compare a motion network with.

They are fitted on the training split of the network's run, without augmentation, and evaluated on
the same examples as the network, with the same views and dropped joints. The features are those of
the network; a network without a key-point branch or with skeleton maps is compared on fused18.
Sequences of features become their mean and standard deviation over time. All features are
standardized by the mean and standard deviation of the training split.

Examples without a detected person have no features: the classifiers are not fitted on them, and
predict the most frequent class. A class "unknown" is a class like the others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy.spatial.distance import cdist

from jdance import features, models
from jdance.data import loader, records, splits
from jdance.errors import UserError
from jdance.models import fused
from jdance.progress import Progress, counted
from jdance.skeleton import LAYOUTS
from jdance.train import intervals
from jdance.train.evaluation import Predictions

# The grid of the SVM; gamma is divided by the number of features.
_GRID = tuple(product((1.0, 10.0, 100.0), (0.3, 1.0, 3.0)))
_DEFAULT = 10.0, 1.0
_FOLDS = 3
_SEARCH_LIMIT = 3000  # training examples for the search in the grid
_SVM_LIMIT = 10_000  # and for the SVM, whose time grows with their square
_SEED = 0


class Examples(NamedTuple):
    """N examples.

    Attributes:
        features: float32 [N, D].
        valid: bool [N], whether a person was detected.
        label: int [N].
    """

    features: np.ndarray
    valid: np.ndarray
    label: np.ndarray


class Classifier(NamedTuple):
    """A fitted classifier.

    Attributes:
        labels: int [K], of the classes that it knows.
        scores: features [N, D] -> [N, K]; the largest is that of the predicted class.
        parameters: as chosen.
    """

    labels: np.ndarray
    scores: Callable[[np.ndarray], np.ndarray]
    parameters: dict[str, Any]


def require() -> None:
    """Raises UserError if scikit-learn is not installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserError(
            "--baselines needs scikit-learn, which is not installed: pip install -e '.[baselines]'"
        ) from error


def compare(
    config: ConfigDict,
    classes: Sequence[str],
    train: records.Dataset,
    dataset: records.Dataset,
    split: str,
    predictions: Predictions,
    groups: np.ndarray,
    *,
    drop: str = "",
    views: int = 1,
) -> dict[str, Any]:
    """Fits the baselines and compares a network with them on the same examples.

    Args:
        config, classes: of the run.
        train: data set of the run; its split "train" is used.
        dataset, split: the evaluated examples.
        predictions: of the network for all of them, in order.
        groups: of these examples, see `records.read_groups`.
        drop: joints to remove in the evaluation, see `loader.eval_batches`.
        views: number of augmented views per example, whose scores are averaged.

    Returns:
        features (their description), train (data, and n with a detected person), methods {name:
        {accuracy, interval, difference, difference_interval, parameters}}, best (the method with
        the highest accuracy), and verdict (see `_verdict`). The difference is the network's
        accuracy minus the method's; intervals are of 95 %.

    Raises:
        UserError: there is nothing to learn, or only one of stills and sequences can be learned.
    """
    if train.sequences != dataset.sequences:
        raise UserError(
            f"{dataset.name}: --baselines cannot be fitted on stills and evaluated on sequences, "
            f"or the reverse; the run was trained on {train.name}"
        )
    inputs = keypoint_inputs(config.model, train.sequences)
    train_source, source = train.source("train"), dataset.source(split)
    fitting = read(train_source, config, inputs)
    ids = np.array([classes.index(name) for name in train.classes])
    fitting = fitting._replace(label=ids[fitting.label])
    if len(np.unique(fitting.label[fitting.valid])) < 2:
        raise UserError(
            f"{train.name}: --baselines needs detected people of two classes in the split train"
        )
    per_view = [read(source, config, inputs, drop, view) for view in range(views)]
    network = predictions["probabilities"].argmax(-1) == predictions["label"]
    fitted = fit_and_predict(fitting, records.read_groups(train_source), per_view)
    methods: dict[str, dict[str, Any]] = {}
    for name, (guesses, parameters) in fitted.items():
        correct = guesses == predictions["label"]
        methods[name] = {
            "accuracy": float(correct.mean()),
            "interval": list(intervals.accuracy(correct, groups)[0]),
            "difference": float(network.mean() - correct.mean()),
            "difference_interval": list(intervals.difference(network, correct, groups)),
            "parameters": parameters,
        }
    best = max(methods, key=lambda name: methods[name]["accuracy"])
    return {
        "features": (inputs.feature_set or "the network's own")
        + ", mean and standard deviation over time" * train.sequences
        + f": {fitting.features.shape[1]} numbers",
        "train": {"data": train.name, "n": int(fitting.valid.sum())},
        "methods": methods,
        "best": best,
        "verdict": _verdict(methods[best]["difference"], methods[best]["difference_interval"]),
    }


def _verdict(difference: float, interval: Sequence[float]) -> str:
    """Compares a network with a baseline, given the difference and its interval.

    "better" or "worse" if 0 is outside the interval; otherwise "not clearly better" if the network
    has the higher accuracy, else "not better".
    """
    if interval[0] > 0:
        return "better"
    if interval[1] < 0:
        return "worse"
    return "not clearly better" if difference > 0 else "not better"


def keypoint_inputs(model: ConfigDict, sequences: bool) -> features.Inputs:
    """Inputs of a network's baselines: its key-point features, else fused18; no image."""
    own = models.inputs(model)._replace(image=False)
    unused = models.network(model) is fused and not fused.keypoint_widths(model)
    if len(own.shape) == 1 + sequences and not unused:
        return own
    layout = LAYOUTS[model.layout]
    size = features.size("fused18", layout)
    fused18 = own._replace(feature_set="fused18", dtype=np.float32)
    if not sequences:
        return fused18._replace(compute=partial(features.compute, "fused18"), shape=(size,))
    return fused18._replace(
        compute=partial(features.sequence, "fused18"), shape=(own.frames, size + 4 * len(layout))
    )


def read(
    source: Any, config: ConfigDict, inputs: features.Inputs, drop: str = "", view: int = 0
) -> Examples:
    """Reads the features of all examples, as the network gets them in evaluation."""
    config = config.copy_and_resolve_references()
    config.data.workers = 0  # threads suffice without images
    rows: dict[str, list[np.ndarray]] = {"features": [], "valid": [], "label": []}
    for batch in loader.eval_batches(source, config, inputs, drop=drop, view=view):
        real = batch["weight"] > 0
        values = batch["features"][real]
        if values.ndim == 3:  # [B, T, D] -> [B, 2 D]
            values = np.concatenate([values.mean(1), values.std(1)], axis=-1)
        rows["features"].append(values)
        rows["valid"].append(batch["valid"][real])
        rows["label"].append(batch["label"][real])
    return Examples(**{name: np.concatenate(parts) for name, parts in rows.items()})


def fit_and_predict(
    train: Examples, groups: np.ndarray, per_view: Sequence[Examples]
) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Fits all baselines, and predicts the classes of other examples.

    Args:
        train: examples to learn from, of two classes or more.
        groups: of the training examples; the parameters of the SVM are chosen by cross-validation
            between groups.
        per_view: views of the examples to predict; their labels are not used.

    Returns:
        {name: (labels int [N], parameters)}.
    """
    import sklearn.ensemble  # noqa: F401  threadpool_limits needs its libraries to be loaded
    from threadpoolctl import threadpool_limits  # installed with scikit-learn

    x, y = train.features[train.valid].astype(np.float64), train.label[train.valid]
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation == 0] = 1
    x, groups = (x - mean) / deviation, groups[train.valid]
    valid = per_view[0].valid
    views = [(view.features[valid] - mean) / deviation for view in per_view]
    names, counts = np.unique(train.label, return_counts=True)
    result = {}
    progress = Progress("baselines", len(_METHODS))
    for number, (name, fit) in enumerate(_METHODS.items(), 1):
        guesses = np.full(len(valid), names[counts.argmax()])
        # The threads of OpenMP busy-wait, which is many times slower on cores that are shared.
        with threadpool_limits(1):
            fitted = fit(x, y, groups)
            if valid.any():
                scores = np.mean([fitted.scores(view) for view in views], axis=0)
                guesses[valid] = fitted.labels[scores.argmax(-1)]
        result[name] = guesses, fitted.parameters
        progress.update(number)
    return result


def _nearest_mean(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Classifier:
    labels = np.unique(y)
    means = np.stack([x[y == label].mean(0) for label in labels])
    return Classifier(labels, lambda features: -cdist(features, means), {})


def _boosting(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Classifier:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(early_stopping=False, random_state=_SEED).fit(x, y)
    return Classifier(model.classes_, model.predict_proba, {"iterations": model.max_iter})


def _svm(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Classifier:
    """A support vector machine with an RBF kernel, on at most `_SVM_LIMIT` examples."""
    c, gamma, chosen_by = _choose(x, y, groups)
    some = _sample(y, _SVM_LIMIT)
    model = _svc(c, gamma).fit(x[some], y[some])

    def scores(features: np.ndarray) -> np.ndarray:
        values = model.decision_function(features)
        return values if values.ndim == 2 else np.stack([-values, values], axis=-1)

    parameters = {"C": c, "gamma": gamma, "chosen_by": chosen_by, "examples": len(some)}
    return Classifier(model.classes_, scores, parameters)


def _svc(c: float, gamma: float) -> Any:
    from sklearn.svm import SVC

    return SVC(C=c, gamma=gamma, cache_size=500)


def _choose(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[float, float, str]:
    """C and gamma with the best accuracy in cross-validation between groups, and how chosen."""
    some = _sample(y, _SEARCH_LIMIT)
    x, y, groups = x[some], y[some], groups[some]
    fractions = {str(fold): 1 / _FOLDS for fold in range(_FOLDS)}
    folds = np.array(splits.draw([str(label) for label in y], list(groups), fractions, _SEED))
    usable = [fold for fold in np.unique(folds) if len(np.unique(y[folds != fold])) > 1]
    if not usable:
        return _DEFAULT[0], _DEFAULT[1] / x.shape[1], "default: too few groups"

    def correct(c: float, gamma: float) -> int:
        total = 0
        for fold in usable:
            fit, check = folds != fold, folds == fold
            model = _svc(c, gamma / x.shape[1]).fit(x[fit], y[fit])
            total += int((model.predict(x[check]) == y[check]).sum())
        return total

    c, gamma = max(_GRID, key=lambda pair: correct(*pair))
    return c, gamma / x.shape[1], "cross-validation between groups of the split train"


def _sample(labels: np.ndarray, limit: int) -> np.ndarray:
    """Indices of about `limit` examples, or of all if there are no more, of each class in turn."""
    if len(labels) <= limit:
        return np.arange(len(labels))
    rng = np.random.default_rng(_SEED)
    parts = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        parts.append(rng.permutation(own)[: math.ceil(len(own) * limit / len(labels))])
    return np.sort(np.concatenate(parts))


_METHODS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Classifier]] = {
    "nearest class mean": _nearest_mean,
    "svm": _svm,
    "gradient boosting": _boosting,
}


def sentence(result: Mapping[str, Any], show: Callable[[float, Sequence[float]], str]) -> str:
    """Says whether the network is better than the best baseline.

    Args:
        result: of an evaluation, with the result of `compare` as "baselines".
        show: formats a fraction and its interval.
    """
    found = result["baselines"]
    best = found["methods"][found["best"]]
    own, other = (show(each["accuracy"], each["interval"]) for each in (result, best))
    return (
        f"the network is {found['verdict']} than {found['best']} on key points ({own} against "
        f"{other}; difference {show(best['difference'], best['difference_interval'])})"
    )


def label(name: str, comparison: Mapping[str, Any]) -> str:
    """The name of a method, with the number of training examples if it got fewer than the others.

    Args:
        name: of the method.
        comparison: result of `compare`.
    """
    number = comparison["methods"][name]["parameters"].get("examples", comparison["train"]["n"])
    return name if number == comparison["train"]["n"] else f"{name} ({number:,} examples)"


def show(fraction: float, interval: Sequence[float]) -> str:
    """Formats a fraction with its interval: "0.878 [0.84, 0.91]"."""
    return f"{fraction:.3f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def table(result: Mapping[str, Any]) -> str:
    """Formats the accuracies of the network and the baselines, and the paired differences."""
    found = result["baselines"]
    rows = [
        ["", "accuracy [95 % interval]", "network minus this"],
        ["network", show(result["accuracy"], result["interval"]), ""],
    ]
    for name, own in found["methods"].items():
        difference = show(own["difference"], own["difference_interval"])
        rows.append([label(name, found), show(own["accuracy"], own["interval"]), difference])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    number = counted(found["train"]["n"], "training example")
    lines.append(f"features of the baselines: {found['features']}; {number}")
    lines.append(f"intervals: {result['interval_method']}; differences on the same examples")
    return "\n".join(lines)
