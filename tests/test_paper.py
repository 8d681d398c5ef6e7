"""Reproduction of the paper's evaluation: plan, runs and report."""

import json
from dataclasses import replace

import pytest
from conftest import ROOT, tiny_config, tiny_image, tiny_source
from programs import program
from test_report import check_page

from jdance import config as defaults
from jdance.data.items import Item, LabeledPerson, Loaded
from jdance.data.prepare import prepare
from jdance.errors import UserError
from jdance.paper import plan, run, tables
from jdance.train import sweep


def test_full_plan():
    loaded = []

    def load(name):
        loaded.append(name)
        config = defaults.base()
        config.model.branches = {"str.py": "str", "qes.py": "qes"}.get(name, "fused")
        return config

    config, chosen = plan.variants(plan.PRESETS["full"], load, search=True)
    names = [variant.name for variant in chosen]
    assert loaded == ["paper.py:scratch", "str.py", "qes.py"] and names[0] == plan.PROPOSED
    # CBAM1, fused18, shuffled and batch 64 are the method itself.
    assert names[1:] == [
        "key points only", "image only", "no attention", "CBAM0", "CBAM2", "pos18", "full",
        "balanced", "balanced by confusion", "batch 16", "batch 32", "batch 128",
        "dense layers of half the width", "of twice the width", "STR", "QES", "QES, flat network",
    ]  # fmt: skip
    branches = {v.name: sweep.apply_variant(config, v).model.branches for v in chosen}
    assert branches["STR"] == "str" and branches["QES, flat network"] == "qes_flat"
    assert branches["image only"] == "image"
    half = sweep.apply_variant(config, chosen[names.index("dense layers of half the width")])
    assert half.model.keypoint_widths == (128, 256, 256, 256, 256)


def test_variants_of_a_network_with_its_own_attention_and_weights():
    def load(name):
        config = defaults.base()
        config.model.branches = {"str.py": "str", "qes.py": "qes"}.get(name, "fused")
        config.update(init_from="weights/resnet50", freeze_epochs=2.0)
        config.model.attention_block = "squeeze.py:Squeeze"
        return config

    base, chosen = plan.variants(plan.PRESETS["full"], load)
    made = {variant.name: sweep.apply_variant(base, variant) for variant in chosen}
    assert made[plan.PROPOSED].model.attention_block == "squeeze.py:Squeeze"
    orders = {"no attention": -1, "CBAM0": 0, "CBAM1": 1, "CBAM2": 2}
    assert {name: made[name].model.attention for name in orders} == orders
    assert not any(made[name].model.attention_block for name in orders)
    points = made["key points only"]
    assert not points.freeze_epochs and not points.init_from
    assert made["image only"].init_from == "weights/resnet50"


@pytest.mark.parametrize("preset", plan.PRESETS)
def test_presets_fit_the_files_in_configs(preset):
    def load(name):
        return defaults.load(str(ROOT / "configs" / name))

    config, chosen = plan.variants(plan.PRESETS[preset], load)
    cheap = [variant for variant in chosen if variant.name in plan.COMPARED]
    assert [variant.name for variant in cheap] == list(plan.COMPARED)
    sweep.check(config, cheap if preset == "full" else cheap[1:])
    # No method has seen other data than the rest.
    assert not any(sweep.apply_variant(config, variant).init_from for variant in chosen)


def test_recipes_of_the_paper_network():
    file = str(ROOT / "configs" / "paper.py")
    assert defaults.load(file) == defaults.base()
    scratch = defaults.load(f"{file}:scratch")
    changed = {key for key in scratch if scratch[key] != defaults.base()[key]}
    assert changed == {"model", "optimizer", "augment"}
    assert scratch.model.dropout == 0
    with pytest.raises(UserError, match="expected finetuning or scratch"):
        defaults.load(f"{file}:fast")


