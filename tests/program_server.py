"""Starts Python scripts in processes of their own, without the seconds that importing JAX takes.

python tests/program_server.py       # for tests/programs.py

All is imported once, and the scripts' processes are forked from here, before any device is used.
Each line on stdin is the JSON of [words of the command line, file for stdout, file for stderr, file
for the exit status]; the answer is a line with the number of the process.
"""

import json
import os
import runpy
import signal
import sys
import warnings


def preload() -> None:
    import pytest  # noqa: F401

    # JAX warns of its threads, which it has only when a device has been used.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)


def become(words: list[str], stdout: str, stderr: str) -> None:
    """Makes this process the script, as if it had been started by these words."""
    for number, path, mode in ((0, os.devnull, "r"), (1, stdout, "w"), (2, stderr, "w")):
        if number == 2 and stderr == stdout:
            os.dup2(1, 2)
            continue
        with open(path, mode) as file:
            os.dup2(file.fileno(), number)
    sys.argv = words
    sys.path[0] = os.path.dirname(words[0])
    runpy.run_path(words[0], run_name="__main__")


def main() -> None:
    preload()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait below
    for line in sys.stdin:
        words, stdout, stderr, result = json.loads(line)
        if os.fork():
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        script = os.fork()
        if not script:
            become(words, stdout, stderr)
            return
        print(script, flush=True)
        _, status = os.waitpid(script, 0)
        with open(f"{result}.part", "w") as file:
            file.write(str(os.waitstatus_to_exitcode(status)))
        os.replace(f"{result}.part", result)
        os._exit(0)


if __name__ == "__main__":
    main()
