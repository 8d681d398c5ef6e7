"""The report of one run: DIR/report.html."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from jdance.data import records
from jdance.errors import UserError
from jdance.report import blocks, charts, html
from jdance.report.html import Figure, Section, Table, Text
from jdance.train import baselines, experiment


def write(workdir: Path, output: Path | None = None) -> Path:
    """Writes report.html from the files of training and evaluation.

    Args:
        workdir: folder of the run.
        output: folder of the evaluation results and of the report; None: the run's.

    Returns:
        Path of the report.

    Raises:
        UserError: the folder holds no run.
    """
    config, _ = experiment.read(workdir)
    output = output or workdir
    results = {
        path.stem.removeprefix("eval_"): _read(path) for path in sorted(output.glob("eval_*.json"))
    }
    sections = [_training(workdir)]
    for name, result in results.items():
        sections.append(_evaluation(name, result, config.data.dir))
    flat = flatten_dict(config.to_dict(), sep=".")
    sections.append(
        Section(
            "Configuration",
            [Table("Configuration of training", ["key", "value"],
                   [[key, str(value)] for key, value in sorted(flat.items())])],
        )
    )  # fmt: skip
    path = output / "report.html"
    path.write_text(html.to_html(f"Run {workdir.resolve().name}", sections))
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: is damaged ({error}); run launch/evaluate.py again") from error


def _training(workdir: Path) -> Section:
    rows = blocks.read_metrics(workdir)
    if not rows:
        return Section("Training", [Text("No step has been logged yet.")])
    last = max(row["step"] for row in rows)
    section = Section("Training", [Text(f"{last:,.0f} steps.")])
    names = {"accuracy": "training batches", "category_accuracy": "training batches, categories",
             "val_accuracy": "val", "val_AP": "AP on val"}  # fmt: skip
    lines = {title: line for key, title in names.items() if (line := blocks.curve(rows, key))}
    if lines:
        ends = ", ".join(f"{title} ends at {line[-1][1]:.3f}" for title, line in lines.items())
        chart = charts.curves(lines, "epoch", "accuracy")
        section.blocks.append(Figure("Accuracy in training", f"Curves: {ends}", chart))
    return section


def _evaluation(name: str, result: Mapping[str, Any], folder: str) -> Section:
    section = Section(f"Evaluation on {name}")
    if "data" in result:
        section.blocks.append(Text(_describe(result)))
    if "confusion" not in result:
        rows = [[key, f"{value:.4f}"] for key, value in result.items() if isinstance(value, float)]
        section.blocks.append(Table("COCO key-point metrics", ["metric", "value"], rows))
        return section
    # Results of earlier versions have no intervals.
    accuracy = blocks.percent_interval(result["accuracy"], result.get("interval"))
    method = f" ({result['interval_method']})" if "interval_method" in result else ""
    section.blocks.append(
        Text(
            f"Accuracy in %, with 95 % interval{method}: {accuracy} of {result['n']} examples; "
            f"mean over the classes {blocks.percent(result['mean_class_accuracy'])}."
        )
    )
    if "baselines" in result:
        section.blocks += _baselines(result)
    rows = [
        [c, str(own["n"]), blocks.percent_interval(own["accuracy"], own.get("interval"))]
        for c, own in result["per_class"].items()
    ]
    head = ["class", "examples", "accuracy in % (95 % interval)"]
    section.blocks.append(Table("Accuracy of each class", head, rows))
    section.blocks += blocks.confusion_blocks(
        np.array(result["confusion"]), list(result["per_class"]), name
    )
    if result.get("mistakes"):
        try:
            source = records.Dataset(result.get("data") or folder).source(result["split"])
        except UserError:  # the data set was moved or deleted: no images
            return section
        caption = "Most confident mistakes: true class, prediction, probability"
        gallery = blocks.mistake_gallery(result["mistakes"], source, caption)
        if gallery.figures:
            section.blocks.append(gallery)
    return section


def _baselines(result: Mapping[str, Any]) -> list[html.Block]:
    """The comparison with the baselines: a sentence and a table."""
    found, show = result["baselines"], blocks.percent_interval
    rows = [["network", show(result["accuracy"], result["interval"]), ""]]
    for name, own in found["methods"].items():
        difference = show(own["difference"], own["difference_interval"])
        name = baselines.label(name, found)
        rows.append([name, show(own["accuracy"], own["interval"]), difference])
    sentence = baselines.sentence(result, blocks.percent_brackets)
    caption = (
        f"Baselines on key points ({found['features']}), fitted on {found['train']['n']} training "
        "examples and compared on the same examples as the network; in %, with 95 % intervals"
    )
    return [
        Text(f"{sentence[0].upper()}{sentence[1:]}."),
        Table(caption, ["classifier", "accuracy", "network minus this"], rows),
    ]


def _describe(result: Mapping[str, Any]) -> str:
    """Describes what was evaluated: split, views, checkpoint, step, calibration."""
    runs = result.get("runs", [result])
    steps = [run["step"] for run in runs if "step" in run]
    fitted = dict.fromkeys(run["calibration"]["split"] for run in runs if "calibration" in run)
    sentences = [
        f"Split {result['split']} of {result['data']}",
        f"run {Path(result['workdir']).name}" if "workdir" in result else "",
        f"{result['views']} view{'s' * (result['views'] > 1)}" if "views" in result else "",
        f"without joints: {result['drop_joints']}" if result.get("drop_joints") else "",
        f"checkpoint {result['checkpoint']}" if "checkpoint" in result else "",
        f"step {', '.join(f'{step:,}' for step in steps)}" if steps else "",
        f"weights of the branches fitted on {', '.join(fitted)}" if fitted else "",
    ]
    return "; ".join(filter(None, sentences)) + "."
