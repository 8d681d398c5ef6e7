"""A process that recognizes files without networks, for the tests of archives.

python tests/archive_run.py --input=FOLDER --output=OUT [--pause=S] [--timeout=S]

The result of a file is its content in capitals. Each file that is worked at is logged in OUT.log.
"""

import argparse
import sys
import time
from pathlib import Path

from jdance.cli import resumable
from jdance.errors import UserError
from jdance.recognize import inputs
from jdance.recognize.archive import Archive, Options
from jdance.recognize.inputs import Job
from jdance.recognize.ledger import Ledger


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds for each file")
    parser.add_argument("--timeout", type=float, default=60.0)
    flags = parser.parse_args()
    output = Path(flags.output)
    output.mkdir(parents=True, exist_ok=True)

    def recognize(job: Job, stem: Path) -> str:
        with Path(f"{output}.log").open("a") as file:
            file.write(f"{job.name}\n")
        text = job.source.read_text()
        if text.startswith("bad"):
            raise UserError("cannot be read")
        time.sleep(flags.pause)
        stem.with_suffix(".txt").write_text(text.upper())
        stem.with_suffix(".second").write_text(text)
        return ""

    jobs = [Job(path, path.stem) for path in sorted(Path(flags.input).iterdir())]
    ledger = Ledger(output, {"model": "capitals"}, [], lambda job: inputs.version(job.source))
    options = Options("test", claim_timeout=flags.timeout)
    with resumable():
        outcome = Archive(jobs, ledger, recognize, lambda job: 1.0, options).run()
    print("own", *outcome.own)
    return bool(outcome.failures)


if __name__ == "__main__":
    sys.exit(main())
