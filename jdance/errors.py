"""The exceptions that say how a program ends."""


class UserError(Exception):
    """Bad input: the message is one line that says which file, what is wrong, and what to do.

    Programs in launch/ print it and exit with status 1, without a traceback.
    """


class Preempted(Exception):
    """The run was told to end and has saved itself; started again, it continues.

    Programs in launch/ print the message and exit with status 75.
    """
