"""Sweeps over variants, and the documented example of a custom attention block."""

import json
import re
import shutil
import signal
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, tiny_config, tiny_source
from programs import Script, program
from test_sequences import clips

from jdance import config as defaults
from jdance import models
from jdance.data.prepare import prepare
from jdance.data.records import Dataset
from jdance.data.sources import open_source
from jdance.errors import UserError
from jdance.train import loop, sweep


@pytest.fixture(scope="module")
def clip_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    np.savez(folder / "clips.npz", **clips(48))
    prepare(open_source(str(folder / "clips.npz"), split_column="split2"), folder / "data", None)
    return folder / "data"


def test_variants_are_parsed():
    found = sweep.parse_variants(
        ["model.attention=-1,1", "optimizer.name=sgd,adamw"],
        ["wide model.width=8 model.fusion_widths=(8,)"],
    )
    assert [v.name for v in found] == [
        "attention=-1 name=sgd", "attention=-1 name=adamw", "attention=1 name=sgd",
        "attention=1 name=adamw", "wide",
    ]  # fmt: skip
    assert found[1].changes == {"model.attention": -1, "optimizer.name": "adamw"}
    assert found[4].changes == {"model.width": 8, "model.fusion_widths": (8,)}
    config = tiny_config("x")
    changed = sweep.apply_variant(config, found[4])
    assert changed.model.fusion_widths == (8,) and config.model.fusion_widths == (16,)


def test_home_folder_in_a_variant_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/dancer")
    found = sweep.parse_variants(["init_from=~/runs/a,dance6"], ["b init_from=~/runs/b"])
    assert [v.changes["init_from"] for v in found] == [
        "/home/dancer/runs/a", "dance6", "/home/dancer/runs/b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("vary", "named", "message"),
    [
        (["model.attention"], [], "expected KEY=VALUE"),
        ([], ["wide model.width"], "expected NAME KEY=VALUE"),
        ([], [""], "expected NAME KEY=VALUE"),
        (
            [],
            ["none model.attention=-1 model.attention_block=a.py:A"],
            "none: model.attention has no effect with model.attention_block=a.py:A",
        ),
        (["model.depth=3"], [], "model.depth=3"),
        (["model.width=wide"], [], "model.width=wide"),
        (["model.attention=1,7"], [], "attention=7: --config: model.attention=7"),
        (["model.width=4,4"], [], "have the same name"),
        (["seed=0,7"], [], "seed=0: the sweep sets seed itself; use --seeds"),
        ([], ["other data.dir=elsewhere"], "other: the sweep sets data.dir itself; use --data"),
    ],
)
def test_mistakes_are_found_before_training(vary, named, message):
    with pytest.raises(UserError, match=re.escape(message)):
        sweep.check(tiny_config("x"), sweep.parse_variants(vary, named))


def test_data_and_views_are_checked_before_training(tiny_data):
    motion, chosen = tiny_config(tiny_data), sweep.parse_variants([])
    sweep.check(motion, chosen, [str(tiny_data)], "val", 2)
    with pytest.raises(UserError, match="no examples in split 'test'; it has train, val"):
        sweep.check(motion, chosen, [str(tiny_data)])
    with pytest.raises(UserError, match="no such file; make the data set"):
        sweep.check(motion, chosen, [str(tiny_data), "missing"], "val")
    with pytest.raises(UserError, match="--views=2: only motion networks have views"):
        sweep.check(defaults.pose(), chosen, [str(tiny_data)], "val", 2)
    with pytest.raises(UserError, match="holds persons, not people"):
        sweep.check(defaults.pose(), chosen, [str(tiny_data)], "val")


