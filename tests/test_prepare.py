"""Preparation of data sets: written examples, and errors for bad input."""

import json
import unicodedata

import numpy as np
import pytest
from conftest import tiny_image

from jdance import skeleton
from jdance.data import crop, images, records, splits
from jdance.data.prepare import prepare, summary
from jdance.data.sources import open_source
from jdance.errors import UserError


def detect_nothing(image):
    return np.zeros((0, 18, 3), np.float32)


def two_people(image):
    """Detects a small person on the left and a large one on the right."""
    people = np.zeros((2, 18, 3), np.float32)
    rng = np.random.default_rng(0)
    people[0, :, :2] = rng.uniform([5, 5], [25, 45], (18, 2))
    people[1, :, :2] = rng.uniform([35, 5], [75, 90], (18, 2))
    people[..., 2] = 0.9
    return people


@pytest.fixture
def photos(tmp_path):
    """A folder class/file of 12 images."""
    for i in range(12):
        folder = tmp_path / "photos" / ("jump", "turn")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        images.write(folder / f"{i:02}.png", tiny_image(i)[0])
    return tmp_path / "photos"


def load(folder, split):
    source = records.Dataset(folder).source(split)
    return [records.unpack(source[i]) for i in range(len(source))]


def test_folder_of_classes(photos, tmp_path):
    out = tmp_path / "data"
    info = prepare(open_source(str(photos)), out, two_people, pose="fake")
    assert info == json.loads((out / "dataset.json").read_text())
    assert info["classes"] == ["jump", "turn"] and not info["skipped"]
    assert {n: s["count"] for n, s in info["splits"].items()} == {"train": 8, "val": 2, "test": 2}
    found = [e for name in info["splits"] for e in load(out, name)]
    assert sorted(e.source for e in found) == sorted(
        f"{('jump', 'turn')[i % 2]}/{i:02}.png" for i in range(12)
    )
    for example in found:
        assert info["classes"][example.label] == example.source.split("/")[0]
        assert example.person == 1  # the largest
        large = two_people(None)[1]
        square = crop.person_square(large)
        np.testing.assert_allclose(example.keypoints, crop.to_crop(large, square), atol=1e-4)
        image = images.read(photos / example.source)
        difference = crop.cut(image, square).astype(int) - records.decode_image(example.image)
        assert np.abs(difference).mean() < 4  # JPEG


def test_folder_with_splits(photos, tmp_path):
    for split in ("train", "test"):
        for label in ("jump", "turn"):
            (photos / split / label).mkdir(parents=True)
    for i in range(12):
        label = ("jump", "turn")[i % 2]
        name = f"{label}/{i:02}.png"
        (photos / name).rename(photos / ("train" if i < 8 else "test") / name)
    for label in ("jump", "turn"):
        (photos / label).rmdir()
    info = prepare(open_source(str(photos)), tmp_path / "data", detect_nothing)
    assert {n: s["count"] for n, s in info["splits"].items()} == {"train": 8, "test": 4}


def test_whole_image_is_kept_without_detections(photos, tmp_path):
    info = prepare(open_source(str(photos)), tmp_path / "data", detect_nothing)
    assert info["splits"]["train"]["people_found"] == 0
    example = load(tmp_path / "data", "train")[0]
    assert not example.keypoints.any()
    view = records.decode_image(example.image)
    assert view.shape == (256, 256, 3) and view[:, :16].max() < 10 < view[:, 40].max()


def test_also_whole_adds_training_examples(photos, tmp_path):
    source = open_source(str(photos))
    info = prepare(source, tmp_path / "data", two_people, also_whole=True)
    assert {n: s["count"] for n, s in info["splits"].items()} == {"train": 16, "val": 2, "test": 2}
    assert info["splits"]["train"]["people_found"] == 8
    line = "train: 8 examples, people detected in 8; 8 more as whole images without people"
    assert summary(info)[0] == line and summary(info)[1] == "val: 2 examples, people detected in 2"
    crops, whole = load(tmp_path / "data", "train")[:2]
    assert crops.source == whole.source and crops.label == whole.label
    assert crops.keypoints.any() and not whole.keypoints.any()
    assert records.decode_image(whole.image)[:, :16].max() < 10  # beside the upright image


