"""The programs of launch/, run end to end and with invalid input."""

import json
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
from contextlib import closing

import numpy as np
import pytest
from conftest import ROOT, tiny_config, tiny_image
from programs import Script, program

from jdance import cli, files
from jdance import config as defaults
from jdance.data import images, openpose_json, videos
from jdance.errors import UserError
from jdance.train import loop
from jdance.weights import resnet


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(tiny_data)
    config.epochs = 0.5
    loop.train(config, folder)
    return folder


def names(folder):
    """Names of the visible files in a folder."""
    return sorted(path.name for path in files.list_visible(folder))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        images.write(folder / f"{i}.png", tiny_image(i)[0])
    return folder


def test_stage_end_to_end(tmp_path):
    program("prepare", "--source=stage:tiny", f"--output={tmp_path / 'data'}", "--workers=2")
    run = tmp_path / "run"
    program(
        "train", "--config=configs/quickstart.py", f"--workdir={run}",
        f"--config.data.dir={tmp_path / 'data'}", "--config.epochs=1.0",
        "--config.model.stage_sizes=(1,)", "--config.batch_size=12",
    )  # fmt: skip
    program("evaluate", f"--workdir={run}", "--baselines")
    result = json.loads((run / "eval_test.json").read_text())
    assert result["n"] == 12 and np.sum(result["confusion"]) == 12
    assert {"accuracy", "mean_class_accuracy", "classes", "per_class"} <= result.keys()
    report = (run / "report.html").read_text()
    assert "Evaluation on val" in report and "Evaluation on test" in report
    program("evaluate", f"--workdir={run}", "--split=val", "--drop_joints=all")
    assert json.loads((run / "eval_val_without_all.json").read_text())["found"]["n"] == 0

    scenes, out = tmp_path / "scenes", tmp_path / "out"
    drawn, _ = program("stage", f"--output={scenes}", "--dancers=4", "--width=320", "--height=240")
    captured, _ = program("recognize", f"--model={run}", f"--input={scenes}",
                          f"--keypoints={scenes}", f"--output={out}", warning=())  # fmt: skip
    assert "wrote 1 result to" in captured
    # Without the key points beside it, the scene counts as a real image.
    (scenes / "scene-0.jpg").rename(scenes / "photo.jpg")
    program(
        "recognize", f"--model={run}", f"--input={scenes / 'photo.jpg'}", "--pose=stage",
        f"--output={tmp_path / 'real'}",
        warning=("--pose=stage was trained on StageDance", "on synthetic scenes (stage:tiny)"),
    )  # fmt: skip
    found = json.loads((out / "scene-0.json").read_text())
    assert (found["width"], found["height"], found["fps"]) == (320, 240, None)
    assert found["classes"] == result["classes"]
    people = found["frames"][0]["people"]
    assert len(people) == len(drawn.split("left to right ")[1].split(","))
    for person in people:
        assert np.shape(person["keypoints"]) == (18, 3) and len(person["box"]) == 4
        assert person["motion"] == found["classes"][int(np.argmax(person["probabilities"]))]
    assert images.read(out / "scene-0.jpg").shape == (240, 320, 3)


def test_summary_needs_no_data():
    captured, _ = program("train", "--config=configs/quickstart.py", "--summary")
    assert "stage4_block1" in captured and "923,801" in captured
    captured, _ = program("train", "--config=configs/pose_stage.py", "--summary")
    assert "LightPose" in captured and "533,914" in captured


CONFIG_WITH_ARGUMENT = """
from jdance import config

def get_config(size="large"):
    result = config.base()
    result.model.update(branches="keypoints", fusion_widths=({"large": 64, "small": 8}[size],))
    result.epochs = 0.2
    return result
"""


