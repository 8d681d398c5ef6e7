"""Exceptions that determine how a program exits, and the errno behind an exception."""

import errno
import os
import re

IO_ERROR = 74
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class UserError(Exception):
    """Bad input; the message is one line "FILE: what is wrong; what to do".

    Programs in launch/ print it and exit with status 1, without a traceback. Control characters,
    which file names may contain, become spaces.
    """

    def __init__(self, message: object = ""):
        super().__init__(_CONTROL.sub(" ", str(message)))


class Preempted(Exception):
    """The run was preempted after saving a checkpoint, from which it can resume.

    Programs in launch/ print the message and exit with status 75.
    """


# Transient failures of a disk or network.
_TRANSIENT = {
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY,
    errno.EINTR, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ECONNRESET, errno.ECONNABORTED, errno.EREMOTEIO, errno.ENOLCK,
}  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT}
_RIEGELI = {os.strerror(number): number for number in _TRANSIENT}
_TENSORSTORE = re.compile(r"os_error_code='(\d+)'|OS error (\d+)")


def os_error(error: BaseException | None) -> int | None:
    """The errno behind an exception or its causes, also from messages of libraries; or None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        text = "" if isinstance(error, UserError) else str(error)
        if match := _TENSORSTORE.search(text):
            return int(match[1] or match[2])
        for message, number in _RIEGELI.items():
            if f"failed: {message}" in text:
                return number
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def is_full(error: BaseException) -> bool:
    """Whether the disk or the user's quota is full, so that all further writes fail, too."""
    return os_error(error) in _FULL


def exit_status(error: BaseException) -> int:
    """74 (EX_IOERR of sysexits.h) for transient I/O failures, else 1, bad input."""
    return IO_ERROR if os_error(error) in _TRANSIENT else 1