@pytest.mark.parametrize(
    ("column", "value", "people"),
    [("box", '"5,5,20,40"', [0]), ("box", "36 6 30 80", [1]), ("person", "0", [0]),
     ("person", "1", [1]), ("group", "video", [1])],
)  # fmt: skip
def test_manifest_selects_the_labeled_person(photos, tmp_path, column, value, people):
    rows = "".join(f"jump/{i:02}.png,jump,train,{value}\n" for i in range(0, 12, 2))
    (photos / "manifest.csv").write_text(f"path,label,split,{column}\n{rows}")
    prepare(open_source(str(photos / "manifest.csv")), tmp_path / "data", two_people)
    found = load(tmp_path / "data", "train")
    assert [e.person for e in found] == people * 6
    assert found[0].keypoints.any()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("person", "7", "person 7, counted from 0, but 2 were found"),
        ("person", "-1", "expected 0 or a whole number"),
        ("person", "0.5", "expected 0 or a whole number"),
        ("box", '"500,500,20,20"', "lies outside the image"),
        ("box", '"0,0,0,0"', "lies outside the image"),
    ],
)
def test_labels_of_missing_people_are_skipped(photos, tmp_path, column, value, message):
    rows = f"jump/00.png,jump,train,{value}\n" + "jump/02.png,jump,train,\n" * 2
    (photos / "manifest.csv").write_text(f"path,label,split,{column}\n{rows}")
    info = prepare(open_source(str(photos / "manifest.csv")), tmp_path / "data", two_people)
    assert info["splits"]["train"]["count"] == 2
    assert message in info["skipped"][0]["reason"]


def test_label_all_and_selected_rows(photos, tmp_path):
    rows = "".join(f"jump/{i:02}.png,jump,train,{i // 2}\n" for i in range(0, 12, 2))
    (photos / "manifest.csv").write_text(f"path,label,split,day\n{rows}")
    source = open_source(str(photos / "manifest.csv"), label_all=True, where="day=3")
    assert [p.name for p in source.items] == ["jump/06.png"]
    source = open_source(str(photos / "manifest.csv"), label_all=True)
    prepare(source, tmp_path / "data", two_people)
    assert [e.person for e in load(tmp_path / "data", "train")] == [0, 1] * 6


