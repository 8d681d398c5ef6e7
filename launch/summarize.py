"""Summarizes the results of many videos in one table and a page.

python launch/recognize.py --input=videos --output=out
python launch/summarize.py --input=out

Writes summary.parquet and summary.csv, a row for each motion of a dancer (video, track, start, end,
motion, confidence), and summary.html: time of each motion in each video, examples, how much is
unknown, and what failed. Takes the results that are complete; others may still be recognized.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from absl import flags

from jdance.cli import run
from jdance.errors import UserError
from jdance.progress import counted
from jdance.recognize import summary, summary_page
from jdance.recognize.summary_page import Opener, in_folder
from jdance.remote import copies, objects
from jdance.remote.spool import Spool
from jdance.report.html import to_html

_INPUT = flags.DEFINE_string(
    "input", None, "Results of launch/recognize.py: a folder, or its address.", required=True
)
_OUTPUT = flags.DEFINE_string(
    "output", "", "Folder of the summary, or its address. Default: --input."
)
_TABLES = flags.DEFINE_list(
    "tables",
    list(summary.TABLES),
    f"Tables to write, separated by commas: {', '.join(summary.TABLES)}. parquet needs pyarrow.",
)
_VIDEOS = flags.DEFINE_integer("videos", 1000, "Number of videos on the page.", lower_bound=0)
_EXAMPLES = flags.DEFINE_integer(
    "examples", 6, "Number of examples of each motion on the page.", lower_bound=0
)


@contextmanager
def _results() -> Iterator[tuple[Path, Opener]]:
    """A folder with the timelines, and what opens other files of the results."""
    if not objects.is_remote(_INPUT.value):
        folder = Path(_INPUT.value)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; check --input")
        yield folder, partial(in_folder, folder)
        return
    address = _INPUT.value.rstrip("/")
    found = objects.listing(address)
    tables = [name for name in found if name.endswith(".csv") and name != f"{summary.STEM}.csv"]
    with closing(Spool()) as spool:

        @contextmanager
        def open_result(name: str) -> Iterator[Path | None]:
            if entry := found.get(name):
                with spool.take(objects.join(address, name), entry) as path:
                    yield path
            else:
                yield None

        yield copies.some(address, tables, "tables"), open_result


def main() -> None:
    if unknown := set(_TABLES.value) - set(summary.TABLES):
        raise UserError(
            f"--tables={','.join(sorted(unknown))}: no such table; known: "
            f"{', '.join(summary.TABLES)}"
        )
    address = _OUTPUT.value or _INPUT.value
    with _results() as (folder, open_result), copies.output(address) as output:
        output.mkdir(parents=True, exist_ok=True)
        totals = summary.write(
            folder, output, _TABLES.value, videos=_VIDEOS.value, examples=_EXAMPLES.value
        )
        page = output / f"{summary.STEM}.html"
        sections = summary_page.sections(open_result, totals)
        page.write_text(to_html("Motions in the archive", sections), encoding="utf-8")
    names = [f"{summary.STEM}.{table}" for table in _TABLES.value] + [page.name]
    print(
        f"{counted(totals.rows, 'row')} of {counted(totals.videos, 'video')}: "
        f"wrote {', '.join(names)} to {address}"
    )


if __name__ == "__main__":
    run(main)
