"""A process that recognizes files without networks, for the tests of archives.

python tests/archive_run.py --input=FOLDER --output=OUT --log=FILE [--pause=S] [--timeout=S]

FOLDER and OUT may be addresses. The result of a file is its content in capitals. Each file that is
worked at is logged in FILE.
"""

import argparse
import sys
import time
from pathlib import Path

from jdance.cli import resumable
from jdance.errors import UserError
from jdance.recognize import inputs, storage
from jdance.recognize.archive import Archive, Options
from jdance.recognize.inputs import Job
from jdance.recognize.ledger import Ledger
from jdance.remote import objects


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds for each file")
    parser.add_argument("--timeout", type=float, default=60.0)
    flags = parser.parse_args()

    def recognize(job: Job, stem: Path) -> str:
        with Path(flags.log).open("a") as file:
            file.write(f"{job.name}\n")
        text = job.source.read_text()
        if text.startswith("bad"):
            raise UserError("cannot be read")
        time.sleep(flags.pause)
        stem.with_suffix(".txt").write_text(text.upper())
        stem.with_suffix(".second").write_text(text)
        return ""

    options = Options("test", claim_timeout=flags.timeout)
    with storage.opened(flags.output) as output:
        ledger = Ledger(output, {"model": "capitals"}, [], inputs.version)
        with resumable():
            outcome = Archive(
                list_inputs(flags.input), ledger, recognize, lambda job: 1.0, options
            ).run()
    print("own", *outcome.own)
    return bool(outcome.failures)


def list_inputs(folder: str) -> list[Job]:
    if not objects.is_remote(folder):
        return [Job(path, path.stem) for path in sorted(Path(folder).iterdir())]
    return [
        Job(Path(name), Path(name).stem, address=objects.join(folder, name), entry=entry)
        for name, entry in sorted(objects.listing(folder).items())
    ]


if __name__ == "__main__":
    sys.exit(main())
