"""Long runs: bash launch/test.sh -m slow."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from jdance.data import record_writer, records, shards
from jdance.recognize.score import score_video
from jdance.train import loop

pytestmark = pytest.mark.slow


def run(*command, **environment):
    environment = {name: v for name, v in os.environ.items() if name != "XLA_FLAGS"} | environment
    subprocess.run([str(word) for word in command], cwd=ROOT, check=True, env=environment)


def program(name, *arguments):
    run(sys.executable, ROOT / "launch" / f"{name}.py", *arguments)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    run("bash", "launch/quickstart.sh", folder, PYTHON=sys.executable)
    return folder


def test_quickstart_beats_the_nearest_class_mean(quickstart):
    result = json.loads((quickstart / "eval_test.json").read_text())
    assert result["accuracy"] >= 0.78
    baselines = result["baselines"]["methods"]
    assert baselines["nearest class mean"]["accuracy"] < result["accuracy"] - 0.1
    assert len(list((quickstart / "recognized").glob("*.jpg"))) == 3


def test_timelines_of_stage_videos(quickstart, tmp_path):
    program(
        "stage", f"--output={tmp_path}", "--video", "--scenes=5", "--seconds=15", "--fps=10",
        "--seed=1001", "--width=640", "--height=480",
    )  # fmt: skip
    program(
        "recognize", f"--model={quickstart}", "--pose=stage", f"--input={tmp_path}",
        f"--output={tmp_path / 'out'}", "--noannotate",
    )  # fmt: skip
    program("score_videos", f"--truth={tmp_path}", f"--results={tmp_path / 'out'}")
    scores = [
        score_video(tmp_path / "out" / f"{stem}.json", tmp_path / f"{stem}_truth.csv",
              tmp_path / f"{stem}_keypoints")
        for stem in (f"scene-{i}" for i in range(5))
    ]  # fmt: skip
    assert np.mean([score.f1 for score in scores]) >= 0.7


def test_bench_recognize(capfd):
    program("bench_recognize", "--config=configs/quickstart.py", "--pose=stage", "--people=1,20",
            "--rounds=1")  # fmt: skip
    assert "one more person:" in capfd.readouterr().out


def test_paper_network_trains_at_batch_4(tmp_path):
    program("prepare", "--source=stage:tiny", f"--output={tmp_path / 'data'}")
    program(
        "train", "--config=configs/paper.py", f"--workdir={tmp_path / 'run'}",
        f"--config.data.dir={tmp_path / 'data'}", "--config.batch_size=4", "--config.epochs=0.5",
        "--config.log_every=1",
    )  # fmt: skip
    rows = [json.loads(r) for r in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 4 and np.isfinite(losses).all() and losses[0] != losses[3]
    config, classes, _ = loop.load(tmp_path / "run")
    assert len(classes) == 6 and config.model.width == 64


def test_yoga5(real_data, tmp_path):
    """One seed of configs/yoga5.py, evaluated without near-duplicates of training photos."""
    manifest = real_data("photos/yoga5/manifest.csv")
    pose = real_data("pose/mobilenet_v2_small.pb")
    run(
        sys.executable, "launch/import_weights.py", "--network=mobilenet_v2_small",
        f"--input={pose}", f"--output={tmp_path / 'pose'}",
        f"--calibrate={manifest.parent / 'train' / 'tree'}",
    )  # fmt: skip
    program(
        "prepare", f"--source={manifest}", "--where=near_dup_in_train=0",
        f"--output={tmp_path / 'data'}", f"--pose={tmp_path / 'pose'}", "--min_joints=8",
        "--also_whole",
    )  # fmt: skip
    program(
        "train", "--config=configs/yoga5.py", f"--workdir={tmp_path / 'run'}",
        f"--config.data.dir={tmp_path / 'data'}",
    )  # fmt: skip
    program("evaluate", f"--workdir={tmp_path / 'run'}")
    result = json.loads((tmp_path / "run" / "eval_test.json").read_text())
    assert result["n"] == 75 and result["accuracy"] >= 0.89


def test_reduced_reproduction(tmp_path):
    program("prepare", "--source=stage:quickstart", f"--output={tmp_path / 'data'}", "--workers=2")
    arguments = (f"--data={tmp_path / 'data'}", f"--output={tmp_path / 'out'}", "--preset=reduced")
    program("reproduce", *arguments)
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    scores = {row["variant"]: row["runs"][0]["score"] for row in rows}
    assert len(scores) == 4 and scores["proposed"] >= 0.8 and min(scores.values()) >= 0.5
    before = (tmp_path / "out" / "tables.md").read_text()
    program("reproduce", *arguments)  # all runs are completed
    assert (tmp_path / "out" / "tables.md").read_text() == before


def million(folder, count):
    """Writes a data set of skeletons by repeating 5,000 records."""
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(20, 230, (5000, 18, 3)).astype(np.float32)
    packed = [
        records.pack(records.Example(k, i % 6, None, f"clip {i}")) for i, k in enumerate(keypoints)
    ]
    classes = list("abcdef")
    with shards.output_folder(folder, shards.Partition()):
        with record_writer.open_writers(folder, ["train", "val"], plan="million") as writers:
            for number in range(count):
                example = number * 7919 % 5000
                writer = writers["train" if number % 1000 else "val"]
                writer.start_item(number)
                writer.add_packed(packed[example], example % 6, True, f"clip {example}")
        info = {
            "version": records.VERSION, "kind": "persons", "source": "million", "seed": 0,
            "classes": classes, "layout": "coco18", "sequences": False, "pose": "",
            "splits": {name: writer.summary(classes) for name, writer in writers.items()},
            "skipped": [], "unmatched": [],
        }  # fmt: skip
        shards.write_info(folder, shards.Partition(), info)


MEASURED = """
import resource, sys
from pathlib import Path
from jdance.config import load
from jdance.train import loop
config = load("configs/keypoints.py")
config.data.update(dir=sys.argv[1], sampling="balanced")
config.epochs = 200.5 * config.batch_size / int(sys.argv[3])
assert loop.train(config, Path(sys.argv[2]))["step"] == 200
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_training_data_need_no_memory_in_proportion(tmp_path):
    peaks = []
    for count in (20_000, 1_000_000):
        data = tmp_path / str(count)
        million(data, count)
        command = [sys.executable, "-c", MEASURED, data, tmp_path / f"run{count}", count * 0.999]
        command = [str(int(word) if isinstance(word, float) else word) for word in command]
        output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        peaks.append(float(output.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 150  # MiB