@pytest.fixture(scope="module")
def video_data(tmp_path_factory):
    """72 images in 24 videos, each within one split."""
    folder = tmp_path_factory.mktemp("videos")
    kinds = ("train", "train", "val", "test")
    items = [
        Item(
            name=f"image {i}",
            people=(LabeledPerson("abc"[i % 3]),),
            load=lambda i=i: Loaded(*tiny_image(i)),
            split=kinds[i // 3 % 4],
            group=str(i // 3),
        )
        for i in range(72)
    ]
    prepare(replace(tiny_source(2), items=items), folder / "data", None)
    return folder / "data"


def small_plan(data):
    config = tiny_config(data)
    config.model.branches = "keypoints"
    config.epochs = 1.0
    flat = config.copy_and_resolve_references()
    flat.model.branches = "qes_flat"
    return config, [
        sweep.Variant(plan.PROPOSED, {}),
        sweep.Variant("pos18", {"model.features": "pos18"}),
        sweep.Variant(plan.FLAT, {}, flat),
        sweep.Variant(plan.QES, {"model.branches": "qes"}, flat),  # too few examples
    ]


def test_runs_are_trained_once_and_reported(video_data, tmp_path, monkeypatch):
    monkeypatch.setattr(run.speed, "_MIN_SECONDS", 0.0)
    monkeypatch.setattr(run.speed.frames_per_second, "__defaults__", ((1, 2),))
    config, chosen = small_plan(video_data)
    chosen[-1].changes["model.qes.prototypes"] = 30
    trained = []
    train = sweep.loop.train
    monkeypatch.setattr(sweep.loop, "train", lambda c, w: trained.append(w) or train(c, w))
    arguments = (config, chosen, video_data, tmp_path / "out", ("video", "frame"))
    failures = run.reproduce(*arguments, 1)
    assert len(trained) == 8 and len(failures) == 2
    assert all("QES" in line and "only 12 training examples" in line for line in failures)
    page = check_page((tmp_path / "out" / "report.html").read_text())
    tables = (tmp_path / "out" / "tables.md").read_text()
    for text in (" ".join(page.text), tables):
        for title in ("Table 1", "Table 2", "Table 3", "Table 4", "Figure 7", "Speed", "leak",
                      "Misclassified", "Variants of the method"):  # fmt: skip
            assert title in text, title
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    by_split = [run["score"] for run in rows[0]["runs"]]
    assert f"| proposed | {rows[0]['parameters']:,} | {100 * by_split[0]:.1f} |" in tables
    assert f"{100 * (by_split[1] - by_split[0]):+.1f} |" in tables
    assert "| QES |  | failed | failed | 89.3 |" in tables
    assert (tmp_path / "out" / "data" / "frame" / "dataset.json").exists()
    assert not (tmp_path / "out" / "data" / "video").exists()  # already split by video
    # With a second seed, only that is trained.
    trained.clear()
    chosen.pop()
    assert run.reproduce(*arguments, 2) == []
    assert len(trained) == 6 and all(workdir.name == "seed-1" for workdir in trained)
    assert "±" in (tmp_path / "out" / "tables.md").read_text()


def test_spread_over_seeds():
    assert tables._spread([0.9]) == "90.0"
    assert tables._spread([0.8, 0.9, 1.0]) == "90.0 ± 10.0"
    assert tables._spread([]) == "failed"


def test_unusable_data(video_data, tiny_data, tmp_path):
    config, chosen = small_plan(tiny_data)
    with pytest.raises(UserError, match="no examples in split 'test'"):
        run.reproduce(config, chosen, tiny_data, tmp_path / "out", ("video",), 1)
    _, error = program("reproduce", "--data=nowhere", f"--output={tmp_path / 'out'}", status=1)
    assert "nowhere/dataset.json: no such file" in error
    _, error = program(
        "reproduce",
        f"--data={video_data}",
        f"--output={tmp_path / 'out'}",
        "--config=no.py",
        status=1,
    )
    assert "--config=no.py: No such file" in error
