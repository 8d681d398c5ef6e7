"""Entry point, common flags and exit status of the programs in launch/."""

import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from absl import app, flags, logging
from ml_collections import ConfigDict

from jdance import config as defaults
from jdance import xla
from jdance.data import images
from jdance.errors import Preempted, UserError, exit_status
from jdance.progress import counted
from jdance.remote import copies, objects

_GRACE_SECONDS = 20.0  # for an orderly exit
_RETRY_SECONDS = 0.01  # after a signal that came at a bad moment

flags.disclaim_key_flags()  # --help lists flags defined here as those of the program


def checkpoint_flag(of: str) -> flags.FlagHolder[str]:
    """Defines --checkpoint, which selects a checkpoint of the runs given by the flag `of`."""
    from jdance.train.checkpoints import BEST, NEWEST

    return flags.DEFINE_string(
        "checkpoint",
        NEWEST,
        f"Which checkpoint of {of}: {NEWEST}, {BEST} (by the score on val), or a step's number.",
    )


def former_name(old: str, new: str) -> None:
    """Keeps the flag --`old` as a deprecated alias of --`new` for one more release."""
    flags.DEFINE_alias(old, new)


POSE_HELP = (
    "Pose network: stage (for StageDance), mobilenet_v2_small, hpe0001 or movenet_multipose; a "
    "published weights file; or a checkpoint folder, such as one by launch/import_weights.py. "
)


def pose_flags() -> tuple[flags.FlagHolder[int], flags.FlagHolder[list[str]]]:
    """Defines --pose_size and --pose_views."""
    size = flags.DEFINE_integer(
        "pose_size",
        0,
        "Side of the pose network's square input in pixels, a multiple of 8 (hpe0001, VGG-19), "
        "32 (movenet_multipose) or 16: larger detects smaller people and takes longer. 0: the "
        "network's own, 368 or 384.",
        lower_bound=0,
    )
    views = flags.DEFINE_list(
        "pose_views",
        [],
        "Also run the pose network on mirrored (flip) and upside-down (rot180) copies, and merge "
        "the detected people: flip, rot180, or both with a comma.",
    )
    return size, views


class RecognitionFlags(NamedTuple):
    """The flags of `recognition_flags`."""

    model: flags.FlagHolder[str]
    checkpoint: flags.FlagHolder[str]
    pose: flags.FlagHolder[str]
    sequence_model: flags.FlagHolder[str | None]


def recognition_flags() -> RecognitionFlags:
    """Defines --model, --checkpoint, --pose and --sequence_model of programs that recognize."""
    model = flags.DEFINE_string(
        "model",
        "dance6",
        "Motion network: dance6 (six motions of real people, or unknown), the folder of a trained "
        "run, or a file by launch/pack.py.",
    )
    checkpoint = checkpoint_flag("--model")
    pose = flags.DEFINE_string(
        "pose",
        "",
        f"{POSE_HELP}Default: the most accurate one that is in the cache or can be downloaded.",
    )
    sequence_model = flags.DEFINE_string(
        "sequence_model",
        None,
        "Run of a sequence network, or a file by launch/pack.py, that classifies the motions of "
        "tracks in videos instead of --model; none: classify frame by frame. Default: dance6's "
        "sequence form for --model=dance6, else none.",
    )
    return RecognitionFlags(model, checkpoint, pose, sequence_model)


def check_local(*outputs: flags.FlagHolder[Any]) -> None:
    """Checks the output flags of a program that writes to local paths only.

    Raises:
        UserError: one of them is an address in a store.
    """
    for flag in outputs:
        if objects.is_remote(flag.value):
            raise UserError(
                f"--{flag.name}={flag.value}: this program writes to local paths only; name one, "
                "and copy the results with the store's own tool"
            )


def refuse_flags(names: Sequence[str], reason: str) -> None:
    """Refuses flags that have no effect beside others.

    Args:
        names: of the flags.
        reason: begins the message, which ends with the flag: "--pose=x: only runs have".

    Raises:
        UserError: one of them has another value than its default.
    """
    for name in names:
        if flags.FLAGS[name].value != flags.FLAGS[name].default:
            raise UserError(f"{reason} --{name}")


def report_failed_runs(failures: Sequence[str], page: str) -> None:
    """Prints failed runs and raises UserError if there are any; `page` names the report."""
    if failures:
        print("\n".join(f"failed: {line}" for line in failures))
        raise UserError(
            f"{counted(len(failures), 'run')} failed (listed above); the others are in the {page}"
        )