def test_config_with_argument(tiny_data, tmp_path):
    """Also covers a data set without val, where the next command evaluates on train."""
    file, run, data = tmp_path / "sized.py", tmp_path / "a run", tmp_path / "data"
    file.write_text(CONFIG_WITH_ARGUMENT)
    shutil.copytree(tiny_data, data)
    info = json.loads((data / "dataset.json").read_text())
    del info["splits"]["val"]
    (data / "dataset.json").write_text(json.dumps(info))
    common = f"--workdir={run}", f"--config.data.dir={data}", "--config.batch_size=8"
    captured, _ = program("train", f"--config={file}:small", *common)
    written = json.loads((run / "config.json").read_text())["config"]
    assert written["model"]["fusion_widths"] == [8]
    assert captured.endswith(f"next: python launch/evaluate.py --workdir='{run}' --split=train\n")
    for argument, message in ((":tiny", "not a configuration (KeyError('tiny'))"), ("", "fusion")):
        _, error = program("train", f"--config={file}{argument}", *common, status=1)
        assert message in error


def test_source_instead_of_data_set(trained, tmp_path):
    source = tmp_path / "my poses.npz"
    source.write_bytes(b"")
    (tmp_path / "photos").mkdir()
    for path in (source, tmp_path / "photos"):
        expected = "that is a source, not a data set (no dataset.json); prepare it first: "
        expected += f"python launch/prepare.py --source={shlex.quote(str(path))} --output="
        for name, *words in [
            ("evaluate", f"--workdir={trained}", f"--data={path}"),
            ("train", "--config=configs/keypoints.py", f"--workdir={tmp_path / 'new'}",
             f"--config.data.dir={path}"),
        ]:  # fmt: skip
            assert expected in program(name, *words, status=1)[1]


