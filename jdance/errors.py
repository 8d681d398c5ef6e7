"""The exceptions that say how a program ends."""

import re

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
