"""A baseline loader in PyTorch: a DataLoader that augments single examples with OpenCV."""

from typing import Any

import cv2
import numpy as np
import torch
from ml_collections import ConfigDict
from torch.utils.data import DataLoader, RandomSampler

from jdance import features, skeleton
from jdance.data import augment, crop, records


class Examples:
    """A map-style data set of crops, augmented by `config.augment`.

    Supports rotation, flip, joint noise and joint dropout.
    """

    def __init__(self, folder: str, config: ConfigDict):
        self._folder, self._size = folder, config.data.image_size
        self._layout = skeleton.LAYOUTS[config.model.layout]
        self._reduction = augment.reduction(self._size)
        self._augment = config.augment.to_dict()
        for other in ("scale", "shift", "stretch", "shear", "color", "erase"):
            assert not self._augment[other], other
        self._source: Any = None  # opened in each worker process
        self._count = records.Dataset(folder).count("train")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._source is None:
            self._source = records.Dataset(self._folder).source("train")
        settings, size = self._augment, self._size
        record = records.unpack(self._source[index])
        assert record.image is not None
        image = records.decode_image(record.image, self._reduction)
        rng = np.random.default_rng(index)
        side, visible = len(image), len(image) * 224 / crop.SIZE
        center = (side / 2 - 0.5, side / 2 - 0.5)
        angle = rng.uniform(-settings["rotation"], settings["rotation"])
        affine = np.asarray(cv2.getRotationMatrix2D(center, angle, size / visible), np.float64)
        affine[:, 2] += (size - side) / 2
        mirrored = rng.random() < settings["flip"]
        if mirrored:  # x -> side - 1 - x, before the rotation
            affine[:, 2] += affine[:, 0] * (side - 1)
            affine[:, 0] *= -1
        view = cv2.warpAffine(image, affine, (size, size), flags=cv2.INTER_LINEAR)
        keypoints = record.keypoints.copy()
        if mirrored:
            keypoints = keypoints[self._layout.flip]
        xy = (keypoints[:, :2] + 0.5) / self._reduction - 0.5
        keypoints[:, :2] = xy @ affine[:, :2].T + affine[:, 2]
        keypoints[:, :2] += rng.normal(0, settings["joint_noise"] * size, (len(keypoints), 2))
        keypoints[rng.random(len(keypoints)) < settings["joint_dropout"], 2] = 0
        keypoints[keypoints[:, 2] <= 0] = 0
        return {"image": view, "keypoints": keypoints, "label": record.label, "index": index}


def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stacks examples into a batch of tensors, and computes the features of all at once."""
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    keypoints = batch.pop("keypoints")
    batch["features"] = np.asarray(features.compute("fused18", keypoints))
    batch["valid"] = np.asarray(features.valid(keypoints))
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def init_worker(_: int) -> None:
    """Limits OpenCV to one thread per worker process."""
    cv2.setNumThreads(1)


def make_loader(folder: str, config: ConfigDict, workers: int, images: int) -> Any:
    """Builds a DataLoader of `images` shuffled examples, over several epochs if needed."""
    examples: Any = Examples(folder, config)
    return DataLoader(
        examples,
        config.batch_size,
        sampler=RandomSampler(examples, num_samples=images),
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=init_worker,
        multiprocessing_context="spawn",
        persistent_workers=True,
        drop_last=True,
    )
