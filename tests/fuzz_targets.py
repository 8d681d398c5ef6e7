"""Targets of the fuzzer: valid samples of each file format, and its reader.

A sample is a folder as {name: content}; the fuzzer mutates one file of it at a time.
"""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import numpy as np
import pillow_heif
from conftest import tiny_config, tiny_image, tiny_source
from openvino_writer import small_network
from PIL import Image
from protobuf_writer import field
from test_containers import STEADY
from test_containers import write as write_container
from test_pose_data import annotation
from test_pose_movenet import arrays, write_model
from test_pose_weights import constant, float_constant, random_graph, shape_message
from test_videos import write_video
from test_weights import FILES, archive, tensor

from jdance import config as defaults
from jdance import models, shipped, skeleton, weights
from jdance.data import (
    crop,
    images,
    loader,
    openpose_json,
    pose_loader,
    prepare,
    prepare_scenes,
    records,
    scenes,
    skeleton_npz,
    sources,
    videos,
)
from jdance.pose import importers
from jdance.pose import weights as pose_weights
from jdance.recognize import packed
from jdance.recognize.recognizer import Recognizer
from jdance.train import calibration, distributed, experiment, loop, posture, tasks
from jdance.train.checkpoints import Checkpoints
from jdance.weights import caffemodel, checkpoint, graphdef, openvino, tfjs

Sample = dict[str, bytes]


class Target(NamedTuple):
    """A reader with its samples.

    Attributes:
        samples: makes the samples, with an empty folder to work in.
        read: reads a folder; may only write to its subfolder "out".
        weight: relative number of inputs.
        mutable: whether a file of a sample may be mutated.
    """

    samples: Callable[[Path], list[Sample]]
    read: Callable[[Path], object]
    weight: float = 1.0
    mutable: Callable[[str], bool] = lambda name: True