def test_import_resnet(tmp_path):
    rng = np.random.default_rng(0)
    model = defaults.model()
    model.update(resnet.KINDS["resnet18"], attention=-1, branches="image")
    header, end = {}, 0
    for path, leaf in resnet.abstract_variables(model).items():
        if path[1] == "backbone":
            shape = resnet._torch_shape(path, leaf.shape)
            offsets = [end, end := end + 4 * leaf.size]
            entry = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
            header[resnet._torch_name(path)] = entry
    text = json.dumps(header).encode()
    file = tmp_path / "resnet18.safetensors"
    values = rng.uniform(0.01, 0.02, end // 4).astype(np.float32)
    file.write_bytes(len(text).to_bytes(8, "little") + text + values.tobytes())
    captured, _ = program("import_weights", "--network=resnet18", f"--input={file}",
                      f"--output={tmp_path / 'imported'}")  # fmt: skip
    assert "resnet18, 11,176,512 parameters, no attention, no classifier" in captured


def test_prepare_skips_bad_files(real_data, photos, tmp_path):
    pose = real_data("pose/mobilenet_v2_small.pb")
    for i, name in enumerate(("p1.jpg", "p2.jpg", "apink3.jpg", "golf.jpg")):
        folder = tmp_path / "in" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(real_data(f"photos/{name}").read_bytes())
    (tmp_path / "in" / "a" / "text.jpg").write_text("no image")
    out = tmp_path / "data"
    captured, error = program(
        "prepare", f"--source={tmp_path / 'in'}", f"--output={out}", f"--pose={pose}", status=1
    )
    assert "1 of the inputs skipped" in error and "text.jpg: not a readable image" in captured
    info = json.loads((out / "dataset.json").read_text())
    assert sum(split["count"] for split in info["splits"].values()) == 4
    assert sum(split["people_found"] for split in info["splits"].values()) == 4


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("prepare", ["--source=empty", "--output=o", "--pose=x"], "nothing to prepare"),
        ("prepare", ["--source=stage:tiny", "--output=o", "--pose=hourglass"], "hourglass"),
        ("prepare", ["--source=photos", "--output=o"], "a folder for each class"),
        ("prepare", ["--source=stage:tiny", "--output=o", "--fractions=3"], "--fractions=3"),
        ("prepare", ["source=photos", "--source=photos", "--output=o"], "options start with --"),
        ("train", ["--config=no.py", "--workdir=o"], "--config=no.py: No such file"),
        ("train", ["--config=CONFIG", "--workdir=o", "--config.epoch=3"],
         "no such key; config has accumulate, augment, batch_size"),
        ("train", ["--config=CONFIG", "--workdir=o", "--config.data.dir=o"], "launch/prepare.py"),
        ("evaluate", ["--workdir=empty"], "train with launch/train.py first"),
        ("evaluate", ["--workdir=empty", "--calibrate", "--views=10"],
         "--calibrate evaluates nothing and stores what it fits in the run: leave out --views"),
        ("evaluate", ["--workdir=empty", "--calibrate", "--drop_joints=all"],
         "leave out --drop_joints"),
        ("evaluate", ["--workdir=empty", "--pose_size=64"],
         "only --pose takes --pose_size"),
        ("evaluate", ["--pose=stage", "--data=o", "--calibrate"],
         "--pose=stage: only motion networks have --calibrate"),
        ("evaluate", ["--pose=stage", "--data=o", "--checkpoint=best"],
         "--pose=stage: only runs have --checkpoint"),
        ("prepare", ["--task=pose", "--source=stage:tiny", "--output=o", "--fractions=train=1"],
         "--task=pose: only --task=motion has --fractions"),
        ("prepare", ["--source=stage:tiny", "--output=o", "--fractions==1"],
         "--fractions==1: a split has no name"),
        ("prepare", ["--source=stage:tiny", "--output=o", "--pose_size=64"],
         "without a pose network there is no --pose_size"),
        ("prepare", ["--source=stage:tiny", "--output=o", "--min_joints=9"],
         "its people are known; no --min_joints"),
        ("prepare", ["--source=stage:dance6", "--output=o", "--pose=stage"],
         "holds key points without images; only images have --pose"),
        ("prepare", ["--source=empty", "--output=photos", "--pose=stage", "--window=2"],
         "is not empty; choose another --output"),
        ("profile", ["--config=CONFIG", "--program=evaluate"],
         "without --target, a training step is timed: leave out --program"),
        ("profile", ["--config=CONFIG", "--target=h100", "--trace=t"],
         "--target=h100: runs nothing; leave out --trace"),
        ("bench_recognize", ["--people=abc"], "--people=abc: expected numbers from 0 to 24"),
        ("bench_recognize", ["--precision=bfloat16"], "leave out --precision"),
        ("pack", ["--workdir=empty", "--output=o"], "o: a packed model must end in .npz; name "),
        ("recognize", ["--model=empty", "--input=photos", "--output=o", "--pose=stage",
                       "--keypoints=photos"], "leave out --pose or --keypoints"),
        ("recognize", ["--model=empty", "--input=photos", "--output=o", "--keypoints=photos"],
         "train with launch/train.py first"),
        ("recognize", ["--model=empty", "--input=empty", "--output=o", "--keypoints=photos"],
         "no images or videos in it"),
        ("recognize", ["--input=camera:0", "--output=o", "--keypoints=photos", "--whole_image"],
         "--whole_image: only images have it"),
        ("import_weights", ["--network=mobilenet_v2_small", "--input=photos/0.png", "--output=o"],
         "0.png"),
        ("import_weights", ["--network=resnet50", "--input=photos/0.png", "--output=o"],
         "0.png: not a PyTorch checkpoint"),
        ("train", ["--config=CONFIG", "--summary", "--config.model.block=wide"],
         "model.block='wide': expected basic or bottleneck"),
    ],
)  # fmt: skip
def test_invalid_input_gets_one_line(name, arguments, message, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    paths = {
        "=empty": f"={tmp_path / 'empty'}",
        "=photos": f"={photos}",
        "=o": f"={tmp_path / 'o'}",
        "=CONFIG": "=configs/quickstart.py",
    }
    for short, path in paths.items():
        arguments = [
            word.replace(short, path, 1) if word.startswith("--") and short in word else word
            for word in arguments
        ]
    _, error = program(name, *arguments, status=1)
    assert message in error


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sweep", ["--config=configs/quickstart.py", "--data=missing"]),
        ("reproduce", ["--data=missing"]),
        ("export", ["--model=missing", "--pose=stage"]),
        ("import_weights", ["--network=resnet50", "--input=missing"]),
        ("pack", ["--workdir=missing"]),
        ("stage", []),
        ("profile", ["--config=configs/quickstart.py"]),
        ("bench_train", []),
        ("bench_loader", ["--data=missing"]),
    ],
)
def test_programs_with_local_output_refuse_addresses(name, arguments):
    _, error = program(name, *arguments, "--output=s3://bucket/out", status=1)
    assert "--output=s3://bucket/out: this program writes to local paths only" in error


