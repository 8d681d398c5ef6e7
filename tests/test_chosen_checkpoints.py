"""Selection of a checkpoint in programs: newest, best, or by step."""

import json
import re
import shutil
from contextlib import closing
from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import tiny_config, tiny_image, tiny_source
from programs import program

from jdance.data import images
from jdance.data.prepare import prepare
from jdance.data.records import Dataset
from jdance.errors import UserError
from jdance.recognize import packed
from jdance.recognize.recognizer import Recognizer
from jdance.report import run as report
from jdance.train import checkpoints, experiment, loop, results
from jdance.train.motion import MotionTask


@pytest.fixture(scope="module")
def run(tiny_data, tmp_path_factory):
    """A run of five steps with the highest score at the second."""
    folder = tmp_path_factory.mktemp("chosen")
    config = tiny_config(tiny_data)
    config.update(epochs=0.9, eval_every=0.15, checkpoint_every=0.15, checkpoints_kept=2)
    config.model.branches = "keypoints"
    config.optimizer.learning_rate = 0.1
    scores = iter([0.2, 0.9, 0.5, 0.4, 0.3])
    with pytest.MonkeyPatch.context() as patch:
        save = checkpoints.Checkpoints.save
        patch.setattr(
            checkpoints.Checkpoints,
            "save",
            lambda self, step, state, score=None: save(self, step, state, next(scores)),
        )
        loop.train(config, folder)
    return folder


def test_selected_variables_are_loaded(run):
    with closing(checkpoints.Checkpoints(run)) as saved:
        assert [saved.resolve(which) for which in ("newest", "best", "4")] == [5, 2, 4]
        expected = {step: saved.restore_numpy(step)["params"] for step in (2, 4, 5)}
    for which, step in {"newest": 5, "best": 2, "4": 4, "2": 2}.items():
        _, _, variables = loop.load(run, which)
        jax.tree.map(np.testing.assert_array_equal, variables["params"], expected[step])
    best = Recognizer.load(run, None, checkpoint="best").variables[1]
    jax.tree.map(np.testing.assert_array_equal, best["params"], expected[2])


def test_every_score_has_its_checkpoint(tiny_data, tmp_path, monkeypatch):
    """Evaluation and checkpoint periods differ: the best is the best evaluated step."""
    config = tiny_config(tiny_data)
    config.update(epochs=1.5, eval_every=0.4, checkpoint_every=1000.0, checkpoints_kept=1)
    config.model.branches = "keypoints"
    evaluate, scores = MotionTask.evaluate, iter([0.2, 0.9, 0.5, 0.4])
    monkeypatch.setattr(
        MotionTask, "evaluate", lambda *a: evaluate(*a) | {"accuracy": next(scores)}
    )
    loop.train(config, tmp_path)
    with closing(checkpoints.Checkpoints(tmp_path)) as saved:
        assert saved.steps() == [4, 8]  # the best and the newest
        assert saved.resolve("best") == 4 and saved.score(4) == 0.9


@pytest.mark.parametrize("which", ["3", "-1", "latest", "", "4.0"])
def test_unknown_checkpoint(run, which):
    with pytest.raises(UserError, match=r"holds no checkpoint .* newest, best and the steps 2, 4"):
        loop.load(run, which)


def test_results_have_separate_files(run):
    for which, name in {
        "newest": "eval_val",
        "best": "eval_val_best",
        "4": "eval_val_step4",
    }.items():
        result, path = results.evaluate([run], "val", checkpoint=which)
        assert path == run / f"{name}.json" and json.loads(path.read_text()) == result
    fitted, path = results.calibrate(run, "val", checkpoint="best")
    assert path == run / "calibration_best.json" and not (run / "calibration.json").exists()
    temperature = Recognizer.load(run, None, checkpoint="best").variables[2]
    assert float(temperature) == pytest.approx(fitted["temperature"])
    assert float(Recognizer.load(run, None).variables[2]) == 1


def test_a_calibration_is_not_applied_after_more_training(run, tmp_path, capsys):
    resumed = tmp_path / "run"
    shutil.copytree(run, resumed)
    fitted, _ = results.calibrate(resumed, "val")
    assert fitted["step"] == 5 and packed.load(resumed).temperature == fitted["temperature"]
    config, _ = experiment.read(resumed)
    config.epochs = 1.1
    loop.train(config, resumed)
    capsys.readouterr()
    assert packed.load(resumed).temperature == 1
    assert capsys.readouterr().err.count("calibration.json: was fitted at step 5, but the") == 1
    assert packed.load(resumed, "5").temperature == 1  # calibrated as the newest, not by its step


def modification_times(folder):
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))
    }


