"""Runs the programs of launch/ in separate processes, as users do."""

import atexit
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

from conftest import ROOT


@cache
def _server():
    """Starts tests/program_server.py, which exits when its stdin is closed."""
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "program_server.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, bufsize=1,
        start_new_session=True,
    )  # fmt: skip
    atexit.register(server.communicate)
    return server


_numbers = itertools.count()
_lock = threading.Lock()


@cache
def _results():
    """A folder for the exit statuses of this process's scripts."""
    folder = tempfile.mkdtemp(prefix="jdance-status-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Script:
    """A running Python script with the interface of `subprocess.Popen`.

    Args:
        words: the script's path and its arguments.
        stdout: file for its standard output.
        stderr: file for its standard error; None: the same file.
        variables: environment variables to change.
    """

    def __init__(self, words, stdout, stderr=None, variables=None):
        self._result = Path(_results(), f"status-{next(_numbers)}")
        self.stdout, self.returncode = Path(stdout), None
        outputs = [str(stdout), str(stderr or stdout), str(self._result)]
        request = [list(map(str, words)), *outputs, variables or {}]
        with _lock:
            print(json.dumps(request), file=_server().stdin)
            self.pid = int(_server().stdout.readline())

    def poll(self):
        """Returns the exit status, negative for a signal; None while the script runs."""
        if self.returncode is None and self._result.exists():
            self.returncode = int(self._result.read_text())
        return self.returncode

    def wait(self, timeout=600.0):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.stdout), timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def program(name, *arguments, status=0, errors=None, warning=None, variables=None):
    """Runs a program of launch/; returns its standard output and its error lines.

    Args:
        name: of the program.
        *arguments: its command line.
        status: expected exit status.
        errors: expected number of error lines. Default: 1 for the statuses 1 and 74, else 0.
        warning: parts of the expected warnings, one each; (): no warning; None: not checked.
        variables: environment variables to change.
    """
    words = [ROOT / "launch" / f"{name}.py", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        run = Script(words, stdout, stderr, variables)
        try:
            run.wait(300)
        finally:
            run.kill()
            captured, reported = stdout.read_text(), stderr.read_text()
    assert run.returncode == status, captured + reported
    assert "Traceback" not in reported, reported
    lines = [line for line in reported.splitlines() if line.startswith("error:")]
    assert len(lines) == (status in (1, 74) if errors is None else errors), reported
    warnings = [line for line in reported.splitlines() if line.startswith("warning:")]
    if warning is not None:
        assert len(warnings) == len(warning), reported
        assert all(map(str.__contains__, warnings, warning)), reported
    return captured, "".join(lines)