def test_another_column_of_splits(photos):
    rows = "".join(
        f"jump/{i:02}.png,jump,,{'test' if i > 4 else 'Train'}\n" for i in range(0, 8, 2)
    )
    manifest = photos / "manifest.csv"
    manifest.write_text(f"path,label,split,Subset\n{rows}")
    source = open_source(str(manifest), split_column="subset", where="Subset=test")
    assert [item.split for item in source.items] == ["test"]
    source = open_source(str(manifest), split_column="Subset")
    assert [item.split for item in source.items] == ["train"] * 3 + ["test"]
    for name, message in (
        (manifest, "has the columns path, label, split, subset"), (photos, "only a .csv or .npz"),
        ("stage:tiny", "only a .csv or .npz"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"^--split_column=fold: .*{message}"):
            open_source(str(name), split_column="fold")


def test_skeleton_file(tmp_path):
    rng = np.random.default_rng(0)
    xy, conf = rng.uniform(0, 1, (20, 18, 2)), rng.uniform(0.2, 1, (20, 18))
    conf[3] = 0
    label = np.array(["sit", "stand"] * 10)
    np.savez(tmp_path / "s.npz", xy=xy, conf=conf, label=label, split=np.array(["train"] * 20))
    info = prepare(open_source(str(tmp_path / "s.npz")), tmp_path / "data", None)
    assert info["splits"]["train"]["people_found"] == 19
    found = load(tmp_path / "data", "train")
    assert all(example.image is None for example in found)
    # Features are invariant to the crop's shift and scale.
    from jdance import features

    original = np.concatenate([xy, conf[..., None]], -1).astype(np.float32) * [640, 640, 1]
    np.testing.assert_allclose(
        features.compute("fused18", np.stack([e.keypoints for e in found])),
        features.compute("fused18", original.astype(np.float32)),
        atol=0.02,
    )


def test_stage_with_and_without_a_pose_network(tmp_path, monkeypatch):
    from jdance.stagedance import stage

    small = {name: dict.fromkeys(stage.MOTIONS, 2) for name in ("train", "test")}
    monkeypatch.setitem(stage.PRESETS, "small", small)
    info = prepare(open_source("stage:small"), tmp_path / "given", None)
    assert info["classes"] == list(stage.MOTIONS)
    assert info["splits"]["train"]["per_class"] == small["train"]
    known = load(tmp_path / "given", "test")
    assert all(example.keypoints.any() for example in known)
    # Exact detections in another order: every label must match its own dancer.
    plan = open_source("stage:small").items
    truth = {p.name: p.load().keypoints for p in plan}
    images_to_people = {p.load().image.tobytes(): truth[p.name][::-1] for p in plan}
    prepare(
        open_source("stage:small"), tmp_path / "seen", lambda im: images_to_people[im.tobytes()]
    )
    for a, b in zip(known, load(tmp_path / "seen", "test"), strict=True):
        assert a.label == b.label
        np.testing.assert_allclose(a.keypoints, b.keypoints, atol=1e-3)


def test_splits_keep_groups_and_contain_all_classes():
    rng = np.random.default_rng(0)
    groups = [f"g{i}" for i in range(40) for _ in range(int(rng.integers(1, 6)))]
    labels = [f"c{int(g[1:]) % 4}" for g in groups]
    fractions = {"train": 0.8, "val": 0.1, "test": 0.1}
    drawn = splits.draw(labels, groups, fractions, seed=3)
    assert drawn == splits.draw(labels, groups, fractions, seed=3)
    assert drawn != splits.draw(labels, groups, fractions, seed=4)
    for group in set(groups):
        assert len({s for s, g in zip(drawn, groups, strict=True) if g == group}) == 1
    for label in set(labels):
        own = [s for s, c in zip(drawn, labels, strict=True) if c == label]
        assert own.count("train") > 0.6 * len(own) and "val" in own and "test" in own


# Bad input ----------------------------------------------------------------------------------------


def test_damaged_images_are_listed_as_skipped(photos, tmp_path):
    (photos / "jump" / "text.jpg").write_text("this is no image\n")
    truncated = (photos / "turn" / "01.png").read_bytes()[:40]
    (photos / "turn" / "01.png").write_bytes(truncated)
    (photos / "turn" / "empty.jpg").touch()
    (photos / "turn" / "notes.txt").write_text("hello")
    info = prepare(open_source(str(photos)), tmp_path / "data", detect_nothing)
    assert {s["file"].split("/")[-1] for s in info["skipped"]} == {
        "text.jpg", "01.png", "empty.jpg", "notes.txt",
    }  # fmt: skip
    assert all("\n" not in entry["reason"] for entry in info["skipped"])
    assert sum(s["count"] for s in info["splits"].values()) == 11


def test_skipped_entries_have_specific_reasons(photos, tmp_path):
    (photos / "jump" / "anna").mkdir()
    (photos / "jump" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (photos / "jump" / "notes.txt").write_text("hello")
    (photos / "jump" / "phone.jpg").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic")
    info = prepare(open_source(str(photos)), tmp_path / "data", detect_nothing)
    reasons = {s["file"].rpartition("/")[2]: s["reason"] for s in info["skipped"]}
    assert reasons["anna"].startswith("a nested folder, which is not read")
    assert reasons["gone.jpg"] == "a link to a missing file"
    assert reasons["notes.txt"] == "not a supported image or video format"
    assert "phone.jpg: " in reasons["phone.jpg"] and len(reasons) == 4
    source = open_source(str(photos))
    assert [item.name for item in source.items if item.name.startswith("jump")] == [
        *(f"jump/{i:02}.png" for i in range(0, 12, 2)), "jump/phone.jpg",
    ]  # fmt: skip
    assert [name.rpartition("/")[2] for name, _ in source.skipped] == [
        "anna", "gone.jpg", "notes.txt",
    ]  # fmt: skip


def test_split_folders_are_case_insensitive(photos, tmp_path):
    for split, numbers in (("Train", range(8)), ("TEST", range(8, 12))):
        for i in numbers:
            name = f"{('jump', 'turn')[i % 2]}/{i:02}.png"
            (tmp_path / "in" / split / name).parent.mkdir(parents=True, exist_ok=True)
            (photos / name).rename(tmp_path / "in" / split / name)
    info = prepare(open_source(str(tmp_path / "in")), tmp_path / "data", detect_nothing)
    assert {n: s["count"] for n, s in info["splits"].items()} == {"train": 8, "test": 4}


def test_class_names_are_normalized_and_missing_classes_noted(photos, tmp_path):
    """macOS decomposes accents in file names."""
    composed, decomposed = (unicodedata.normalize(f, "arabesqué") for f in ("NFC", "NFD"))
    for split, name in (("train", composed), ("test", decomposed)):
        (tmp_path / "in" / split / name).mkdir(parents=True)
        for i in range(2):
            images.write(tmp_path / "in" / split / name / f"{i}.png", tiny_image(i)[0])
    (tmp_path / "in" / "train" / "plank").mkdir()
    for i in range(2):
        images.write(tmp_path / "in" / "train" / "plank" / f"{i}.png", tiny_image(i)[0])
    info = prepare(open_source(str(tmp_path / "in")), tmp_path / "data", detect_nothing)
    assert info["classes"] == [composed, "plank"]
    assert info["splits"]["test"]["per_class"] == {composed: 2, "plank": 0}
    note = "note: no example of class 'plank' in test"
    assert note in summary(info) and note not in summary(info, complete=False)
    rows = "".join(f"train/{composed}/{i}.png,{decomposed}\n" for i in range(2))
    (tmp_path / "in" / "m.csv").write_text(f"path,label\n{rows}")
    assert open_source(str(tmp_path / "in" / "m.csv")).classes == [composed]
    np.savez(tmp_path / "s.npz", xy=np.ones((2, 18, 2)), label=[composed, decomposed])
    named = open_source(str(tmp_path / "s.npz"), labels={decomposed: "other"})
    assert len(named.items) == 2 and named.classes == ["other"]


@pytest.mark.parametrize(
    ("head", "separator", "encoding"),
    [("path,label,Split", ",", "utf-8"), ("Path, LABEL , split", ",", "utf-8-sig"),
     ("path;label;split", ";", "utf-8-sig"), ("path\tLabel\tsplit", "\t", "utf-8"),
     ("path\tlabel\tsplit", "\t", "utf-16"), ("sep=;\r\npath;label;split", ";", "utf-8"),
     ('"path","label","split"', ",", "utf-8"), ("\r\npath;label;split", ";", "utf-8")],
)  # fmt: skip
def test_manifests_of_spreadsheet_programs(photos, head, separator, encoding):
    rows = [separator.join((f"jump/{i:02}.png ", " jump", "Train")) for i in range(0, 12, 2)]
    rows += [separator * 2, separator.join(("jump/gone.png", "jump", "Train")), "", separator]
    name = "M.TSV" if separator == "\t" else "M.CSV"
    (photos / name).write_bytes("\r\n".join([head, *rows]).encode(encoding))
    source = open_source(str(photos / name), where="SPLIT=Train")
    assert len(source.items) == 6 and source.classes == ["jump"]
    assert {item.split for item in source.items} == {"train"}
    line = 9 + head.count("\n")
    assert [entry for entry, _ in source.skipped] == [f"{photos / name}, line {line}"]


def test_a_manifest_that_is_not_unicode(photos):
    (photos / "m.csv").write_bytes("path;label\njump/00.png;arabesqué".encode("cp1252"))
    with pytest.raises(UserError, match="save it with the encoding UTF-8"):
        open_source(str(photos / "m.csv"))


def test_boxes_without_detections_are_listed(photos, tmp_path):
    boxes = ['"36,6,30,80"', '"28,60,6,6"', '"70,80,9,15"']
    rows = "".join(f"jump/{2 * i:02}.png,jump,train,{box}\n" for i, box in enumerate(boxes))
    (photos / "m.csv").write_text(f"path,label,split,box\n{rows}")
    info = prepare(open_source(str(photos / "m.csv")), tmp_path / "data", two_people)
    assert info["splits"]["train"]["count"] == 3 and not info["skipped"]
    assert info["unmatched"] == [
        "jump/02.png, box 28,60,6,6",
        "jump/04.png, box 70,80,9,15",
    ]
    lines = summary(info)
    assert any("in the box of 2 labels" in line for line in lines)
    assert "note: no person in jump/04.png, box 70,80,9,15" in lines


def test_only_damaged_images_raise(tmp_path):
    for label in "ab":
        (tmp_path / "in" / label).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "in" / label / f"{i}.jpg").write_text("no")
    with pytest.raises(
        UserError, match=r"no usable training examples; the first problem: a/0\.jpg: "
    ):
        prepare(open_source(str(tmp_path / "in")), tmp_path / "data", detect_nothing)
    assert not (tmp_path / "data" / "dataset.json").exists()


def test_class_with_one_image_is_dropped(photos, tmp_path):
    (photos / "single").mkdir()
    images.write(photos / "single" / "one.png", tiny_image(0)[0])
    info = prepare(open_source(str(photos)), tmp_path / "data", detect_nothing)
    assert info["classes"] == ["jump", "turn"]
    assert info["skipped"][0]["file"] == "single/one.png"
    assert "the only example of class 'single'" in info["skipped"][0]["reason"]


def test_manifest_with_missing_file(photos, tmp_path):
    rows = "".join(f"jump/{i:02}.png,jump\n" for i in range(0, 12, 2))
    (photos / "manifest.csv").write_text(f"path,label\n{rows}jump/gone.png,jump\njump/00.png,\n")
    info = prepare(open_source(str(photos / "manifest.csv")), tmp_path / "data", detect_nothing)
    assert [entry["file"] for entry in info["skipped"]] == [
        f"{photos / 'manifest.csv'}, line 8", f"{photos / 'manifest.csv'}, line 9",
    ]  # fmt: skip
    assert "gone.png: no such file" in info["skipped"][0]["reason"]
    assert sum(s["count"] for s in info["splits"].values()) == 6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty", None, "nothing to prepare"),
        ("absent", None, "no such file or folder"),
        ("m.csv", "file,class\na,b\n", "must name the columns path and label"),
        ("m.csv", "path,label\n", "nothing to prepare"),
        ("s.npz", "not an archive", "not a readable .npz"),
        ("s.txt", "x", "not a source"),
        ("stage:huge", None, "no such preset"),
    ],
)
def test_unusable_sources_raise(tmp_path, name, content, message):
    if name == "empty":
        (tmp_path / name).mkdir()
    if content is not None:
        (tmp_path / name).write_text(content)
    source = name if name.startswith("stage") else str(tmp_path / name)
    with pytest.raises(UserError, match=message) as error:
        open_source(source)
    assert "\n" not in str(error.value)


