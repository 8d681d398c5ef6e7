"""One table and one page over the results of many videos."""

import csv
import json
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from programs import program

from jdance.data import videos
from jdance.errors import UserError
from jdance.recognize import summary, summary_page, timeline
from jdance.recognize.timeline import Segment
from jdance.report.html import to_html

SEGMENTS = {
    "2020/tape": [Segment(0, 0.0, 2.0, "walk", 0.9), Segment(0, 2.0, 2.4, "wave", 0.99),
                  Segment(1, 0.0, 4.0, "unknown", 0.4)],
    "2021/tape": [Segment(0, 1.0, 2.0, "walk", 0.8), Segment(0, 2.0, 9.0, "unknown", 0.3)],
    "a, \"b\"": [],
    "solo": [Segment(3, 0.5, 4.5, "wave", 0.75)],
}  # fmt: skip


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "out"
    for name, segments in SEGMENTS.items():
        path = folder / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        timeline.write_csv(path, segments)
    # None of these is a timeline.
    (folder / "scene_joints.csv").write_text("frame,time,track,joint,x,y,confidence\n")
    (folder / "failures.csv").write_text(
        "path,start,end,output,status,reason\nb.mp4,,,b,failed,b.mp4: not a readable video\n"
    )
    (folder / ".jdance").mkdir()
    timeline.write_csv(folder / ".jdance" / "x.csv", SEGMENTS["solo"])
    return folder


def test_tables_are_equal_and_open_in_pandas(results):
    pandas, parquet = pytest.importorskip("pandas"), pytest.importorskip("pyarrow.parquet")
    for _ in range(2):  # again: the summary itself is no timeline
        totals = summary.write(results, results)
    expected = [
        (name, s.track, s.start, s.end, s.motion, s.confidence)
        for name, segments in SEGMENTS.items()
        for s in segments
    ]
    table = pandas.read_parquet(results / "summary.parquet")
    assert list(table.columns) == ["video", "track", "start", "end", "motion", "confidence"]
    for frame in (table, pandas.read_csv(results / "summary.csv")):
        rows = [tuple(row) for row in frame.itertuples(index=False)]
        assert [row[:5] for row in rows] == [row[:5] for row in expected]
        np.testing.assert_allclose(frame.confidence, [row[5] for row in expected], atol=1e-6)
    kinds = [str(field.type) for field in parquet.read_schema(results / "summary.parquet")]
    assert kinds == ["string", "int32", "double", "double", "string", "float"]
    assert (totals.rows, totals.videos, totals.dancers) == (6, 4, 4)
    assert totals.seconds == pytest.approx({"walk": 3.0, "wave": 4.4, "unknown": 11.0})
    assert totals.segments == {"walk": 2, "wave": 2, "unknown": 2}
    # Examples: confident and not too short; the longest ones of unknown.
    best = {motion: [e.video for e in examples] for motion, examples in totals.examples.items()}
    assert best == {"walk": ["2020/tape", "2021/tape"], "wave": ["solo"],
                    "unknown": ["2021/tape", "2020/tape"]}  # fmt: skip


def test_row_groups_join_videos_and_divide_long_ones(results, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr(summary, "ROW_GROUP", 4)
    monkeypatch.setattr(summary.read, "__defaults__", (2,))
    long = [Segment(0, float(i), i + 1.0, "walk", 0.5) for i in range(23)]
    timeline.write_csv(results / "long.csv", long)
    totals = summary.write(results, results)
    file = parquet.ParquetFile(results / "summary.parquet")
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sum(groups) == totals.rows == 29 and max(groups) <= 5
    table = pandas.read_parquet(results / "summary.parquet")
    assert table[table.video == "long"].start.tolist() == [float(i) for i in range(23)]
    assert totals.seconds["walk"] == pytest.approx(26)


def test_problems(results, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no results of videos"):
        summary.find(tmp_path / "none")
    for text in ("0,1,2,walk\n", "0,a,2,walk,0.5\n", "99999999999,1,2,walk,0.5\n", "\0\n"):
        (results / "bad.csv").write_text("track,start,end,motion,confidence\n" + text)
        with pytest.raises(UserError, match=r"bad\.csv: not a timeline"):
            summary.write(results, results, ["csv"])
        assert not list(results.glob("summary*"))
    monkeypatch.setattr(summary, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[archive\]', or choose --tables=csv"):
        summary.write(results, results)


def test_page_shows_times_examples_and_failures(results):
    with closing(videos.VideoWriter(videos.output_path(results / "solo"), 5)) as writer:
        for i in range(20):
            writer.write(i / 5, np.full((48, 64, 3), 12 * i, np.uint8))
    # The annotated video begins at its first recognized frame, 0.5 s after the video's own.
    record = results / ".jdance" / "records" / "solo.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"settings": {"from": 0.5, "start": None}}))
    totals = summary.write(results, results, ["csv"], videos=3)
    frame = summary_page._frame(partial(summary_page.in_folder, results), "solo", 2.5)
    assert abs(int(frame.mean()) - 120) < 8  # the frame at 2.0 s
    page = to_html("x", summary_page.sections(partial(summary_page.in_folder, results), totals))
    for text in (
        "4 videos with 4 dancers, 0:18 of their time in 6 segments; 59.8 % of the time is unknown.",
        "<td>2020/tape</td><td>2</td><td>0:02</td><td>0:00</td><td>0:04</td><td>62.5</td>",
        "The first 3 of 4", "solo, 0:00.5, dancer 3", "b.mp4: not a readable video",
    ):  # fmt: skip
        assert text in page
    assert page.count("data:image/jpeg") == 1  # the other videos are missing


def test_program(results):
    captured, _ = program("summarize", f"--input={results}", "--tables=csv")
    assert "6 rows of 4 videos: wrote summary.csv, summary.html" in captured
    with (results / "summary.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 6
    assert "solo" in (results / "summary.html").read_text()
    _, error = program("summarize", f"--input={results}", "--tables=xls", status=1)
    assert "no such table; known: parquet, csv" in error


MEASURE = """
import sys
from pathlib import Path
from jdance.recognize import summary
totals = summary.write(Path(sys.argv[1]), Path(sys.argv[1]))
status = Path("/proc/self/status").read_text()
print(totals.rows, int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """A million rows, half of them in one video, need as much memory as 100,000."""
    pytest.importorskip("pyarrow")
    rows = (f"{i % 9},{i / 4:.3f},{i / 4 + 0.25:.3f},walk,0.5000\n" for i in range(10_000))
    text = "".join(rows)

    def peak(*lengths):
        folder = tmp_path / f"{len(lengths)}"
        folder.mkdir()
        for number, length in enumerate(lengths):
            with (folder / f"{number}.csv").open("w") as file:
                file.write("track,start,end,motion,confidence\n")
                file.writelines([text] * length)
        run = subprocess.run(
            [sys.executable, "-c", MEASURE, str(folder)],
            check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        count, mebibytes = run.stdout.split()
        assert int(count) == 10_000 * sum(lengths)
        return float(mebibytes)

    few, many = peak(*[1] * 10), peak(50, *[1] * 50)
    assert many < few + 48, (few, many)  # as objects, the rows alone are over 250 MiB