def test_finished_runs_are_not_repeated(tiny_data, tmp_path, monkeypatch):
    config = tiny_config(tiny_data)
    config.model.branches = "keypoints"
    config.epochs = 1.0
    chosen = sweep.parse_variants(["model.features=fused18,pos18"])
    arguments = dict(split="val", views=2)
    rows, failures = sweep.sweep(config, chosen, [str(tiny_data)], 2, tmp_path, **arguments)
    assert not failures and [row["variant"] for row in rows] == [
        "features=fused18",
        "features=pos18",
    ]
    # A run without its result file is repeated.
    (tmp_path / "features=pos18" / tiny_data.name / "seed-1" / "sweep_val_2.json").unlink()
    trained = []
    train = sweep.loop.train
    monkeypatch.setattr(sweep.loop, "train", lambda c, w: trained.append(w.name) or train(c, w))
    again, _ = sweep.sweep(config, chosen, [str(tiny_data)], 2, tmp_path, **arguments)
    assert trained == ["seed-1"]
    for row, before in zip(again, rows, strict=True):
        for a, b in zip(row["runs"], before["runs"], strict=True):
            assert a | {"seconds": 0} == b | {"seconds": 0}
        assert row["ensembles"] == before["ensembles"]
    other = sweep.parse_variants(["model.features=pos18"])
    for key, value in {"batch_size": 4, "epochs": 2.0}.items():
        changed = config.copy_and_resolve_references()
        changed[key] = value
        _, failures = sweep.sweep(changed, other, [str(tiny_data)], 1, tmp_path, **arguments)
        assert "of another configuration" in failures[0] and f", not {value}" in failures[0]
    # What a run may change, a finished one may, too; data may move, and jdance gets new keys.
    moved = tmp_path / "moved" / tiny_data.name
    shutil.copytree(tiny_data, moved)
    config.data.threads, config.log_every = 2, 10
    path = tmp_path / "features=pos18" / tiny_data.name / "seed-0" / "sweep_val_2.json"
    content = json.loads(path.read_text())
    del content["config"]["steps_per_dispatch"]
    path.write_text(json.dumps(content))
    _, failures = sweep.sweep(config, other, [str(moved)], 2, tmp_path, **arguments)
    assert failures == [] and trained == ["seed-1"]
    shutil.rmtree(moved)
    prepare(tiny_source(40), moved, None)
    _, failures = sweep.sweep(config, other, [str(moved)], 1, tmp_path, **arguments)
    assert "of other data than" in failures[0] and trained == ["seed-1"]


def test_data_sets_of_one_name_have_separate_folders(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        sweep, "_run", lambda c, workdir, *a: trained.append(workdir) or {"parameters": 1}
    )
    monkeypatch.chdir(tmp_path)
    data = ["a/data", "b/data", "c/other"]
    chosen = sweep.parse_variants([])
    sweep.sweep(tiny_config("x"), chosen, data, 1, tmp_path, ensembles=False)
    names = [workdir.parent.name for workdir in trained]
    assert len(set(names)) == 3 and names[2] == "other"
    assert all(re.fullmatch("data-[0-9a-f]{8}", name) for name in names[:2])
    trained.clear()
    absolute = [str(tmp_path / "b/data"), "a/data"]
    sweep.sweep(tiny_config("x"), chosen, absolute, 1, tmp_path, ensembles=False)
    assert [workdir.parent.name for workdir in trained] == [names[1], names[0]]
    trained.clear()
    sweep.sweep(tiny_config("x"), chosen, ["a/data"], 1, tmp_path, ensembles=False)
    assert trained[0].parent.name == "data"


def test_results_of_other_data_are_refused(tmp_path):
    """The data set was prepared again, in the same folder, between two sweeps."""
    data, source = tmp_path / "data", tiny_source()
    prepare(source, data, None)
    config = tiny_config(data)
    config.model.branches = "keypoints"
    config.epochs = 1.0
    arguments = config, sweep.parse_variants([]), [str(data)]
    rows, failures = sweep.sweep(*arguments, 2, tmp_path / "out", split="val")
    assert not failures and len(rows[0]["runs"]) == 2
    shutil.rmtree(data)
    items = [
        replace(item, split="val" if i % 3 else "train") for i, item in enumerate(source.items)
    ]
    prepare(replace(source, items=items), data, None)
    rows, failures = sweep.sweep(*arguments, 2, tmp_path / "out", split="val")
    assert not rows[0]["runs"] and not rows[0]["ensembles"]
    assert all("of other data than" in line for line in failures) and len(failures) == 2
    for run in tmp_path.glob("out/*/*/seed-*"):  # the ensemble of the former runs remains
        shutil.rmtree(run)
    sweep.sweep(*arguments, 2, tmp_path / "out", split="val")
    (path,) = tmp_path.glob("out/*/*/ensemble_val_1.json")
    assert json.loads(path.read_text())["data"] == Dataset(data).fingerprint()


