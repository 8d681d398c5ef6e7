"""Records of whole images with all people in them, for training and evaluating pose networks.

One record is a msgpack map:
    image       the original image file, or JPEG
    people      float32 [M, 18, 3], little-endian bytes: x, y in pixels of the image, score 1;
                all zeros for people without labeled joints
    boxes       float32 [M, 4]: x, y, width, height
    areas       float32 [M], in pixels
    crowd       bool [M], True for groups of people
    mask        PNG of the image's size, 0 where people are not annotated; or None
    name        name of the image
"""

from dataclasses import dataclass

import cv2
import msgpack
import numpy as np

from jdance import skeleton
from jdance.data import images, records


@dataclass(frozen=True)
class SceneRecord:
    """One image; the fields are those of the record, `mask` is uint8 [H, W] or None."""

    image: bytes
    people: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    mask: np.ndarray | None = None
    name: str = ""


def pack(record: SceneRecord) -> bytes:
    """Serializes a scene."""
    mask = None
    if record.mask is not None:
        mask = cv2.imencode(".png", record.mask)[1].tobytes()
    return msgpack.packb(
        {
            "image": record.image,
            "people": record.people.astype("<f4").tobytes(),
            "boxes": record.boxes.astype("<f4").tobytes(),
            "areas": record.areas.astype("<f4").tobytes(),
            "crowd": record.crowd.astype(bool).tobytes(),
            "mask": mask,
            "name": record.name,
        }
    )


def unpack(data: bytes) -> SceneRecord:
    """Deserializes a scene.

    Raises:
        UserError: the record is damaged.
    """
    with records.damaged_record_errors():
        record = msgpack.unpackb(data)
        image, mask = record["image"], record["mask"]
        if not isinstance(image, bytes):
            raise ValueError("an image of a wrong type")
        if mask is not None:
            mask = images.decode(mask, cv2.IMREAD_GRAYSCALE)
            if mask is None:
                raise ValueError("its mask is not an image")
        people = np.frombuffer(record["people"], "<f4").reshape(-1, skeleton.NUM_JOINTS, 3)
        boxes = np.frombuffer(record["boxes"], "<f4").reshape(-1, 4)
        areas = np.frombuffer(record["areas"], "<f4")
        crowd = np.frombuffer(record["crowd"], np.uint8) != 0
        if not len(people) == len(boxes) == len(areas) == len(crowd):
            raise ValueError("different numbers of boxes and people")
        name = str(record["name"])
        return SceneRecord(image, skeleton.clean(people), boxes, areas, crowd, mask, name)