@contextmanager
def resumable() -> Iterator[None]:
    """Exits on SIGTERM with status 75 and a hint to run the same command again.

    For programs that save finished pieces of work.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if _swallows_exceptions(frame):
            main = threading.main_thread().ident
            threading.Timer(_RETRY_SECONDS, signal.pthread_kill, (main, number)).start()
            return
        signal.signal(number, signal.SIG_IGN)  # another one must not interrupt the exit
        print("stopped by SIGTERM: run the same command again to go on", file=sys.stderr)
        # A library may swallow exceptions raised inside its callbacks.
        fallback = threading.Timer(_GRACE_SECONDS, os._exit, (75,))
        fallback.daemon = True
        fallback.start()
        sys.exit(75)  # not a subclass of Exception, which callers would handle as damage

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _swallows_exceptions(frame: FrameType | None) -> bool:
    """Whether a frame is within a finalizer or a callback of the garbage collector, as JAX has one.

    Python prints exceptions raised there, and goes on.
    """
    callbacks = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code in callbacks:
            return True
        frame = frame.f_back
    return False


def run(main: Callable[[], None], *, keep_memory: bool = False) -> None:
    """Runs `main` after absl has parsed the flags.

    Exit status: 0 success; 1 bad input, with one line on stderr and no traceback; 74 a transient
    I/O failure, with one line, too; 75 preempted after saving: run again; 130 Ctrl-C. Positional
    arguments are bad input, since they are flags whose "--" was forgotten.

    Args:
        main: the program.
        keep_memory: keep freed memory for the next step if JAX runs on the CPU; for training and
            benchmarks.
    """

    def wrapped(argv: list[str]) -> None:
        # Orbax logs every operation; --verbosity=0 shows it.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.ERROR)
        try:
            if len(argv) > 1:
                raise UserError(f"unexpected argument {argv[1]!r}: options start with --")
            config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
            if isinstance(config, ConfigDict):  # elsewhere --config is a path
                _expand_config(config)
            main()
        except UserError as error:
            _fail(error, exit_status(error))
        except Preempted as notice:
            print(notice, file=sys.stderr)
            sys.exit(75)
        except OSError as error:  # such as a full disk or a read-only folder
            path = error.filename or _output_folder()
            _fail(f"{path}: {error.strerror or error}", exit_status(error))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # file names may have bytes that are not UTF-8
    # The folder of the programs must not shadow modules: profile.py is also a standard module.
    folder = Path(sys.argv[0]).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != folder]
    xla.prepare(os.environ)
    if keep_memory:
        xla.keep_freed_memory_on_cpu(os.environ)
    app.run(wrapped, flags_parser=_parse)


def _output_folder() -> str:
    """Where the program writes, for an OSError without a file name."""
    values = flags.FLAGS.flag_values_dict()
    return values.get("output") or values.get("workdir") or "input or output"


def _fail(error: object, status: int = 1) -> None:
    print(f"error: {images.printable(copies.shown(error))}", file=sys.stderr)
    sys.exit(status)


def _parse(argv: list[str]) -> list[str]:
    """absl's parser, after expanding ~ and checking --config.

    absl answers mistakes in --config with tracebacks, and a shell does not expand ~ in
    --output=~/results.
    """
    try:
        argv = [*argv[:1], *map(_expand_flag, argv[1:])]
        if "config" in flags.FLAGS:
            _check_config(argv)
    except UserError as error:
        _fail(error)
    try:
        return app.parse_flags_with_usage(argv)
    except SystemExit:
        if {word.lstrip("-") for word in argv} & {"help", "helpshort", "helpfull"}:
            sys.exit(0)  # absl exits with 1, as for bad input
        raise


def _expand_flag(word: str) -> str:
    """Expands ~ at the start of a flag's value and of its comma-separated parts."""
    flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return flag + equals + ",".join(map(_expand_home, value.split(",")))


def _expand_home(path: str) -> str:
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise UserError(f"{path}: no such home folder; write ./{path} for a file of this name")
    return expanded


def _expand_config(config: Any) -> None:
    """Expands ~ in the values of a configuration file, such as data.dir and init_from."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            _expand_config(value)
        elif isinstance(value, str) and value.startswith("~"):
            config[key] = _expand_home(value)


def _check_config(argv: list[str]) -> None:
    """Raises UserError if --config is invalid or an override has an unknown key."""
    words = [word.removeprefix("-") for word in argv]
    path = next((word.partition("=")[2] for word in words if word.startswith("-config=")), None)
    if path is None and "-config" in words[:-1]:
        path = words[words.index("-config") + 1]
    if path is None:
        return  # absl reports the missing flag
    config = defaults.load(path)
    for word in words:
        if word.startswith("-config."):
            key = word.removeprefix("-config.").partition("=")[0]
            try:
                defaults.check_key(config, key)
            except KeyError as error:
                raise UserError(f"--config.{key}: {error.args[0]}") from None
