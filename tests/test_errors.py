"""Exit status of bad input and transient I/O failures; missing platform features."""

import errno
import os
from contextlib import closing

import numpy as np
import pytest

from jdance import files, lock
from jdance.data import records
from jdance.errors import IO_ERROR, UserError, exit_status, is_full, os_error
from jdance.report import draw
from jdance.train import distributed
from jdance.train.checkpoints import Checkpoints


def chained(cause, hidden=False):
    try:
        try:
            raise cause
        except type(cause) as error:
            raise UserError("FILE: cannot be read") from (None if hidden else error)
    except UserError as error:
        return error


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EDQUOT])
def test_transient_failures_exit_with_74(number):
    failed = OSError(number, os.strerror(number), "FILE")
    assert exit_status(failed) == exit_status(chained(failed)) == IO_ERROR == 74
    tensorstore = ValueError(f"Failed to write FILE [os_error_code='{number}']")
    assert os_error(chained(tensorstore)) == number
    assert exit_status(chained(tensorstore)) == 74
    riegeli = RuntimeError(f"write() failed: {os.strerror(number)}; writing FILE; at byte 6")
    assert os_error(chained(riegeli)) == number
    assert is_full(chained(failed)) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert exit_status(chained(failed, hidden=True)) == 1


@pytest.mark.parametrize(
    "cause",
    [
        FileNotFoundError(errno.ENOENT, "No such file"),
        PermissionError(errno.EACCES, "Permission denied"),
        ValueError("12 is not a number"),
        UserError("a name with OS error 28 in it"),
    ],
    ids=repr,
)
def test_bad_input_exits_with_1(cause):
    assert exit_status(cause) == exit_status(chained(cause)) == 1


def test_failing_disk_does_not_discard_checkpoints(tmp_path, monkeypatch):
    like = distributed.replicate({"a": np.zeros(3, np.float32)})
    with closing(Checkpoints(tmp_path, owner=True)) as checkpoints:
        checkpoints.save(1, like)
        checkpoints.save(2, like)
    with closing(Checkpoints(tmp_path, owner=True)) as checkpoints:

        def fail(*_, **__):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(checkpoints._handler, "restore", fail)
        with pytest.raises(UserError, match="Input/output error") as caught:
            checkpoints.restore_newest(distributed.replicated_like(like), pytest.fail)
        assert exit_status(caught.value) == 74 and checkpoints.steps() == [1, 2]
    assert not (tmp_path / "damaged").exists()


def test_failing_disk_does_not_count_as_a_damaged_shard(tiny_data, monkeypatch):
    dataset = records.Dataset(tiny_data)
    monkeypatch.setattr(files, "checksum", lambda path: os.close(-1))
    assert "cannot be read" in next(dataset.find_damage(trust_marks=False))[1]

    def fail(path):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(files, "checksum", fail)
    with pytest.raises(OSError, match="Stale file handle") as caught:
        list(dataset.find_damage(trust_marks=False))
    assert exit_status(caught.value) == 74


def test_platform_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "find_spec", lambda name: None)
    with (
        pytest.raises(UserError, match=r"cannot be locked on this platform.*use Linux or macOS"),
        lock.held(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("platform", "display", "expected"),
    [
        ("darwin", "", True), ("win32", "", True), ("linux", "", False), ("linux", ":0", True),
    ],
)  # fmt: skip
def test_display_detection(monkeypatch, platform, display, expected):
    monkeypatch.setattr(draw.sys, "platform", platform)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    assert draw.has_display() == expected
