"""Sections of the reproduction report: the paper's tables and figure, and more."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jdance.data.records import Dataset
from jdance.paper import plan
from jdance.progress import counted
from jdance.report import blocks as block_makers
from jdance.report import charts
from jdance.report.html import Figure, Section, Table, Text
from jdance.train import intervals
from jdance.train.sweep import Variant


class _Runs(NamedTuple):
    """All runs of one variant on one split of the data: folders and evaluations."""

    workdirs: list[Path]
    evaluations: list[dict[str, Any]]

    @property
    def accuracies(self) -> list[float]:
        return [result["accuracy"] for result in self.evaluations]


_Found = dict[tuple[str, str], _Runs]  # by variant and split


def sections(
    rows: Sequence[Mapping[str, Any]],
    datasets: Mapping[str, Dataset],
    failures: Sequence[str],
    speed: Mapping[str, Any] | None,
    variants: Sequence[Variant],
    note: str = "",
) -> list[Section]:
    """Builds the report.

    Args:
        rows: from `sweep.sweep`.
        datasets: the data sets split by "video" and "frame".
        failures: from `sweep.sweep`.
        speed: {"machine", "pose", "frames_per_second": {people: number}}, or None.
        variants: the trained ones.
        note: a sentence for the first section.
    """
    found = _read(rows, datasets)
    parameters = {row["variant"]: row["parameters"] for row in rows}
    names = [variant.name for variant in variants]
    main = next(iter(datasets))  # "video" if present
    result = [
        _overview(datasets, found, failures, note),
        _counts(datasets),
        _per_class(found, datasets),
        _confusions(found, datasets, main),
        _comparison(found, datasets, parameters),
        _ablations(found, datasets, parameters, names),
        _curves(found, main, names),
        _speed(speed),
        _mistakes(found, datasets, main),
    ]
    if len(datasets) > 1:
        result.append(_leak(found, names))
    return [section for section in result if section.blocks]


def _read(rows: Sequence[Mapping[str, Any]], datasets: Mapping[str, Dataset]) -> _Found:
    found = {}
    for row in rows:
        for split, dataset in datasets.items():
            runs = [run for run in row["runs"] if run["data"] == str(dataset.folder)]
            workdirs = [Path(run["workdir"]) for run in runs]
            results = [json.loads((w / "eval_test.json").read_text()) for w in workdirs]
            if results:
                found[row["variant"], split] = _Runs(workdirs, results)
    return found


def _spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds, in %."""
    if len(values) < 2:
        return block_makers.percent(values[0]) if values else "failed"
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"


def _mean_interval(values: Sequence[float], n: int) -> str:
    """Mean in %, with Wilson's interval for n examples."""
    if not values:
        return ""
    mean = float(np.mean(values))
    return block_makers.percent_interval(mean, intervals.wilson(mean, n))


def _overview(
    datasets: Mapping[str, Dataset], found: _Found, failures: Sequence[str], note: str
) -> Section:
    seeds = max((len(runs.workdirs) for runs in found.values()), default=0)
    count = {split: dataset.count("test") for split, dataset in datasets.items()}
    tests = " and ".join(f"{n} persons (divided by {split})" for split, n in count.items())
    blocks: list = [
        Text(
            f"Every variant was trained from {seeds} seed{'s' if seeds > 1 else ''} and evaluated "
            f"on the test split: {tests}. ± is the standard deviation over the seeds; intervals "
            "are 95 % Wilson intervals for the size of the test split. Divided by video, no video "
            "is in both training and test; divided by frame, as in the paper, frames of one video "
            "may be in both."
        )
    ]
    if note:
        blocks.append(Text(note))
    if failures:
        lines = [[line] for line in failures]
        blocks.append(Table(f"{counted(len(failures), 'run')} failed", ["run and reason"], lines))
    return Section("What was done", blocks)


def _counts(datasets: Mapping[str, Dataset]) -> Section:
    blocks: list = []
    for split, dataset in datasets.items():
        table = block_makers.counts_table(dataset, f"Persons by class, divided by {split}")
        rows = [[*row, *map(str, plan.COUNTS.get(row[0], ("", "")))] for row in table.rows]
        head = [*table.head, "paper, train", "paper, test"]
        blocks.append(Table(table.caption, head, rows))
    return Section("Table 1: the data", blocks)


def _per_class(found: _Found, datasets: Mapping[str, Dataset]) -> Section:
    by_split = {s: found[plan.PROPOSED, s] for s in datasets if (plan.PROPOSED, s) in found}
    if not by_split:
        return Section("Table 2: accuracy of each class")
    rows = []
    for name in next(iter(datasets.values())).classes:
        row = [name]
        for runs in by_split.values():
            entries = [result["per_class"][name] for result in runs.evaluations]
            known = [entry["accuracy"] for entry in entries if entry["accuracy"] is not None]
            n = entries[0]["n"]
            row += [str(n), _mean_interval(known, n)]
        rows.append([*row, block_makers.percent(plan.PER_CLASS.get(name))])
    last = ["all"]
    for runs in by_split.values():
        n = runs.evaluations[0]["n"]
        last += [str(n), _mean_interval(runs.accuracies, n)]
    rows.append([*last, block_makers.percent(plan.ACCURACY[plan.PROPOSED])])
    head = ["class"]
    for split in by_split:
        head += [f"examples, by {split}", f"accuracy, by {split}"]
    caption = "The proposed network: mean over the seeds in %, with 95 % interval"
    return Section("Table 2: accuracy of each class", [Table(caption, [*head, "paper"], rows)])