def test_skeleton_file_of_the_wrong_shape(tmp_path):
    good = {"xy": np.zeros((4, 18, 2)), "conf": np.zeros((4, 18)), "label": np.zeros(4)}
    wrong = [
        ({"xy": np.zeros((4, 17, 2))}, r"conf \(4, 18\): expected \(4, 17\)"),
        ({"xy": np.zeros((4, 18, 3))}, r"xy \(4, 18, 3\)"),
        ({"label": np.zeros(3)}, "4 skeletons with 3 labels"),
        ({"group": np.zeros(3)}, "group"),
        ({"lengths": np.array([1, 1, 1, 2])}, "lengths sum to 5"),
        ({"lengths": np.array([1.0, 1, 1, 1])}, "lengths: expected"),
        ({"xy": np.zeros((4, 16, 2)), "conf": np.zeros((4, 16))}, "16 joints, an unknown layout"),
        ({"xy": np.full((4, 18, 2), "a")}, "must be numbers"),
    ]
    for change, message in wrong:
        np.savez(tmp_path / "s.npz", **good | change)
        with pytest.raises(UserError, match=message):
            open_source(str(tmp_path / "s.npz"))
    np.savez(tmp_path / "s.npz", xy=np.zeros((4, 18, 2)))
    with pytest.raises(UserError, match="lacks the array 'label'"):
        open_source(str(tmp_path / "s.npz"))


