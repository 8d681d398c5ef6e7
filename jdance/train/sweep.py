"""Variants of an experiment, each trained with several seeds on several data sets, in one table."""

import ast
import itertools
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jdance import config as defaults
from jdance import files, models
from jdance.errors import UserError
from jdance.progress import Progress
from jdance.train import experiment, loop, results, tasks


class Variant(NamedTuple):
    """A name, and what it changes in the configuration: {"model.attention": 1}.

    `config` is the configuration that it changes, where it is another one than the comparison's.
    """

    name: str
    changes: dict[str, Any]
    config: ConfigDict | None = None


def variants(vary: Sequence[str], named: Sequence[str] = ()) -> list[Variant]:
    """Reads what is to be compared.

    Args:
        vary: "KEY=VALUE,VALUE,...", each; with several of them every combination is a variant.
        named: "NAME KEY=VALUE KEY=VALUE ...", each a further variant.

    Raises:
        UserError: one of them is something else.
    """
    axes = []
    for text in vary:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise UserError(f"--vary={text}: expected KEY=VALUE,VALUE,...")
        axes.append([(key, value) for value in _values(values)])
    result = []
    for changes in itertools.product(*axes) if axes else []:
        name = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in changes)
        result.append(Variant(name, dict(changes)))
    for text in named:
        name, *words = text.split()
        pairs = [word.partition("=") for word in words]
        if not all(equals for _, equals, _ in pairs):
            raise UserError(f"--variant={text}: expected NAME KEY=VALUE KEY=VALUE ...")
        result.append(Variant(name, {key: _value(value) for key, _, value in pairs}))
    result = result or [Variant("as it is", {})]
    names = [_folder_name(variant.name) for variant in result]
    if len(set(names)) < len(names):
        raise UserError(f"two variants are called the same: {', '.join(names)}")
    return result


def _values(text: str) -> list[Any]:
    try:
        return list(ast.literal_eval(f"[{text}]"))
    except (ValueError, SyntaxError):
        return [_value(word) for word in text.split(",")]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def configured(config: ConfigDict, variant: Variant) -> ConfigDict:
    """The configuration of a variant.

    Raises:
        UserError: a key that the configuration does not have, or a value of another type.
    """
    base = config if variant.config is None else variant.config
    result = base.copy_and_resolve_references()
    for key, value in variant.changes.items():
        try:
            defaults.check_key(config, key)
            result.update_from_flattened_dict({key: value})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{key}={value}: {str(error.args[0]).splitlines()[0]}") from error
    return result


