"""Sweeps: variants of an experiment, trained on data sets with several seeds, in one table."""

import ast
import itertools
import json
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jdance import config as defaults
from jdance import files, models
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.progress import Progress
from jdance.train import experiment, loop, results, tasks

_SET_BY_FLAGS = {"seed": "--seeds and --config.seed, the first", "data.dir": "--data"}


class Variant(NamedTuple):
    """A named change of a configuration.

    Attributes:
        name: unique in a sweep.
        changes: by key, such as {"model.attention": 1}.
        config: to be changed instead of the sweep's.
    """

    name: str
    changes: dict[str, Any]
    config: ConfigDict | None = None


def parse_variants(vary: Sequence[str], named: Sequence[str] = ()) -> list[Variant]:
    """Parses the flags --vary and --variant.

    Args:
        vary: each "KEY=VALUE,VALUE,..."; all combinations are variants. ~ at the start of a value
            is the home folder.
        named: each "NAME KEY=VALUE KEY=VALUE ...", one further variant.

    Raises:
        UserError: a syntax error, or two variants with one name.
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
        name, *words = text.split() or [""]
        pairs = [word.partition("=") for word in words]
        if not name or not all(equals for _, equals, _ in pairs):
            raise UserError(f"--variant={text}: expected NAME KEY=VALUE KEY=VALUE ...")
        result.append(Variant(name, {key: _value(value) for key, _, value in pairs}))
    result = result or [Variant("as it is", {})]
    names = [_folder_name(variant.name) for variant in result]
    if len(set(names)) < len(names):
        raise UserError(f"two variants have the same name: {', '.join(names)}; rename one")
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
        return os.path.expanduser(text)


def apply_variant(config: ConfigDict, variant: Variant) -> ConfigDict:
    """Returns the configuration of a variant.

    Raises:
        UserError: an unknown key, or a value of another type.
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
    variants: Sequence[Variant],
    data: Sequence[str],
    seeds: int,
    output: Path,
    *,
    split: str = "test",
    views: int = 1,
    ensembles: bool = True,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Trains and evaluates all variants; finished runs are not repeated.

    Args:
        config: the experiment that the variants change.
        variants: to compare.
        data: folders of data sets.
        seeds: their number, counted from `config.seed`.
        output: receives the runs OUTPUT/VARIANT/DATA/seed-N; DATA is the name of the data set's
            folder, with a digest of its path if several have the same name.
        split: to evaluate on.
        views: of test-time augmentation.
        ensembles: whether to evaluate the ensemble of each variant's seeds, too.

    Returns:
        For each variant a row: variant, parameters, runs (data, seed, workdir, score, score_views
        and seconds of each) and ensembles (score by data set); and a line for each failed run.
    """
    configs = [apply_variant(config, variant) for variant in variants]
    counts = Counter(_data_name(folder) for folder in dict.fromkeys(data))
    progress = Progress("sweep", len(configs) * len(data) * seeds)
    rows, failures, count = [], [], 0
    for variant, variant_config in zip(variants, configs, strict=True):
        row: dict[str, Any] = {"variant": variant.name, "parameters": None}
        row |= {"runs": [], "ensembles": {}}
        for folder in data:
            unique = counts[_data_name(folder)] == 1
            name = _data_name(folder) if unique else results.short_name(folder)
            parent = output / _folder_name(variant.name) / name
            finished = []
            for seed in range(config.seed, config.seed + seeds):
                run_config = variant_config.copy_and_resolve_references()
                run_config.seed, run_config.data.dir = seed, folder
                workdir = parent / f"seed-{seed}"
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
    """Trains and evaluates a run, or returns its stored result."""
    path = workdir / f"sweep_{split}_{views}.json"
    data = Dataset(config.data.dir, tasks.data_kind(config))
    fingerprint = data.fingerprint()
    if path.exists():
        done = json.loads(path.read_text())
        stored = experiment.restored(done.pop("config"))
        if changed := experiment.difference(stored, config, may_continue=False):
            raise UserError(f"{path}: of another configuration ({changed}); use another --output")
        before = done.pop("data", "") or experiment.fingerprint(workdir)
        if before not in ("", fingerprint):
            raise UserError(f"{path}: of other data than {data.name} holds; use another --output")
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
    _write(path, done | {"config": config.to_dict(), "data": fingerprint})
    jax.clear_caches()  # free the compiled programs of this network
    return done


def _ensemble(workdirs: list[Path], split: str, views: int) -> float:
    path = workdirs[0].parent / f"ensemble_{split}_{views}.json"
    names = [workdir.name for workdir in workdirs]
    data = experiment.fingerprint(workdirs[0])
    if path.exists():
        done = json.loads(path.read_text())
        if done["runs"] == names and done.get("data", data) == data:
            return done["score"]
    result, _ = results.evaluate(workdirs, split, views=views)
    _write(path, {"runs": names, "data": data, "score": _score(result)})
    jax.clear_caches()
    return _score(result)


def _score(result: dict[str, Any]) -> float:
    return result["AP"] if "AP" in result else result["accuracy"]


def _write(path: Path, content: Any) -> None:
    files.atomic_write(path, json.dumps(content, indent=2) + "\n")


def _data_name(folder: str) -> str:
    return _folder_name(Path(folder).name)


def _folder_name(text: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", text)


def table(rows: Sequence[dict[str, Any]], views: int = 1) -> str:
    """Formats the rows of `sweep` as a Markdown table.

    Scores are means over data sets and seeds, ± the standard deviation over seeds. Scores of single
    data sets use all views.
    """
    data = list(dict.fromkeys(run["data"] for row in rows for run in row["runs"]))
    several_seeds = any(row["ensembles"] for row in rows)
    head = ["variant", "parameters", "score"]
    head += [f"with {views} views"] * (views > 1) + ["ensemble of its seeds"] * several_seeds
    names = [Path(folder).name for folder in data]
    if len(set(names)) < len(names):
        names = data
    head += names * (len(data) > 1) + ["seconds a run"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        runs = row["runs"]
        if not runs:
            lines.append([row["variant"], "", "failed"] + [""] * (len(head) - 3))
            continue
        complete = _complete(runs, len(data))
        cells = [row["variant"], f"{row['parameters']:,}", _mean(complete, "score")]
        if views > 1:
            cells.append(_mean(complete, "score_views"))
        if several_seeds:
            scores = list(row["ensembles"].values())
            cells.append(f"{np.mean(scores):.3f}" if scores else "failed")
        if len(data) > 1:
            by_data = [[r["score_views"] for r in runs if r["data"] == folder] for folder in data]
            cells += [f"{np.mean(scores):.3f}" if scores else "failed" for scores in by_data]
        cells.append(f"{np.mean([run['seconds'] for run in runs]):.0f}")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _complete(runs: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The runs of seeds that have one for each of `count` data sets: only their means compare."""
    numbers = Counter(run["seed"] for run in runs)
    return [run for run in runs if numbers[run["seed"]] == count]


