"""What the processes of one command have finished, in a log for each of them."""

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from jdance.recognize.inputs import Job
from jdance.recognize.ledger import State
from jdance.recognize.storage import FOLDER, Storage


class Run:
    """The work of all processes of a command, until every input is done.

    The run begins with the first process and ends when every input is done. Until then, processes
    that are started again belong to it.

    Args:
        output: where the results are kept.
        name: of the command; the same for all its processes.

    Attributes:
        token: identifies the run.
    """

    def __init__(self, output: Storage, name: str):
        self._output, self._name = output, name
        self._folder = output.scratch / "runs"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._token_name = f"{FOLDER}/runs/{name}.token"
        self.token = self._join()
        own = f"{name}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}.jsonl"
        self._log = self._folder / own
        self._file = self._log.open("a")
        self._read: dict[Path, int] = {}  # bytes

    def _join(self) -> str:
        own = uuid.uuid4().hex
        for _ in range(50):
            if self._output.create(self._token_name, own):
                return own
            if token := self._output.read(self._token_name):  # else, the run has just ended
                return token.decode()
            time.sleep(0.1)  # being written
        self._output.write(self._token_name, own, self._folder / f"{own}.partial")
        return own

    def add(self, job: Job, state: State) -> None:
        """Tells the other processes that an input is finished."""
        failure = state.failure
        entry = {
            "run": self.token, "name": job.name, "seconds": state.seconds,
            "reason": failure and failure.reason, "partial": bool(failure and failure.partial),
        }  # fmt: skip
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def poll(self) -> Iterator[dict[str, Any]]:
        """Yields the entries that other processes have added since the last call."""
        for path in sorted(self._folder.glob(f"{self._name}.*.jsonl")):
            if path == self._log:
                continue
            with suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                lines = file.read()
                complete = lines[: lines.rfind(b"\n") + 1]
                self._read[path] = self._read.get(path, 0) + len(complete)
                for line in complete.splitlines():
                    entry = json.loads(line)
                    if entry["run"] == self.token:
                        yield entry

    def end(self) -> None:
        """Ends the run; the next process of the same command starts another one."""
        if self._output.read(self._token_name) == self.token.encode():
            self._output.remove(self._token_name)
        for path in self._folder.glob(f"{self._name}.*.jsonl"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        self._file.close()