def sweep(
    config: ConfigDict,
    chosen: Sequence[Variant],
    data: Sequence[str],
    seeds: int,
    output: Path,
    *,
    split: str = "test",
    views: int = 1,
    ensembles: bool = True,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Trains and judges what is not done yet.

    Args:
        config: the experiment that the variants change.
        chosen: the variants.
        data: folders of data sets.
        seeds: how many, from `config.seed` on.
        output: gets a run's folder OUTPUT/VARIANT/DATA/seed-N for each.
        split: which part of the data sets judges.
        views: of test-time augmentation.
        ensembles: whether all seeds of a variant are judged together, too.

    Returns:
        A row for each variant, dictionaries with `variant`, `parameters`, `runs` (each run's data,
        seed, workdir, score, score_views, seconds), `ensembles` (the score of all seeds together,
        by data set); and a line for each run that failed.

    Raises:
        UserError: the output belongs to another comparison.
    """
    configs = [configured(config, variant) for variant in chosen]
    every_seed = [config.seed + number for number in range(seeds)]
    progress = Progress("sweep", len(configs) * len(data) * seeds)
    rows, failures, count = [], [], 0
    for variant, its_config in zip(chosen, configs, strict=True):
        row: dict[str, Any] = {"variant": variant.name, "parameters": None}
        row |= {"runs": [], "ensembles": {}}
        for folder in data:
            place = output / _folder_name(variant.name) / _folder_name(Path(folder).name)
            finished = []
            for seed in every_seed:
                run_config = its_config.copy_and_resolve_references()
                run_config.seed, run_config.data.dir = seed, folder
                workdir = place / f"seed-{seed}"
                progress.say(f"{variant.name}, {folder}, seed {seed}")
                try:
                    done = _run(run_config, workdir, split, views)
                    row["parameters"] = done.pop("parameters")
                    run = {"data": folder, "seed": seed, "workdir": str(workdir), **done}
                    row["runs"].append(run)
                    finished.append(workdir)
                except UserError as error:
                    failures.append(f"{variant.name}, {folder}, seed {seed}: {error}")
                count += 1
                progress.update(count)
            if ensembles and len(finished) > 1 and config.task == "motion":
                row["ensembles"][folder] = _ensemble(finished, split, views)
        rows.append(row)
    return rows, failures


def _run(config: ConfigDict, workdir: Path, split: str, views: int) -> dict[str, Any]:
    """What a run reached, from its folder if it was done before."""
    path = workdir / f"sweep_{split}_{views}.json"
    wanted = json.loads(json.dumps(config.to_dict()))
    if path.exists():
        done = json.loads(path.read_text())
        if done.pop("config") != wanted:
            raise UserError(f"{path}: of another configuration; use another --output")
        return done
    start = time.monotonic()
    loop.train(config, workdir)
    seconds = time.monotonic() - start
    plain, _ = results.evaluate([workdir], split)
    with_views = results.evaluate([workdir], split, views=views)[0] if views > 1 else plain
    _, _, variables = loop.load(workdir)
    done = {
        "score": _score(plain),
        "score_views": _score(with_views),
        "seconds": round(seconds, 1),
        "parameters": models.count_parameters(variables),
    }
    _write(path, done | {"config": wanted})
    jax.clear_caches()  # programs of a network that is not needed again
    return done


def _ensemble(workdirs: list[Path], split: str, views: int) -> float:
    path = workdirs[0].parent / f"ensemble_{split}_{views}.json"
    names = [workdir.name for workdir in workdirs]
    if path.exists():
        done = json.loads(path.read_text())
        if done["runs"] == names:
            return done["score"]
    result, _ = results.evaluate(workdirs, split, views=views)
    _write(path, {"runs": names, "score": _score(result)})
    jax.clear_caches()
    return _score(result)


def _score(result: dict[str, Any]) -> float:
    return result["AP"] if "AP" in result else result["accuracy"]


def _write(path: Path, content: Any) -> None:
    files.atomic_write(path, json.dumps(content, indent=2) + "\n")


def _folder_name(text: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", text)


def table(rows: Sequence[dict[str, Any]], views: int = 1) -> str:
    """The rows of `sweep` in Markdown.

    A score is the mean over data sets, then over seeds; after it comes the standard deviation over
    seeds. The score for each data set is that with all views.
    """
    data = list(dict.fromkeys(run["data"] for row in rows for run in row["runs"]))
    several_seeds = any(row["ensembles"] for row in rows)
    head = ["variant", "parameters", "score"]
    head += [f"with {views} views"] * (views > 1) + ["ensemble of its seeds"] * several_seeds
    head += [Path(folder).name for folder in data] * (len(data) > 1) + ["seconds a run"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        runs = row["runs"]
        if not runs:
            lines.append([row["variant"], "", "failed"] + [""] * (len(head) - 3))
            continue
        cells = [row["variant"], f"{row['parameters']:,}", _mean(runs, "score")]
        if views > 1:
            cells.append(_mean(runs, "score_views"))
        if several_seeds:
            cells.append(f"{np.mean(list(row['ensembles'].values())):.3f}")
        if len(data) > 1:
            by_data = [[r["score_views"] for r in runs if r["data"] == folder] for folder in data]
            cells += [f"{np.mean(scores):.3f}" if scores else "failed" for scores in by_data]
        cells.append(f"{np.mean([run['seconds'] for run in runs]):.0f}")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _mean(runs: Sequence[dict[str, Any]], key: str) -> str:
    seeds = dict.fromkeys(run["seed"] for run in runs)
    scores = [np.mean([run[key] for run in runs if run["seed"] == seed]) for seed in seeds]
    if len(scores) == 1:
        return f"{scores[0]:.3f}"
    return f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}"


def check(config: ConfigDict, chosen: Sequence[Variant]) -> None:
    """Raises UserError for a variant with which nothing can be trained, before any is."""
    for variant in chosen:
        its_config = configured(config, variant)
        classes = [str(number) for number in range(its_config.model.get("classes", 0))]
        try:
            experiment.check(tasks.make(its_config, classes))
        except UserError as error:
            raise UserError(f"{variant.name}: {error}") from error
