"""Recognition of single images: result file and annotated image."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jdance.data import images, openpose_json
from jdance.recognize import feedback
from jdance.recognize.recognizer import Recognizer, annotate
from jdance.train.posture import PostureModel


def recognize_image(
    recognizer: Recognizer,
    source: Path,
    image: np.ndarray,
    stem: Path,
    *,
    keypoints: Path | None = None,
    posture: PostureModel | None = None,
    whole_image: bool = False,
) -> None:
    """Recognizes the people in an image; writes STEM.json and the annotated STEM.jpg or .png.

    Args:
        recognizer: has a pose network unless key points are given.
        source: the image file.
        image: its pixels, uint8 RGB [H, W, 3].
        stem: path of the results, without a suffix.
        keypoints: OpenPose's JSON of the image, or the folder that holds it.
        posture: adds `feedback` to people with one of its motions.
        whole_image: classify the whole image if no person is detected.

    Raises:
        UserError: the key points cannot be read, or the results cannot be written.
    """
    known = None
    if keypoints:
        folder = keypoints.is_dir()
        known = openpose_json.read(
            openpose_json.path_for(source, keypoints) if folder else keypoints
        )
    people = recognizer(image, known, whole_image=whole_image)
    entries: list[dict[str, Any]] = [person.to_json(track) for track, person in enumerate(people)]
    for person, entry in zip(people, entries, strict=True):
        if posture and person.motion in posture.classes:
            entry["feedback"] = feedback.assess(person.keypoints, person.motion, posture)
    result = {
        "source": images.printable(str(source)),
        "width": image.shape[1],
        "height": image.shape[0],
        "fps": None,
        "classes": recognizer.classes,
        "frames": [{"index": 0, "time": 0.0, "people": entries}],
    }
    suffix = source.suffix.lower() if source.suffix.lower() in (".jpg", ".jpeg") else ".png"
    # Appended, as a stem may contain dots.
    images.write(Path(f"{stem}{suffix}"), annotate(image, people, recognizer.classes))
    Path(f"{stem}.json").write_text(json.dumps(result) + "\n")
