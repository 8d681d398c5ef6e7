"""Runs programs of launch/ one after another, each in a process of its own that starts at once.

python tests/program_server.py

Each line on stdin is the JSON of [words of the command line, file for stdout, file for stderr]; the
answer is a line with the exit status. To import JAX and the rest takes seconds for each program;
here it is done once, and the programs' processes are forked from there, before any device is used.
"""

import json
import os
import runpy
import sys
import warnings


def preload() -> None:
    import jdance.data.prepare
    import jdance.pose.evaluation
    import jdance.recognition.clips
    import jdance.report.run
    import jdance.training.judge  # noqa: F401

    # JAX warns of its threads, which it has only when a device has been used.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)


def become(words: list[str], stdout: str, stderr: str) -> None:
    """Makes this process the program, as if it had been started by these words."""
    for number, path, mode in ((0, os.devnull, "r"), (1, stdout, "w"), (2, stderr, "w")):
        with open(path, mode) as file:
            os.dup2(file.fileno(), number)
    sys.argv = words
    sys.path[0] = os.path.dirname(words[0])
    runpy.run_path(words[0], run_name="__main__")


def main() -> None:
    preload()
    for line in sys.stdin:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            become(*json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
