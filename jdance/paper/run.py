"""Runs a reproduction: training, evaluation, speed, and the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jdance import files
from jdance.data import resplit
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.paper import plan, speed, tables
from jdance.recognize.recognizer import Recognizer
from jdance.report import html
from jdance.train import sweep
from jdance.train.sweep import Variant

_TITLE = "Reproduction of Shen, Jiang and Teng (2021)"


def reproduce(
    config: ConfigDict,
    variants: Sequence[Variant],
    data: str | Path,
    output: Path,
    splits: Sequence[str],
    seeds: int,
    pose: str = "",
    note: str = "",
) -> list[str]:
    """Trains all variants and writes OUTPUT/report.html and tables.md; finished runs are kept.

    Args:
        config: the method's configuration.
        variants: to train, see `plan.variants`.
        data: a prepared data set of stills, or its address.
        output: receives runs/, data/ and the report.
        splits: "video", "frame" or both.
        seeds: number of runs of each variant.
        pose: pose network to include in the speed measurement; "": none.
        note: a sentence for the report's first section.

    Returns:
        A line for each failed run.

    Raises:
        UserError: the data set is unusable, or the output belongs to other data.
    """
    dataset = Dataset(data)
    if dataset.sequences:
        raise UserError(f"{data}: holds sequences; the paper's comparison needs stills")
    for split in ("train", "val", "test"):
        dataset.source(split)
    sweep.check(config, variants)
    output.mkdir(parents=True, exist_ok=True)
    folders = {name: _split_folder(dataset, output, name) for name in splits}
    rows, failures = sweep.sweep(
        config, variants, list(folders.values()), seeds, output / "runs", ensembles=False
    )
    files.atomic_write(output / "results.json", json.dumps(rows, indent=2) + "\n")
    datasets = {name: Dataset(folder) for name, folder in folders.items()}
    measured = _speed(rows, output, pose)
    sections = tables.sections(rows, datasets, failures, measured, variants, note)
    files.atomic_write(output / "report.html", html.to_html(_TITLE, sections))
    files.atomic_write(output / "tables.md", html.to_markdown(_TITLE, sections))
    return failures


def _split_folder(dataset: Dataset, output: Path, by: str) -> str:
    """Folder of the data set split by video or by frame."""
    if by == "video" and not resplit.count_leaking_groups(dataset):
        return str(dataset.folder)
    folder, origin_file = output / "data" / by, output / "data" / f"{by}.json"
    if (folder / "dataset.json").exists():
        if json.loads(origin_file.read_text()) != dataset.fingerprint():
            raise UserError(f"{folder}: was made from other data; use another --output")
        return str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.atomic_write(origin_file, json.dumps(dataset.fingerprint()))
    resplit.resplit(dataset, folder, by, seed=0)
    return str(folder)


def _speed(rows: Sequence[dict[str, Any]], output: Path, pose: str) -> dict[str, Any] | None:
    """The method's speed on this machine, measured once; None if its training failed."""
    path = output / "speed.json"
    setting = {"machine": speed.machine(), "pose": pose}
    if path.exists():
        done = json.loads(path.read_text())
        if done.items() >= setting.items():
            return done
    runs = next(row["runs"] for row in rows if row["variant"] == plan.PROPOSED)
    if not runs:
        return None
    recognizer = Recognizer.load(runs[0]["workdir"], pose or None)
    done = setting | {"frames_per_second": speed.frames_per_second(recognizer)}
    files.atomic_write(path, json.dumps(done, indent=2) + "\n")
    return done
