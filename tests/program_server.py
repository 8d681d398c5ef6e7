"""Forks Python scripts from a process that has imported JAX, to save its import time.

python tests/program_server.py       # started by tests/programs.py

No device is used before the fork. Each line on stdin is the JSON of [command line, file for stdout,
file for stderr, file for the exit status, environment variables]. The reply is a line with the
process id.
"""

import json
import os
import runpy
import signal
import sys
import warnings


def preload() -> None:
    import jdance.data.prepare
    import jdance.pose.evaluation
    import jdance.recognize.archive
    import jdance.report.run
    import jdance.train.sweep  # noqa: F401

    # JAX has no threads yet: it starts them when a device is first used.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)


def become(words: list[str], stdout: str, stderr: str) -> None:
    """Runs the script in this process, as if started with this command line."""
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
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the waiting processes below need no reaping
    for line in sys.stdin:
        words, stdout, stderr, result, variables = json.loads(line)
        if os.fork():
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        script = os.fork()
        if not script:
            os.environ.update(variables)
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
