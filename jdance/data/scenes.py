"""Whole images with everybody in them: what pose networks are trained and judged on.

One record is a msgpack map:
    image       the image's file, as it came or JPEG
    people      float32 [M, 18, 3] as bytes, little endian: x, y in pixels of the image, score 1;
                somebody without a labelled joint is all zeros
    boxes       float32 [M, 4]: x, y, width, height
    areas       float32 [M]: how many pixels show the person
    crowd       bool [M]: not one person but a crowd
    mask        PNG of the image's size, 0 where nothing is known of the people there; or None
    name        the image's name
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
    """The image of a record.

    Raises:
        UserError: it is none.
    """
    with records.reading():
        record = msgpack.unpackb(data)
        image, mask = record["image"], record["mask"]
        if not isinstance(image, bytes):
            raise ValueError("an image that is no bytes")
        if mask is not None:
            mask = images.decode(mask, cv2.IMREAD_GRAYSCALE)
            if mask is None:
                raise ValueError("its mask is no image")
        found = np.frombuffer(record["people"], "<f4").reshape(-1, skeleton.NUM_JOINTS, 3)
        boxes = np.frombuffer(record["boxes"], "<f4").reshape(-1, 4)
        areas = np.frombuffer(record["areas"], "<f4")
        crowd = np.frombuffer(record["crowd"], np.uint8) != 0
        if not len(found) == len(boxes) == len(areas) == len(crowd):
            raise ValueError("not as many boxes as people")
        name = str(record["name"])
        return SceneRecord(image, skeleton.clean(found), boxes, areas, crowd, mask, name)