def test_images_need_a_pose_network(photos, tmp_path):
    with pytest.raises(UserError, match="--pose"):
        prepare(open_source(str(photos)), tmp_path / "data", None)


def test_finished_data_sets_are_not_overwritten(photos, tmp_path):
    prepare(open_source(str(photos)), tmp_path / "data", detect_nothing)
    before = (tmp_path / "data" / "dataset.json").read_bytes()
    with pytest.raises(UserError, match="holds a data set already"):
        prepare(open_source(str(photos)), tmp_path / "data", detect_nothing)
    assert (tmp_path / "data" / "dataset.json").read_bytes() == before


def test_invalid_data_sets_raise(photos, tmp_path):
    with pytest.raises(UserError, match="prepare"):
        records.Dataset(tmp_path)
    with pytest.raises(UserError, match=r"stage:tiny: that is a source.* --source=stage:tiny "):
        records.Dataset("stage:tiny")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        records.Dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("[1]")
    with pytest.raises(UserError, match="not a data set"):
        records.Dataset(tmp_path)
    prepare(open_source(str(photos)), tmp_path / "data", detect_nothing)
    dataset = records.Dataset(tmp_path / "data")
    with pytest.raises(UserError, match="no examples in split 'dev'; it has train, val, test"):
        dataset.source("dev")
    (tmp_path / "data" / "train-00000.array_record").unlink()
    with pytest.raises(UserError, match="shard is missing"):
        dataset.source("train")