def files_of(folder: Path) -> Sample:
    """Returns the contents of all files below a folder by their relative paths."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# Images and videos -----------------------------------------------------------------------------


def _images(folder: Path) -> list[Sample]:
    image = tiny_image(1)[0]
    for suffix in images.SUFFIXES:
        images.write(folder / f"x{suffix}", image)
    cv2.imwrite(str(folder / "deep.png"), image.astype(np.uint16) * 200)
    cv2.imwrite(str(folder / "alpha.png"), np.dstack([image, image[..., :1]]))
    cv2.imwrite(str(folder / "gray.tif"), image[..., 0])
    cv2.imwrite(str(folder / "progressive.jpg"), image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    pillow_heif.register_heif_opener()
    for name in ("x.heic", "x.avif"):
        Image.fromarray(image).save(folder / name)
    return [{name: data} for name, data in files_of(folder).items()]


def _read_images(folder: Path) -> None:
    for path in images.find(folder):
        images.read(path)


def _videos(folder: Path) -> list[Sample]:
    write_video(folder / "a.webm", 8)
    for name, code in (("b.avi", "MJPG"), ("c.mp4", "mp4v"), ("d.mkv", "FFV1")):
        writer = cv2.VideoWriter(
            str(folder / name), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), 10, (80, 96)
        )
        for i in range(8):
            writer.write(tiny_image(i)[0])
        writer.release()
    write_container(folder / "e.mkv", STEADY[:12], bf="2")
    write_container(folder / "f.mp4", STEADY[:12], unit=Fraction(1, 90000), sar=Fraction(4, 3))
    write_container(folder / "g.mpg", STEADY[:12], codec="mpeg2video", unit=Fraction(1, 25))
    frames = [Image.fromarray(tiny_image(i)[0]) for i in range(4)]
    for name in ("h.gif", "i.webp", "j.png"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], duration=80)
    return [{name: data} for name, data in files_of(folder).items() if data]


def _read_videos(folder: Path) -> None:
    for path in videos.find(folder):
        for when in videos.times(path, 2.0)[:20]:
            videos.frame_at(path, when)
        with closing(videos.Video(path)) as video:
            for frame in video:
                assert frame.image.dtype == np.uint8


# Labels and key points ---------------------------------------------------------------------------


def _manifests(folder: Path) -> list[Sample]:
    images.write(folder / "p.png", tiny_image(0)[0])
    write_video(folder / "v.webm", 8)
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["path", "label", "split", "group", "start", "end", "box", "person"])
    for i in range(6):
        writer.writerow(["p.png", "ab"[i % 2], ["train", "test"][i % 2], f"g{i}", "", "",
                         "5,5,40,60" if i % 3 == 0 else "", 0 if i % 3 == 1 else ""])  # fmt: skip
    writer.writerow(["v.webm", "a", "", "film", "0.1", "0.6", "", ""])
    return [files_of(folder) | {"manifest.csv": stream.getvalue().encode()}]


def _one_person(image: np.ndarray) -> np.ndarray:
    return tiny_image(0)[1]


def _prepare(folder: Path) -> None:
    source = sources.open_source(str(folder / "manifest.csv"))
    prepare.prepare(source, folder / "out", _one_person)


def _openpose(folder: Path) -> list[Sample]:
    for i in range(3):
        found = np.concatenate([tiny_image(i)[1], tiny_image(i + 1)[1]])
        openpose_json.write(folder / f"f_{i}_keypoints.json", found)
    body25 = {"people": [{"pose_keypoints_2d": [float(i % 9 + 1) for i in range(75)]}]}
    return [files_of(folder), {"body_25_keypoints.json": json.dumps(body25).encode()}]


def _read_openpose(folder: Path) -> None:
    paths = openpose_json.frames(folder)
    for i in range(4):
        openpose_json.VideoKeypoints(paths[0].name.partition("_")[0], folder)(i)
    openpose_json.read_sequence(paths)


def _coco(folder: Path) -> list[Sample]:
    joints = np.random.default_rng(0).uniform(5, 95, (17, 3)).round()
    run_lengths = {"counts": [100, 50, 120 * 100 - 150], "size": [120, 100]}
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(2)],
        "annotations": [
            annotation(1, 0, joints), annotation(2, 1, box=(60, 70, 20, 30)),
            annotation(3, 0, crowd=1, segmentation=run_lengths), annotation(4, 1, joints),
        ],
    }  # fmt: skip
    (folder / "annotations").mkdir()
    (folder / "train").mkdir()
    for i in range(2):
        images.write(folder / "train" / f"{i}.jpg", np.full((120, 100, 3), 99, np.uint8))
    path = folder / "annotations" / "person_keypoints_train.json"
    path.write_text(json.dumps(content))
    return [files_of(folder)]


def _prepare_coco(folder: Path) -> None:
    prepare_scenes.prepare(str(folder), folder / "out")


def _skeletons(folder: Path) -> list[Sample]:
    rng = np.random.default_rng(0)
    still = {"xy": rng.uniform(0, 9, (6, 18, 2)), "conf": np.ones((6, 18)),
             "label": np.array(["a", "b"] * 3), "split": np.array(["train", "val"] * 3),
             "group": np.arange(6)}  # fmt: skip
    moving = {"poses": rng.uniform(0, 9, (12, 17, 2)), "lengths": np.array([3, 4, 2, 3]),
              "label": np.array([0, 1, 0, 1])}  # fmt: skip
    named = {"xy": rng.uniform(0, 1, (6, 18, 2)), "label": np.array([0, 1] * 3),
             "joints": np.array(skeleton.NAMES), "size": rng.integers(90, 999, (6, 2))}  # fmt: skip
    np.savez(folder / "a.npz", **still)
    np.savez(folder / "c.npz", **named)
    np.savez_compressed(folder / "b.npz", **moving)
    return [{name: data} for name, data in files_of(folder).items()]


def _prepare_skeletons(folder: Path) -> None:
    (path,) = folder.glob("*.npz")
    skeleton_npz.read(path)
    prepare.prepare(sources.open_source(str(path)), folder / "out", None)


# Weights -----------------------------------------------------------------------------------------


def _read_weights(folder: Path) -> None:
    for path in folder.iterdir():
        weights.read(path)


def _pth(folder: Path) -> list[Sample]:
    more = archive({"a": tensor(shape=(3, 2), strides=(1, 3)), "b": tensor(shape=(), strides=())})
    return [{n: d} for n, d in (FILES["zip"], FILES["legacy"])] + [{"net.pth": more}]


def _graphs(folder: Path) -> list[Sample]:
    shape = field(2, shape_message([2]))
    small = float_constant("a", np.ones((3, 4))) + constant(
        "b", field(1, 3) + shape + field(7, 5) + field(7, -1)
    )
    return [{"small.pb": small}, {"graph.pb": b"".join(random_graph()[1].values())}]


def _read_graphs(folder: Path) -> None:
    (path,) = folder.iterdir()
    graphdef.read_constants(path)
    if path.name == "graph.pb":
        importers.import_mobilenet_v2_small(path)


def _caffe(folder: Path) -> list[Sample]:
    rng = np.random.default_rng(0)

    def blob(array: np.ndarray, old: bool) -> bytes:
        sizes = array.shape
        shape = b"".join(field(i + 1, n) for i, n in enumerate(sizes))
        if not old:
            shape = field(7, b"".join(field(1, n) for n in sizes))
        return shape + field(5, array.astype("<f4").tobytes())

    result = []
    for old in (False, True):
        arrays = rng.random((2, 3, 1, 1)), rng.random((1, 1, 1, 2))
        body = b"".join(field(6 if old else 7, blob(array, old)) for array in arrays)
        layer = field(4 if old else 1, b"conv1_1") + body
        result.append({"net.caffemodel": field(1, b"net") + field(2 if old else 100, layer)})
    return result


def _read_caffe(folder: Path) -> None:
    caffemodel.read(folder / "net.caffemodel")


def _openvino(folder: Path) -> list[Sample]:
    result = []
    for i, dtype in enumerate((np.float32, np.float16, np.uint8)):
        subfolder = folder / str(i)
        subfolder.mkdir()
        small_network(dtype)[0].write(subfolder / "net.xml")
        result.append(files_of(subfolder))
    return result


def _read_openvino(folder: Path) -> None:
    for convolution in openvino.read(folder / "net.xml").values():
        assert np.isfinite(convolution.kernel).all() and np.isfinite(convolution.bias).all()


def _tfjs(folder: Path) -> list[Sample]:
    result = []
    for shards in (1, 3):
        subfolder = folder / str(shards)
        subfolder.mkdir()
        write_model(subfolder / "m.json", arrays(), shards)
        result.append(files_of(subfolder))
    return result


def _read_tfjs(folder: Path) -> None:
    tfjs.read(folder / "m.json")


def _packed(folder: Path) -> list[Sample]:
    config = {"network": "light", "width": 4, "stages": 1}
    shapes = pose_weights.abstract_variables(pose_weights.build(config))
    rng = np.random.default_rng(0)
    flat = {path: rng.random(leaf.shape, np.float32) for path, leaf in shapes.items()}
    pose_weights.pack(folder / "pose.npz", config, pose_weights.unflatten_dict(flat))
    return [files_of(folder)]


def _read_packed(folder: Path) -> None:
    pose_weights.unpack(folder / "pose.npz")


def _motion(folder: Path) -> list[Sample]:
    """The shipped model with a hidden layer of 8: mutations then hit its description, too."""
    with np.load(shipped.FILES["dance6"]) as file:
        info = json.loads(str(file["model"]))
    info["config"]["model"] |= {"keypoint_widths": [8], "fusion_widths": []}
    config = defaults.base()
    config.update(info["config"])
    shapes = packed.abstract_variables(config, info["classes"])
    arrays = {"/".join(path): np.zeros(leaf.shape, np.float16) for path, leaf in shapes.items()}
    np.savez_compressed(folder / "motion.npz", model=np.array(json.dumps(info)), **arrays)
    packed.load(folder / "motion.npz")  # else every mutation would be rejected
    return [files_of(folder)]


def _read_motion(folder: Path) -> None:
    model = packed.load(folder / "motion.npz")
    Recognizer(model.config, model.classes, model.variables, None, 4, model.temperature)


def _posture(folder: Path) -> list[Sample]:
    segments = np.random.default_rng(0).random((20, 22), np.float32)
    posture.fit(segments, np.arange(20) % 2, ("a", "b")).save(folder / "posture.npz")
    return [files_of(folder)]


def _read_posture(folder: Path) -> None:
    model = posture.PostureModel.load(folder / "posture.npz")
    for motion in model.classes:
        model.score_parts(tiny_image(0)[1][0], motion)


def _imported(folder: Path) -> list[Sample]:
    checkpoint.save(folder / "w", "model.json", {"network": "x"}, {"params": {"a": np.ones(50)}})
    return [files_of(folder)]


def _read_imported(folder: Path) -> None:
    checkpoint.read_config(folder / "w", "model.json", "ResNet")
    checkpoint.read_variables(folder / "w", "ResNet")


# Data sets and runs ------------------------------------------------------------------------------


def _data(folder: Path) -> list[Sample]:
    prepare.prepare(tiny_source(8), folder / "data", None)
    return [files_of(folder)]


def _read_data(folder: Path) -> None:
    dataset = records.Dataset(folder / "data")
    dataset.fingerprint()
    config = tiny_config(folder / "data")
    config.model.layout = dataset.layout
    assert isinstance(dataset.classes, list)
    for split in ("train", "val"):
        source = dataset.source(split)
        for i in range(len(source)):
            loader.batch(
                [i],
                [np.random.default_rng(i)],
                source=source,
                config=config,
                inputs=models.inputs(config.model),
            )


def _read_data_with_valid_checksums(folder: Path) -> None:
    """Reads a data set after its checksums were updated to the mutated files."""
    path = folder / "data" / "dataset.json"
    info = json.loads(path.read_text())
    for split in info["splits"].values():
        split["checksums"] = [
            hashlib.sha256((folder / "data" / name).read_bytes()).hexdigest()
            for name in split["shards"]
        ]
    path.write_text(json.dumps(info))
    _read_data(folder)


def _persons(folder: Path) -> list[Sample]:
    image, keypoints = tiny_image(0)
    jpeg = images.encode_jpeg(crop.cut(image, crop.image_square(*image.shape[:2])))
    still = records.Example(keypoints[0], 1, jpeg, "g", "s")
    moving = records.Example(np.stack([keypoints[0]] * 5), 0, None, "g", "s")
    return [{"r.msgpack": records.pack(example)} for example in (still, moving)]


def _read_persons(folder: Path) -> None:
    data = (folder / "r.msgpack").read_bytes()
    config = tiny_config(folder)
    records.read_labels([data])
    example = records.unpack(data)
    config.model.branches = "fused" if example.image is not None else "sequence"
    batch = loader.batch(
        [0],
        [np.random.default_rng(0)],
        source=[data],
        config=config,
        inputs=models.inputs(config.model),
    )
    for value in batch.values():
        assert np.isfinite(value).all()


def _people(folder: Path) -> list[Sample]:
    image, keypoints = tiny_image(0)
    record = scenes.SceneRecord(
        images.encode_jpeg(image), keypoints, np.ones((1, 4), np.float32),
        np.ones(1, np.float32), np.zeros(1, bool), np.full(image.shape[:2], 255, np.uint8), "n",
    )  # fmt: skip
    return [{"r.msgpack": scenes.pack(record)}]


def _read_people(folder: Path) -> None:
    from jdance import config as defaults

    config = defaults.pose()
    config.data.image_size = 64
    data = (folder / "r.msgpack").read_bytes()
    pose_loader.make_example((0, data), np.random.default_rng(0), config=config)


def _runs(folder: Path) -> list[Sample]:
    """Makes the folder of a small key-point run with one checkpoint."""
    prepare.prepare(tiny_source(16), folder / "data", None)
    dataset = records.Dataset(folder / "data")
    config = tiny_config(folder / "data")
    config.model.branches = "keypoints"
    task = tasks.make(config, dataset.classes)
    experiment.claim(folder / "run", task.config, dataset)
    fresh = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), loop._abstract_state(task))
    with closing(Checkpoints(folder / "run", owner=True)) as checkpoints:
        checkpoints.save(1, distributed.replicate(fresh), 0.5)
    (folder / "run" / "calibration.json").write_text('{"temperature": 1.5}')
    shutil.rmtree(folder / "data")
    return [files_of(folder)]


def _read_run(folder: Path) -> None:
    loop.load(folder / "run")
    calibration.load_temperature(folder / "run")


def _read_config(folder: Path) -> None:
    config, _ = experiment.read(folder / "run")
    experiment.check(tasks.make(config, ["a", "b", "c"]))
    calibration.load_temperature(folder / "run")


TARGETS: dict[str, Target] = {
    "images": Target(_images, _read_images, 2.0),
    "videos": Target(_videos, _read_videos),
    "manifest": Target(_manifests, _prepare, 0.7, lambda name: name == "manifest.csv"),
    "openpose": Target(_openpose, _read_openpose),
    "coco": Target(_coco, _prepare_coco, 0.7, lambda name: name.endswith(".json")),
    "skeletons": Target(_skeletons, _prepare_skeletons),
    "pth": Target(_pth, _read_weights, 1.5),
    "safetensors": Target(lambda _: [dict([FILES["safetensors"]])], _read_weights),
    "graph": Target(_graphs, _read_graphs),
    "caffemodel": Target(_caffe, _read_caffe),
    "openvino": Target(_openvino, _read_openvino),
    "tfjs": Target(_tfjs, _read_tfjs),
    "pose": Target(_packed, _read_packed, 0.7),
    "motion": Target(_motion, _read_motion, 0.5),
    "posture": Target(_posture, _read_posture, 0.5),
    "imported": Target(_imported, _read_imported, 0.3),
    "dataset": Target(_data, _read_data, 0.7, lambda name: name.endswith(".json")),
    "shards": Target(_data, _read_data, 0.3, lambda name: name.endswith("record")),
    "hostile shards": Target(
        _data, _read_data_with_valid_checksums, 0.5, lambda name: name.endswith("record")
    ),
    "persons": Target(_persons, _read_persons),
    "people": Target(_people, _read_people),
    "checkpoint": Target(_runs, _read_run, 0.3, lambda name: "/checkpoints/" in name),
    "config": Target(_runs, _read_config, 0.5, lambda name: name.count("/") == 1),
}