def _confusions(found: _Found, datasets: Mapping[str, Dataset], split: str) -> Section:
    section = Section("Table 3: confusion")
    for name in plan.COMPARED:
        runs = found.get((name, split))
        if runs is None:
            continue
        counts = np.sum([result["confusion"] for result in runs.evaluations], axis=0)
        seeds = len(runs.workdirs)
        title = f"{name}, divided by {split}" + (f", {seeds} seeds together" * (seeds > 1))
        section.blocks += block_makers.confusion_blocks(counts, datasets[split].classes, title)
    return section


def _comparison(
    found: _Found, datasets: Mapping[str, Dataset], parameters: Mapping[str, int | None]
) -> Section:
    rows = [
        [*_line(name, found, datasets, parameters), block_makers.percent(plan.ACCURACY.get(name))]
        for name in plan.COMPARED
    ]
    head = ["method", "parameters", *(f"accuracy, by {split}" for split in datasets), "paper"]
    caption = "Accuracy on test in %; the paper's numbers are on its own data"
    return Section("Table 4: comparison", [Table(caption, head, rows)])


def _ablations(
    found: _Found,
    datasets: Mapping[str, Dataset],
    parameters: Mapping[str, int | None],
    names: Sequence[str],
) -> Section:
    variants = [name for name in names if name not in plan.COMPARED]
    if not variants:
        return Section("Variants of the method")
    rows = [_line(name, found, datasets, parameters) for name in (plan.PROPOSED, *variants)]
    head = ["variant", "parameters", *(f"accuracy, by {split}" for split in datasets)]
    caption = "The proposed network, and variants that differ in one aspect; accuracy on test in %"
    return Section("Variants of the method", [Table(caption, head, rows)])


def _line(
    name: str,
    found: _Found,
    datasets: Mapping[str, Dataset],
    parameters: Mapping[str, int | None],
) -> list[str]:
    count = parameters.get(name)
    cells = [name, "" if count is None else f"{count:,}"]
    for split in datasets:
        runs = found.get((name, split))
        cells.append(_spread(runs.accuracies) if runs else "failed")
    return cells


def _curves(found: _Found, split: str, names: Sequence[str]) -> Section:
    section = Section("Figure 7: accuracy in training")
    for key, title in (("val_accuracy", "on val"), ("accuracy", "on training batches")):
        lines = {}
        for name in (n for n in names if n in plan.COMPARED):
            runs = found.get((name, split))
            line = (
                block_makers.curve(block_makers.read_metrics(runs.workdirs[0]), key) if runs else []
            )
            if line:
                # In % of the training: the networks train for different numbers of epochs.
                end = max(x for x, _ in line)
                lines[name] = [(100 * x / end, y) for x, y in _smoothed(line)]
        if lines:
            ends = ", ".join(f"{name} ends at {line[-1][1]:.3f}" for name, line in lines.items())
            caption = f"Accuracy {title}, first seed, divided by {split}"
            image = charts.curves(lines, "% of the training", "accuracy")
            section.blocks.append(Figure(caption, f"Curves: {ends}", image))
    return section


def _smoothed(line: list[tuple[float, float]], points: int = 60) -> list[tuple[float, float]]:
    """Averages neighbors, down to at most `points`: single batches are noisy."""
    size = -(-len(line) // points)
    groups = [line[i : i + size] for i in range(0, len(line), size)]
    return [(group[-1][0], float(np.mean([y for _, y in group]))) for group in groups]


def _speed(speed: Mapping[str, Any] | None) -> Section:
    if speed is None:
        return Section("Speed")
    pose = f"with the pose network {speed['pose']}" if speed["pose"] else "without a pose network"
    rows = [[n, f"{value:.2f}"] for n, value in speed["frames_per_second"].items()]
    caption = (
        f"Frames of 640 x 480 per second at batch size 1, {pose}, on {speed['machine']}; the "
        f"paper: {plan.FRAMES_PER_SECOND} for the whole pipeline on a Tesla P4"
    )
    return Section("Speed", [Table(caption, ["people in the image", "frames per second"], rows)])


def _mistakes(found: _Found, datasets: Mapping[str, Dataset], split: str) -> Section:
    section = Section("Misclassified examples")
    runs = found.get((plan.PROPOSED, split))
    if runs and runs.evaluations[0]["mistakes"]:
        caption = (
            f"The proposed network, first seed, divided by {split}: its most confident mistakes, "
            "with true class, guess and the guess's probability"
        )
        source = datasets[split].source("test")
        gallery = block_makers.mistake_gallery(runs.evaluations[0]["mistakes"], source, caption)
        section.blocks += [gallery] if gallery.figures else []
    return section


def _leak(found: _Found, names: Sequence[str]) -> Section:
    rows = []
    for name in names:
        frame, video = found.get((name, "frame")), found.get((name, "video"))
        if frame and video:
            gain = 100 * (np.mean(frame.accuracies) - np.mean(video.accuracies))
            rows.append(
                [name, _spread(video.accuracies), _spread(frame.accuracies), f"{gain:+.1f}"]
            )
    caption = "Gain from having frames of the test videos in training, in points"
    head = ["variant", "by video", "by frame", "gain"]
    return Section("The leak of frame splits", [Table(caption, head, rows)] if rows else [])