def test_conversion_to_coco18():
    coco17 = np.arange(17 * 3, dtype=np.float32).reshape(17, 3) + 1
    converted = skeleton.to_coco18(coco17)
    np.testing.assert_array_equal(converted[skeleton.L_WRIST], coco17[9])
    np.testing.assert_array_equal(converted[skeleton.R_ANKLE], coco17[16])
    np.testing.assert_array_equal(converted[skeleton.NECK, :2], (coco17[5] + coco17[6])[:2] / 2)
    body25 = np.arange(25 * 3, dtype=np.float32).reshape(25, 3) + 1
    np.testing.assert_array_equal(skeleton.to_coco18(body25)[skeleton.R_HIP], body25[9])
    np.testing.assert_array_equal(skeleton.to_coco18(body25)[skeleton.L_EAR], body25[18])
    with pytest.raises(ValueError, match="21"):
        skeleton.to_coco18(np.zeros((21, 3)))


def test_foreign_folders_are_kept_and_interrupted_runs_restart(photos, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.array_record").write_text("precious")
    with pytest.raises(UserError, match="is not empty"):
        prepare(open_source(str(photos)), foreign, detect_nothing)
    assert (foreign / "mine.array_record").read_text() == "precious"

    def interrupted(image):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(open_source(str(photos)), tmp_path / "data", interrupted)
    prepare(open_source(str(photos)), tmp_path / "data", detect_nothing)
    assert sum(len(load(tmp_path / "data", split)) for split in ("train", "val", "test")) == 12


def test_partly_assigned_groups_share_the_split(photos, tmp_path):
    rows = "jump/00.png,jump,test,video\njump/02.png,jump,,video\njump/04.png,jump,,other\n"
    (photos / "manifest.csv").write_text(f"path,label,split,group\n{rows}")
    prepare(open_source(str(photos / "manifest.csv")), tmp_path / "data", detect_nothing)
    assert {e.group for e in load(tmp_path / "data", "test")} == {"video"}
    assert len(load(tmp_path / "data", "test")) == 2
    (photos / "manifest.csv").write_text(
        f"path,label,split,group\n{rows}jump/06.png,jump,train,video\n"
    )
    with pytest.raises(UserError, match="a group cannot be divided"):
        prepare(open_source(str(photos / "manifest.csv")), tmp_path / "more", detect_nothing)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("jump/00.png,jump,a/b,,", "only letters"),
        ("jump/00.png,jump,,x,", "expected a number"),
        ('jump/00.png,jump,,,"nan,0,5,5"', "expected a number"),
        ('jump/00.png,jump,,,"1,2,3"', "expected x,y,width,height"),
        ('jump/00.png,jump,,,"1,2,-3,4"', "expected x,y,width,height"),
        (f"{'x' * 300}.png,jump,,,", "no such file"),
    ],
)
def test_invalid_manifest_rows_are_skipped(photos, row, message):
    text = f"path,label,split,person,box\n\njump/02.png,jump,,,\n{row}\n"
    (photos / "manifest.csv").write_text(text)
    source = open_source(str(photos / "manifest.csv"))
    assert len(source.items) == 1
    ((where, reason),) = source.skipped
    assert where.endswith("manifest.csv, line 4") and message in reason


