"""The one exception for a user's mistake."""


class UserError(Exception):
    """Bad input: the message is one line that says which file, what is wrong, and what to do.

    Programs in launch/ print it and exit with status 1, without a traceback.
    """