def _mean(runs: Sequence[dict[str, Any]], key: str) -> str:
    if not runs:
        return "incomplete"
    seeds = dict.fromkeys(run["seed"] for run in runs)
    scores = [np.mean([run[key] for run in runs if run["seed"] == seed]) for seed in seeds]
    if len(scores) == 1:
        return f"{scores[0]:.3f}"
    return f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}"


def check(
    config: ConfigDict,
    variants: Sequence[Variant],
    data: Sequence[str] = (),
    split: str = "test",
    views: int = 1,
) -> None:
    """Checks the arguments of `sweep` before any variant is trained.

    Raises:
        UserError: an invalid variant, a data set without the split, or views of a pose network.
    """
    for variant in variants:
        for key, flags in _SET_BY_FLAGS.items():
            if key in variant.changes:
                raise UserError(f"{variant.name}: the sweep sets {key} itself; use {flags}")
        variant_config = apply_variant(config, variant)
        if "model.attention" in variant.changes and variant_config.model.attention_block:
            raise UserError(
                f"{variant.name}: model.attention has no effect with model.attention_block="
                f"{variant_config.model.attention_block}; set that to '' in this variant"
            )
        classes = [str(number) for number in range(variant_config.model.get("classes", 0))]
        try:
            experiment.check(tasks.make(variant_config, classes))
        except UserError as error:
            raise UserError(f"{variant.name}: {error}") from error
    if views > 1 and config.task == "pose":
        raise UserError(f"--views={views}: only motion networks have views; leave it out")
    for folder in data:
        Dataset(folder, tasks.data_kind(config)).source(split)
