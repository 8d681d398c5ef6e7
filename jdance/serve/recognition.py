"""Recognition of a job's file: results in its folder, and frames for the page as they come."""

import zipfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from jdance import files
from jdance.data import containers, images, openpose_json, videos
from jdance.errors import UserError
from jdance.recognize import formats, timeline
from jdance.recognize.image import recognize_image
from jdance.recognize.recognizer import Recognizer
from jdance.recognize.sequences import SequenceClassifier
from jdance.recognize.stream import TrackedFrame
from jdance.recognize.video import Settings, recognize_video
from jdance.recognize.writers import KEY_FRAME_SIDE, Clip, MotionFrame, Writer
from jdance.serve.frames import FrameLog, frame_json
from jdance.serve.jobs import Job

_SHOWN_SIDE = 2048  # pixels of an image on the page
_PREVIEW_SIDE = 640  # pixels
_PREVIEW_SECONDS = 0.3  # of the video between two previews
_MAX_KEY_FRAMES = 24
_STEADY_SECONDS = 1.0  # motions that last this long get a key frame, which may show several


def recognize(
    job: Job,
    for_images: Recognizer,
    for_videos: Recognizer,
    classifier: SequenceClassifier | None,
    seconds: float,
) -> None:
    """Recognizes the file of a job.

    Args:
        job: its upload is complete.
        for_images, for_videos: the recognizers.
        classifier: see `recognize_video`.
        seconds: maximum length of the part of a video that is processed.

    Raises:
        UserError: the file cannot be read or is too long.
        Cancelled: the job was cancelled.
    """
    with closing(FrameLog(job.folder / "frames.jsonl")) as log:
        job.frames = log
        if job.media == "image":
            _recognize_image(job, for_images, log)
        else:
            _recognize_video(job, for_videos, classifier, log, seconds)


def _recognize_image(job: Job, recognizer: Recognizer, log: FrameLog) -> None:
    image = images.read(job.upload)
    job.head = {"width": image.shape[1], "height": image.shape[0]}
    shown = images.shrink(image, _SHOWN_SIDE)
    (job.folder / "shown.jpg").write_bytes(images.encode_jpeg(shown, 90))
    job.on_progress(0, 1)
    stem = job.folder / "result"
    found = recognize_image(recognizer, Path(job.name), image, stem)
    names = _formats(job)
    clip = Clip("", None, None, found.classes, images=[job.name])
    shown_people = found.to_frame(clip, 0)
    with closing(formats.Several(names, stem, clip)) as writer:
        writer.add(shown_people)
        writer.finish([])
    openpose = openpose_json.path_for(stem.name, job.folder)
    openpose.write_text(formats.openpose_text(shown_people))
    log.add(frame_json(shown_people))
    job.on_progress(1, 1)
    annotated = files.with_suffix(stem, found.suffix)
    job.files = {"json": Path(f"{stem}.json"), "image": annotated, "openpose": openpose}
    job.files |= _written(names, stem)


def _recognize_video(
    job: Job,
    recognizer: Recognizer,
    classifier: SequenceClassifier | None,
    log: FrameLog,
    seconds: float,
) -> None:
    info = containers.probe(job.upload)
    start, end = job.options["start"], job.options["end"]
    length = min(end, info.end) - start
    if length > seconds:
        raise UserError(
            f"{job.name}: {length / 60:.3g} minutes are more than the {seconds / 60:.3g} that this "
            "server processes; choose a part of it"
        )
    height, width = info.size
    every = job.options["every"]
    job.head = {
        "width": width,
        "height": height,
        "fps": info.fps / every,
        "begin": start,
        "end": min(end, info.end),
    }
    stem = job.folder / "result"
    names = _formats(job)
    annotate = job.options["annotate"]
    settings = Settings(every=every, start=start, end=end, annotate=annotate, formats=names)
    openpose = files.with_suffix(stem, "_keypoints.zip")
    with zipfile.ZipFile(openpose, "w", zipfile.ZIP_DEFLATED) as archive:
        job.message = recognize_video(
            recognizer,
            job.upload,
            stem,
            settings,
            classifier=classifier,
            collector=_Collector(job, log, archive),
            on_progress=job.on_progress,
            name=job.name,
        )
    csv = stem.with_suffix(".csv")
    segments = timeline.read_csv(csv)
    job.segments = timeline.summary(segments)
    job.files = {"json": stem.with_suffix(".json"), "timeline": csv}
    job.files["html"] = stem.with_suffix(".html")
    if annotate:
        job.files["video"] = videos.output_path(stem)
    job.files |= {"openpose": openpose, **_written(names, stem)}


def _formats(job: Job) -> list[str]:
    """Returns the further formats of a job: a recording, which is large, only if it was chosen.

    OpenPose's files, which have the user's name, are written by the job, not to the disk.
    """
    names = formats.offered(videos=job.media == "video")
    names.remove("openpose")
    return [name for name in names if name != "rerun" or job.options["recording"]]


def _written(names: Sequence[str], stem: Path) -> dict[str, Path]:
    return {name: files.with_suffix(stem, formats.FORMATS[name].suffix) for name in names}


class _Collector(Writer):
    """Keeps what the page shows of a video in progress: frames, previews, key frames.

    Also writes OpenPose's files to an archive.
    """

    def __init__(self, job: Job, log: FrameLog, archive: zipfile.ZipFile):
        self._job, self._log, self._archive = job, log, archive
        self._previewed = -1e9
        # By track: motion, since when it lasts, and whether it has a key frame.
        self._motions: dict[int, tuple[str, float, bool]] = {}

    def add(self, frame: MotionFrame) -> None:
        job = self._job
        job.check()
        self._log.add(frame_json(frame))
        name = openpose_json.path_for_frame(job.name, frame.index, Path()).name
        self._archive.writestr(name, formats.openpose_text(frame))
        assert frame.image is not None
        if frame.time - self._previewed >= _PREVIEW_SECONDS:
            self._previewed = frame.time
            preview = images.encode_jpeg(images.shrink(frame.image, _PREVIEW_SIDE), 80)
            job.preview = frame.index, frame.time, preview
        starts, last = self._starts(frame), (job.key_frames or [-1e9])[-1]
        is_new = starts and frame.time - last >= _STEADY_SECONDS
        if is_new and len(job.key_frames) < _MAX_KEY_FRAMES:
            drawn = images.shrink(frame.drawn, KEY_FRAME_SIDE)
            path = job.folder / f"key-{len(job.key_frames)}.jpg"
            path.write_bytes(images.encode_jpeg(drawn, 80))
            job.key_frames.append(round(frame.time, 3))

    def _starts(self, frame: TrackedFrame) -> bool:
        """Returns whether a motion has now lasted long enough for a key frame."""
        result = False
        for person in frame.people:
            motion = person.motion
            known, since, shown = self._motions.get(person.track, ("", 0.0, False))
            if known != motion:
                since, shown = frame.time, False
            if not shown and frame.time - since >= _STEADY_SECONDS:
                result = shown = True
            self._motions[person.track] = motion, since, shown
        return result
