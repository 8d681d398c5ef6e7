"""The watchdog: timeouts, exempt work, and the lagging process."""

import subprocess
import sys
import threading
import time

from jdance.train import distributed
from jdance.train.watchdog import Watchdog, lagging


def watch(seconds):
    ended = threading.Event()
    statuses = []
    watchdog = Watchdog(seconds, 7, lambda status: (statuses.append(status), ended.set()))
    return watchdog, ended, statuses


def test_timeout_exits_and_prints_stacks(capfd):
    watchdog, ended, statuses = watch(0.5)
    assert ended.wait(60) and statuses == [distributed.BROKEN]
    watchdog.close()
    error = capfd.readouterr().err
    assert "test_timeout_exits_and_prints_stacks" in error  # the stack of the main thread
    assert "has not finished a step" in error and "the last one was 7" in error


def test_steps_and_exempt_work_prevent_the_timeout():
    watchdog, ended, _ = watch(2.0)
    for step in range(8, 14):
        time.sleep(0.5)
        watchdog.step(step)
    with watchdog.exempt():
        time.sleep(3)
    assert not ended.is_set()
    with watchdog.exempt(False):
        assert ended.wait(60)
    watchdog.close()


def test_zero_disables_the_timeout():
    watchdog, ended, _ = watch(0.0)
    assert not ended.wait(0.3)
    watchdog.close()


def test_process_exits():
    code = (
        "from jdance.train.watchdog import Watchdog; import time; d = Watchdog(0.3);time.sleep(120)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == distributed.BROKEN and "--watchdog=0.3" in run.stderr


def test_lagging_process():
    published = [("jdance/step/0", "20 1000.0 a"), ("jdance/step/1", "19 1003.0 b c")]
    assert lagging(published, 2, 1010.0) == (
        "process 1 on b c lags: step 19, last heard of 7 s ago (steps by process: 0: 20, 1: 19)"
    )
    published[1] = ("jdance/step/1", "20 990.0 b")  # in lockstep: the silent one
    assert lagging(published, 2, 1010.0).startswith(
        "process 1 on b lags: step 20, last heard of 20 s"
    )
    assert lagging(published, 3, 1010.0) == "process 2 lags: it has never been heard of"