def test_table():
    def row(name, scores, ensembles):
        runs = [
            dict(data=f"d/{d}", seed=s, score=x, score_views=x + 0.1, seconds=7.0)
            for (d, s), x in zip([("a", 0), ("b", 0), ("a", 1), ("b", 1)], scores, strict=False)
        ]
        return dict(variant=name, parameters=1234, runs=runs, ensembles=ensembles)

    text = sweep.table(
        [row("x", [0.1, 0.3, 0.3, 0.5], {"d/a": 0.6, "d/b": 0.7}), row("y", [], {})], views=5
    )
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    # Seed 0 has the mean 0.2, seed 1 0.4: sample deviation 0.1414.
    assert lines[2] == ["x", "1,234", "0.300 ± 0.141", "0.400 ± 0.141", "0.650", "0.300", "0.500",
                        "7"]  # fmt: skip
    assert lines[3][:3] == ["y", "", "failed"] and len({len(line) for line in lines}) == 1
    # Seed 1 failed on b: only seed 0 has a mean over both.
    lines = sweep.table([row("z", [0.9, 0.5, 0.9], {})]).splitlines()
    assert lines[2].startswith("| z | 1,234 | 0.700 |")
    # A seed of y failed, and the data sets have the same name.
    rows = [row("x", [0.1] * 4, {"d/a": 0.6}), row("y", [0.5, 0.5], {})]
    for run in rows[0]["runs"] + rows[1]["runs"]:
        run["data"] = run["data"].replace("d/b", "e/a")
    lines = sweep.table(rows).splitlines()
    assert "| d/a | e/a |" in lines[0]
    assert lines[3] == "| y | 1,234 | 0.500 | failed | 0.600 | 0.600 | 7 |"


def test_the_documented_attention_block(clip_data, tmp_path):
    text = (ROOT / "docs" / "extending.md").read_text()
    section = text.split("\n## Add your own attention block\n")[1].split("\n## ")[0]
    code = section.split("```python\n")[1].split("```")[0]
    command = section.split("```bash\n")[1].split("```")[0].replace("\\\n", " ")
    assert len((code + command).splitlines()) <= 12
    (tmp_path / "squeeze.py").write_text(code)
    train, sweep = command.splitlines()
    assert train.startswith("python launch/train.py") and sweep.startswith("python launch/sweep.py")
    assert "--config.model.attention_block=squeeze.py:SqueezeExcite" in train
    options = re.findall(r"--\w+=(?:\"[^\"]*\"|\S+)", sweep)
    options = [option.replace('"', "").replace("squeeze.py", str(tmp_path / "squeeze.py"))
               for option in options]  # fmt: skip
    options = [o for o in options if not o.startswith(("--config", "--data", "--output"))]
    program(
        "sweep", *options, "--config=configs/jhmdb.py", f"--data={clip_data}",
        f"--output={tmp_path / 'out'}", "--seeds=1", "--split=val", "--config.epochs=1.0",
        "--config.batch_size=8", "--config.model.sequence.width=16",
        "--config.model.sequence.blocks=1",
    )  # fmt: skip
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(rows) == 3 and all(len(row["runs"]) == 1 for row in rows)
    assert len({row["parameters"] for row in rows}) == 3

    for branches, shape in (("image", (1, 32, 32, 3)), ("sequence", None)):
        config = tiny_config("").model
        config.update(branches=branches, attention_block=f"{tmp_path / 'squeeze.py'}:SqueezeExcite")
        image = None if shape is None else jnp.zeros(shape)
        features = jnp.zeros((1, *models.inputs(config).shape))
        tree = jax.eval_shape(models.build(config).init, jax.random.key(0), image, features)
        where = tree["params"]["backbone" if shape else "attention"]
        assert "Dense_0" in (where["attention"] if shape else where)


def test_sweep_exits_on_sigterm_with_a_hint(clip_data, tmp_path):
    config = tmp_path / "endless.py"
    config.write_text(
        "from jdance import config\n\n\ndef get_config():\n    result = config.base()\n"
        "    result.update(batch_size=8, epochs=1e6, eval_every=1e6)\n"
        "    result.model.update(branches='sequence')\n    return result\n"
    )
    words = [f"--config={config}", f"--data={clip_data}", f"--output={tmp_path}", "--seeds=1"]
    words.append("--split=val")
    log = tmp_path / "log"
    log.touch()  # the script may create it later than it is read
    run = Script([ROOT / "launch" / "sweep.py", *words], log)
    while "compiling" not in log.read_text() and run.poll() is None:
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) == 75, log.read_text()
    assert log.read_text().splitlines()[-1] == (
        "stopped by SIGTERM: run the same command again to go on"
    )
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("no_such_file.py:Block", "expected FILE.py:CLASS"),
        ("jdance.models:Block", "expected FILE.py:CLASS"),
        ("jdance.models:build", "not a Flax module"),
        ("Block", "expected FILE.py:CLASS"),
    ],
)
def test_invalid_attention_blocks(block, message):
    config = tiny_config("").model
    config.attention_block = block
    with pytest.raises(ValueError, match=re.escape(message)):
        models.build(config)


def test_a_missing_attention_block_of_a_run_is_reported(tmp_path):
    config = tiny_config("").to_dict()
    config["model"]["attention_block"] = "no_such_file.py:Block"
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "classes": ["a", "b"]}))
    with pytest.raises(UserError, match=r"the network cannot be built.*no_such_file\.py"):
        loop.load(tmp_path)
