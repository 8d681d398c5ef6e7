"""Serves a web page that recognizes images, videos and the browser's camera.

python launch/serve.py
python launch/serve.py --model=runs/mine --pose=movenet_multipose --port=8000

Prints the address of the page, which only this computer can open. With --host=0.0.0.0 others can
open it, too, if they have the token in its address. Ctrl-C ends the server and deletes all uploads.
"""

import signal
import socket
import ssl
import sys
from pathlib import Path

from absl import flags

from jdance.cli import pose_flags, recognition_flags, run
from jdance.errors import UserError
from jdance.pose import zoo
from jdance.recognize.recognizer import Recognizer
from jdance.recognize.sequences import SequenceClassifier

_MODEL, _CHECKPOINT, _POSE, _SEQUENCE_MODEL = recognition_flags()
_POSE_SIZE, _POSE_VIEWS = pose_flags()
_HOST = flags.DEFINE_string(
    "host",
    "127.0.0.1",
    "Address to listen on; 0.0.0.0: all of this computer's, for other devices in its network.",
)
_PORT = flags.DEFINE_integer("port", 8765, "Port to listen on; 0: any free one.", 0, 65535)
_TOKEN = flags.DEFINE_bool(
    "token",
    None,
    "Require a random token in the address. Default: unless --host is this computer alone.",
)
_CERTIFICATE = flags.DEFINE_string(
    "certificate",
    "",
    "Certificate file (PEM) for HTTPS, without which browsers on other devices refuse the camera.",
)
_KEY = flags.DEFINE_string("key", "", "Private key (PEM) of --certificate.")
_MAX_UPLOAD_MB = flags.DEFINE_float(
    "max_upload_mb", 500.0, "Maximum size of a file in MiB.", lower_bound=0.001
)
_MAX_MINUTES = flags.DEFINE_float(
    "max_minutes", 10.0, "Maximum length of a video, or of its chosen part.", lower_bound=0.01
)
_MAX_JOBS = flags.DEFINE_integer(
    "max_jobs", 8, "Maximum number of files in progress; further ones are refused.", lower_bound=1
)
_MAX_VIDEOS = flags.DEFINE_integer(
    "max_videos", 2, "Number of videos that are processed at the same time.", lower_bound=1
)
_MAX_CAMERAS = flags.DEFINE_integer(
    "max_cameras", 2, "Maximum number of cameras at the same time.", lower_bound=0
)
_KEEP_MINUTES = flags.DEFINE_float(
    "keep_minutes",
    60.0,
    "Delete files and results this long after they were last shown.",
    lower_bound=0.1,
)


def _listen(host: str, port: int) -> socket.socket:
    """Opens the server's socket."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(
            f"--host={host} --port={port}: cannot listen there ({error.strerror}); choose others, "
            "such as --port=0"
        ) from error


def _check_certificate(certificate: Path | None, key: Path | None) -> None:
    if key and not certificate:
        raise UserError("--key: give its --certificate as well")
    if certificate:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        except OSError as error:  # also SSLError
            raise UserError(
                f"{certificate}: cannot be used with the key {key or certificate} "
                f"({error.strerror or error})"
            ) from error


def _name(text: str) -> str:
    """Returns a short name of a network for display."""
    return Path(text).stem if Path(text).suffix else Path(text).name


def main() -> None:
    try:
        from jdance.serve import service
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed; pip install -e '.[serve]' in this environment"
        ) from error

    limits = service.Limits(
        upload_bytes=round(_MAX_UPLOAD_MB.value * 2**20),
        seconds=60 * _MAX_MINUTES.value,
        jobs=_MAX_JOBS.value,
        videos=_MAX_VIDEOS.value,
        cameras=_MAX_CAMERAS.value,
        keep_seconds=60 * _KEEP_MINUTES.value,
    )
    certificate, key = (Path(flag.value) if flag.value else None for flag in (_CERTIFICATE, _KEY))
    _check_certificate(certificate, key)
    listener = _listen(_HOST.value, _PORT.value)
    pose = _POSE.value or zoo.choose()
    recognizer = Recognizer.load(
        _MODEL.value,
        pose,
        checkpoint=_CHECKPOINT.value,
        pose_size=_POSE_SIZE.value,
        pose_views=_POSE_VIEWS.value,
    )
    # The server ends by itself after these signals, and raises them again.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    service.serve(
        recognizer,
        limits,
        listener,
        classifier=SequenceClassifier.choose(_SEQUENCE_MODEL.value, _MODEL.value),
        labels={"model": _name(_MODEL.value), "pose": _name(pose)},
        token=_TOKEN.value,
        certificate=certificate,
        key=key,
    )


if __name__ == "__main__":
    run(main)
