"""Recognition of single images: result file and annotated image."""

from pathlib import Path

import numpy as np

from jdance.data import openpose_json
from jdance.recognize import feedback
from jdance.recognize.recognizer import Recognizer
from jdance.recognize.results import ImageResult
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
    name: str = "",
) -> ImageResult:
    """Recognizes the people in an image; writes STEM.json and the annotated STEM.jpg or .png.

    Args:
        recognizer: has a pose network unless key points are given.
        source: the image file.
        image: its pixels, uint8 RGB [H, W, 3].
        stem: path of the results, without a suffix.
        keypoints: OpenPose's JSON of the image; None: people are detected.
        posture: adds `feedback` to people with one of its motions.
        whole_image: classify the whole image if no person is detected.
        name: of the source in the result, such as its address; "": its path.

    Raises:
        UserError: the key points cannot be read, or the results cannot be written.
    """
    known = openpose_json.read(keypoints, image.shape[:2]) if keypoints else None
    people = recognizer(image, known, whole_image=whole_image)
    assessed = {
        index: feedback.assess(person.keypoints, person.motion, posture)
        for index, person in enumerate(people)
        if posture and person.motion in posture.classes
    }
    result = ImageResult(image, people, recognizer.classes, name or str(source), assessed)
    result.write(stem)
    return result