def test_file_names_that_are_not_unicode(photos, tmp_path):
    (photos / "jump" / "00.png").rename(photos / "jump" / "caf\udce9.png")
    info = prepare(open_source(str(photos)), tmp_path / "data", detect_nothing)
    assert not info["skipped"]
    found = [e for split in info["splits"] for e in load(tmp_path / "data", split)]
    assert "jump/caf\ufffd.png" in {e.source for e in found}
    images.write(photos / "na\udcefve.png", tiny_image(0)[0])
    assert images.read(photos / "na\udcefve.png").shape == (96, 80, 3)


def test_people_of_invalid_size_are_skipped(photos, tmp_path):
    def giant(image):
        people = two_people(image)[:1]
        people[0, 0, 0] = 1e8
        return people

    with pytest.raises(UserError, match="key points that cannot be right"):
        prepare(open_source(str(photos)), tmp_path / "data", giant)


def test_damaged_shard_is_named(photos, tmp_path):
    prepare(open_source(str(photos)), tmp_path / "data", detect_nothing)
    shard = tmp_path / "data" / "train-00000.array_record"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match=r"train-00000.array_record: a shard .* is damaged"):
        records.Dataset(tmp_path / "data").source("train")


@pytest.mark.parametrize("kind", ["npy", "truncated", "strings", "bytes"])
def test_invalid_skeleton_files_raise(tmp_path, kind):
    arrays = {"xy": np.zeros((4, 18, 2)), "conf": np.ones((4, 18)), "label": np.array(["a"] * 4)}
    path = tmp_path / "s.npz"
    if kind == "npy":
        with path.open("wb") as file:
            np.save(file, arrays["xy"])
    else:
        if kind == "strings":
            arrays["xy"] = arrays["xy"].astype(str)
        if kind == "bytes":
            arrays["label"] = arrays["label"].astype("S")
        np.savez(path, **arrays)
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"s\.npz"):
        open_source(str(path))