def test_results_record_what_was_evaluated(run, tiny_data, tmp_path):
    """Options of an evaluation appear in the file name and its content."""
    other = tmp_path / "elsewhere" / tiny_data.name
    shutil.copytree(tiny_data, other)
    before, out = modification_times(run), tmp_path / "out"
    for changes, name, expected in [
        ({}, r"eval_val", {}),
        ({"views": 3}, r"eval_val_views3", {"views": 3}),
        ({"checkpoint": "best"}, r"eval_val_best", {"checkpoint": "best", "step": 2}),
        ({"data": str(other)}, rf"eval_val_on_{other.name}-[0-9a-f]{{8}}", {"data": str(other)}),
        ({"data": str(tiny_data)}, r"eval_val", {}),
        (
            {"data": str(other), "views": 2, "drop_joints": "legs", "checkpoint": "4"},
            rf"eval_val_on_{other.name}-[0-9a-f]{{8}}_without_legs_views2_step4",
            {"data": str(other), "views": 2, "drop_joints": "legs", "checkpoint": "4", "step": 4},
        ),
    ]:
        result, path = results.evaluate([run], "val", output=out, **changes)
        assert path.parent == out and re.fullmatch(name + r"\.json", path.name), path
        assert json.loads(path.read_text()) == result and result["n"] == 15
        plain = {
            "split": "val", "data": str(tiny_data), "views": 1, "drop_joints": "",
            "checkpoint": "newest", "step": 5,
        }  # fmt: skip
        assert {key: result[key] for key in plain} == plain | expected
    ensemble, path = results.evaluate([run, run], "val", output=out)
    assert path.name == "eval_val_ensemble.json" and "step" not in ensemble
    assert [member["step"] for member in ensemble["runs"]] == [5, 5]
    page = report.write(run, out).read_text()
    assert "Evaluation on val_views3" in page and "3 views; checkpoint newest; step 5." in page
    assert modification_times(run) == before  # read-only runs can be evaluated
    with pytest.raises(UserError, match=r"cannot be written to .*another folder with --output"):
        results.evaluate([run], "val", output=out / "eval_val.json")


def with_data(run, copy, folder, **changes):
    """A copy of the run with its data set elsewhere."""
    shutil.copytree(run, copy)
    content = json.loads((run / "config.json").read_text()) | changes
    content["config"]["data"]["dir"] = str(folder)
    (copy / "config.json").write_text(json.dumps(content))
    return copy


def test_other_data_in_the_place_of_the_training_data_is_refused(run, tmp_path):
    data, source = tmp_path / "data", tiny_source()
    items = [
        replace(item, split="val" if i % 3 else "train") for i, item in enumerate(source.items)
    ]
    prepare(replace(source, items=items), data, None)
    changed = with_data(run, tmp_path / "run", data)
    for use in (
        lambda: results.evaluate([changed], "val"),
        lambda: results.calibrate(changed, "val"),
    ):
        with pytest.raises(UserError, match=r"data: is not the data that .*; .* add --data=.*data"):
            use()
    result, path = results.evaluate([changed], "val", data=str(data))
    assert result["n"] == 40 and path.name.startswith("eval_val_on_data-")
    (data / "train-00000.array_record").unlink()
    with pytest.raises(UserError, match="shard is missing; prepare the data again"):
        results.evaluate([changed], "val")


def test_an_ensemble_needs_the_same_examples(run, tiny_data, tmp_path):
    """Two splits of one source have the same labels, but different people."""
    source = tiny_source()
    items = [replace(item, load=other.load) for item, other in
             zip(source.items, source.items[12:] + source.items[:12], strict=True)]  # fmt: skip
    prepare(replace(source, items=items), tmp_path / "data", None)
    data = Dataset(tmp_path / "data")
    other = with_data(run, tmp_path / "run", data.folder, data=data.fingerprint())
    with pytest.raises(UserError, match=r"run: .* needs the same classes and examples, such as"):
        results.evaluate([run, other], "val", output=tmp_path)
    result, _ = results.evaluate([run, other], "val", data=str(tiny_data), output=tmp_path)
    assert result["n"] == 15


def test_every_program_has_the_flag(run, tmp_path):
    images.write(tmp_path / "photo.png", tiny_image(0)[0])
    out = f"--output={tmp_path / 'out'}"
    for name, *arguments in [
        ("evaluate", f"--workdir={run}", "--split=val"),
        ("recognize", f"--model={run}", f"--input={tmp_path}", f"--keypoints={tmp_path}", out),
        ("export", f"--model={run}", "--pose=stage", out),
    ]:
        _, error = program(name, *arguments, "--checkpoint=3", status=1)
        assert "holds no checkpoint '3'; there are newest, best and the steps 2, 4, 5" in error
        help_text, _ = program(name, "--help")
        assert "--checkpoint: Which checkpoint of --" in help_text