def test_evaluate_and_recognize_with_invalid_input(trained, photos, tmp_path):
    _, error = program("evaluate", f"--workdir={trained}", "--split=dev", status=1)
    assert "it has train, val" in error
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    points = tmp_path / "points"
    points.mkdir()
    for name, number in (("0", 0), ("broken", 1)):
        openpose_json.write(points / f"{name}_keypoints.json", tiny_image(number)[1])
    captured, error = program(
        "recognize", f"--model={trained}", f"--input={photos}", f"--keypoints={points}",
        f"--output={tmp_path / 'out'}", status=1,
    )  # fmt: skip
    assert "2 of 3 inputs skipped" in error
    assert "broken.jpg: not a readable image" in captured
    assert "1_keypoints.json: no such file" in captured
    assert names(tmp_path / "out") == ["0.json", "0.png", "failures.csv"]
    _, error = program(
        "recognize", f"--model={trained}", f"--input={photos}", f"--pose={photos / '0.png'}",
        f"--output={tmp_path / 'out'}", status=1,
    )  # fmt: skip
    assert "0.png" in error


def test_recognize_lists_unreadable_files(trained, photos, tmp_path):
    """Hidden files, key points of the inputs, and results are not listed."""
    points = photos / "points"
    points.mkdir()
    for name in ("0", "1"):
        openpose_json.write(points / f"{name}_keypoints.json", tiny_image(int(name))[1])
    (photos / "0_keypoints.json").write_text("{}")
    (photos / "manifest.csv").write_text("path,label\n0.png,a\n")
    (photos / ".hidden").touch()
    run = f"--model={trained}", f"--input={photos}", f"--keypoints={points}"
    captured, _ = program("recognize", *run, f"--output={photos / 'out'}")
    assert "wrote 2 results" in captured and "skipped" not in captured
    unreadable = ["0_notes.xcf", "c.psd", "more"]
    (photos / "more").mkdir()
    for name in unreadable[:2]:
        (photos / name).write_bytes(b"no image that can be read")
    captured, error = program("recognize", *run, f"--output={photos / 'out'}", status=1)
    assert "wrote 0 results" in captured and "; 2 done by earlier runs" in captured
    assert "3 of 5 inputs skipped" in error
    for name in unreadable[:2]:
        assert f"skipped {photos / name}: not a supported image or video format" in captured
    assert f"skipped {photos / 'more'}: a nested folder; name a pattern such as" in captured
    for name in ("0.png", "1.png", "0_keypoints.json", "manifest.csv"):
        (photos / name).unlink()
    captured, error = program("recognize", *run, f"--output={tmp_path / 'none'}", status=1)
    assert "c.psd" in captured and "inputs skipped" in error


