"""Progress reports and their estimates."""

import io

import pytest

from jdance import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines(stream):
    return stream.getvalue().splitlines()


def test_startup_and_compilation_do_not_count(clock):
    stream = io.StringIO()
    shown = progress.Progress("training", 1000, 400, stream)
    shown.prepare("compiling")
    clock[0] = 300.0  # compilation
    shown.resume(401)
    clock[0] = 320.0
    shown.update(441)
    assert lines(stream) == ["training: compiling", "training: 441/1000, 4:40 left"]


def test_work_that_begins_in_the_middle(clock, capsys):
    """As a video from --start on."""
    report = progress.reporter("dance.mp4")
    report(9001, 18000)
    clock[0] = 30.0
    report(9301, 18000)
    assert capsys.readouterr().err.splitlines()[-1] == "dance.mp4: 9301/18000, 14:30 left"


def test_estimate_uses_the_last_minute(clock):
    stream = io.StringIO()
    shown = progress.Progress("training", 1000, stream=stream)
    for second in range(0, 1000, 10):  # a step per ten seconds
        clock[0] = second
        shown.update(second // 10)
    assert lines(stream)[-1] == "training: 99/1000, 2:30:10 left"
    for second in range(1000, 1070, 10):  # then one per second
        clock[0] = second
        shown.update(99 + second - 990)
    assert lines(stream)[-1] == "training: 169/1000, 13:51 left"


def test_single_slow_item_counts(clock):
    stream = io.StringIO()
    shown = progress.Progress("preparing", 3, stream=stream)
    for done in (1, 2):
        clock[0] += 500.0
        shown.update(done)
    assert lines(stream) == ["preparing: 1/3, 16:40 left", "preparing: 2/3, 8:20 left"]
