"""The exceptions that say how a program ends."""

import errno
import os
import re

IO_ERROR = 74
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class UserError(Exception):
    """Bad input: the message is one line that says which file, what is wrong, and what to do.

    Programs in launch/ print it and exit with status 1, without a traceback. Control characters,
    which a file's name may hold, become spaces: line breaks and what terminals obey.
    """

    def __init__(self, message: object = ""):
        super().__init__(_CONTROL.sub(" ", str(message)))


class Preempted(Exception):
    """The run was told to end and has saved itself; started again, it continues.

    Programs in launch/ print the message and exit with status 75.
    """


# A disk or a network that fails now and may work later, whatever was asked of it.
_PASSING = {
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY,
    errno.EINTR, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ECONNRESET, errno.ECONNABORTED, errno.EREMOTEIO, errno.ENOLCK,
}  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT}
_WORDS = {os.strerror(number): number for number in _PASSING}  # Riegeli's errors
_IN_TEXT = re.compile(r"os_error_code='(\d+)'|OS error (\d+)")  # tensorstore's errors


def os_error(error: BaseException | None) -> int | None:
    """The system's error number behind an exception, from the chain of what caused it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        text = "" if isinstance(error, UserError) else str(error)
        if told := _IN_TEXT.search(text):
            return int(told[1] or told[2])
        if said := [number for words, number in _WORDS.items() if f"failed: {words}" in text]:
            return said[0]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def is_full(error: BaseException) -> bool:
    """Whether a disk, or what a user may have of it, is full: nothing else can be written, too."""
    return os_error(error) in _FULL


def exit_status(error: BaseException) -> int:
    """1, bad input; 74 (EX_IOERR of sysexits.h) where a disk or a network failed: try again."""
    return IO_ERROR if os_error(error) in _PASSING else 1
