"""What the weights-file readers share: bounded reads, limits, and one error for damaged files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from jdance.errors import UserError

T = TypeVar("T")

MAX_AXES = 8  # of an array
MAX_ELEMENTS = 2**27  # of all arrays of a file together: a few bytes can claim any number


class Malformed(Exception):
    """The content is not of the expected format; the message says why."""


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a file.

    Raises:
        Malformed: it has more than `limit` bytes.
        UserError: it cannot be read.
    """
    try:
        if path.stat().st_size > limit:
            raise Malformed(f"{path.name} is larger than {limit >> 20} MiB")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: not a possible file name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from error


@contextmanager
def damaged_as_user_error(
    path: Path, kind: str, advice: str = "get the file again from where it is published"
) -> Iterator[None]:
    """Turns `Malformed` into a UserError: `path` is not `kind`, or is damaged; `advice`."""
    try:
        yield
    except Malformed as error:
        raise UserError(f"{path}: not {kind}, or a damaged one ({error}); {advice}") from error


def parse_file(path: str | Path, parse: Callable[[bytes], T], kind: str, limit: int) -> T:
    """`parse` applied to a file's content.

    Args:
        path: the file.
        parse: raises `Malformed` for other formats and for damage.
        kind: what the file should be, with its article, for error messages.
        limit: maximum size in bytes.

    Raises:
        UserError: the file cannot be read, is truncated or damaged, or is of another format.
    """
    path = Path(path)
    with damaged_as_user_error(path, kind):
        return parse(read_bytes(path, limit))