def test_damaged_checkpoint_is_one_line(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/default/d/*"):
        path.write_bytes(path.read_bytes()[:10])
    _, error = program("evaluate", f"--workdir={tmp_path / 'run'}", status=1)
    assert "every checkpoint in it is damaged" in error


def test_home_folder_in_flags_and_configs(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "c.py"
    config.write_text(
        "from jdance import config\n\n\ndef get_config():\n    base = config.base()\n"
        "    base.data.dir = '~/none'\n    return base\n"
    )
    words = ["--config=~/c.py", "--workdir", "~/a", "--x=~/b,~/c", "--y=a~b", "~", "--z"]
    assert [cli._expand_flag(word) for word in words] == [
        f"--config={config}", "--workdir", f"{tmp_path}/a", f"--x={tmp_path}/b,{tmp_path}/c",
        "--y=a~b", str(tmp_path), "--z",
    ]  # fmt: skip
    with pytest.raises(UserError, match="no such home folder"):
        cli._expand_flag("--output=~nobody-of-this-name/x")
    loaded = runpy.run_path(str(config))["get_config"]()
    cli._expand_config(loaded)
    assert loaded.data.dir == f"{tmp_path}/none"
    (tmp_path / "data").symlink_to(tiny_data)
    script = (
        "import sys; from absl import flags; from ml_collections import config_flags\n"
        "from jdance.cli import run\n"
        "config = config_flags.DEFINE_config_file('config')\n"
        "run(lambda: print(config.value.data.dir))"
    )
    for override, folder in ((), "none"), (("--config.data.dir=~/data",), "data"):
        captured = subprocess.run(
            [sys.executable, "-c", script, "--config=~/c.py", *override],
            check=True, capture_output=True, text=True, cwd=ROOT,
        ).stdout  # fmt: skip
        assert captured.strip() == f"{tmp_path}/{folder}"


def test_video_end_to_end(trained, tmp_path):
    points = tmp_path / "points"
    points.mkdir()
    (tmp_path / "in").mkdir()
    image, people = tiny_image(0)
    other = people.copy()
    other[..., 0] += 80
    with closing(videos.VideoWriter(tmp_path / "in" / "x.webm", 10)) as writer:
        for i in range(25):
            writer.write(i / 10, np.hstack([image, image]))
            both = np.concatenate([people, other][: 2 if i > 5 else 1])
            openpose_json.write(openpose_json.path_for_frame("x.webm", i, points), both)
    (tmp_path / "in" / "y.webm").write_bytes(b"no video")
    out = tmp_path / "out"
    captured, error = program(
        "recognize", f"--model={trained}", f"--input={tmp_path / 'in'}", f"--keypoints={points}",
        f"--output={out}", "--every=2", "--end=2.05", "--min_confidence=0.1", status=1,
    )  # fmt: skip
    assert "y.webm: not a readable video" in captured and "1 of 2 inputs skipped" in error
    found = json.loads((out / "x.json").read_text())
    assert (found["width"], found["height"], found["fps"]) == (160, 96, 5.0)
    assert [frame["index"] for frame in found["frames"]] == list(range(0, 21, 2))
    assert [len(frame["people"]) for frame in found["frames"]] == [1] * 3 + [2] * 8
    assert [track["track"] for track in found["tracks"]] == [0, 1]
    assert found["tracks"][1]["start"] == pytest.approx(0.6)
    assert (out / "x.csv").read_text().startswith("track,start,end,motion,confidence\n0,0.000,")
    assert "<svg" in (out / "x.html").read_text()
    with closing(videos.Video(videos.output_path(out / "x"))) as video:
        assert video.fps == 5 and sum(1 for _ in video) == 11
    assert names(out) == sorted(
        ["failures.csv", "x.json", "x.csv", "x.html", videos.output_path(out / "x").name]
    )
    # Key points alone are not enough for a network with an image branch.
    _, error = program("recognize", f"--model={trained}", f"--input={points}",
                       f"--output={out}", status=1)  # fmt: skip
    assert "1 of 1 input skipped" in error


def test_calibration_is_stored_in_the_run(trained):
    captured, _ = program("evaluate", f"--workdir={trained}", "--calibrate")
    stored = json.loads((trained / "calibration.json").read_text())
    assert stored["split"] == "val"  # not test, the split that evaluations use by default
    assert 0.05 <= stored["temperature"] <= 20 and stored["n"] == 15
    assert f"temperature {stored['temperature']:.3f}" in captured


@pytest.mark.parametrize(
    "moment",
    [
        "def once(*_):\n    stop()\n    gc.callbacks.remove(once)\n"
        "gc.callbacks.append(once)\ngc.collect()",
        "class Last:\n    def __del__(self):\n        stop()\nlast = Last()\ndel last",
    ],
)
def test_sigterm_in_a_callback_that_swallows_exceptions(tmp_path, moment):
    script = tmp_path / "script.py"
    script.write_text(
        "import gc, os, signal, time\n"
        "from jdance.cli import resumable\n\n\n"
        "def stop():\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(0)\n\n\n"
        f"with resumable():\n{textwrap.indent(moment, '    ')}\n    time.sleep(60)\n"
    )
    log = tmp_path / "log"
    assert Script([script], log).wait(15) == 75  # before the seconds of grace have passed
    assert log.read_text() == "stopped by SIGTERM: run the same command again to go on\n"
