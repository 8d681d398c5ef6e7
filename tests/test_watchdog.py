"""The watchdog: who is exempt, when it barks, and whom it names."""

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


def test_it_ends_a_run_that_stands_still(capfd):
    watchdog, ended, statuses = watch(0.5)
    assert ended.wait(60) and statuses == [distributed.BROKEN]
    watchdog.close()
    told = capfd.readouterr().err
    assert "test_it_ends_a_run_that_stands_still" in told  # the stack of the main thread
    assert "has not finished a step" in told and "the last one was 7" in told


def test_steps_and_exempt_work_keep_it_quiet():
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


def test_none_where_none_is_wanted():
    watchdog, ended, _ = watch(0.0)
    assert not ended.wait(0.3)
    watchdog.close()


def test_it_really_ends_the_process():
    code = (
        "from jdance.train.watchdog import Watchdog; import time; d = Watchdog(0.3);time.sleep(120)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == distributed.BROKEN and "--watchdog=0.3" in run.stderr


def test_the_one_that_lags():
    told = [("jdance/step/0", "20 1000.0 a"), ("jdance/step/1", "19 1003.0 b c")]
    assert lagging(told, 2, 1010.0) == (
        "process 1 on b c lags: step 19, last heard of 7 s ago (steps by process: 0: 20, 1: 19)"
    )
    told[1] = ("jdance/step/1", "20 990.0 b")  # in lockstep: the one that is silent
    assert lagging(told, 2, 1010.0).startswith("process 1 on b lags: step 20, last heard of 20 s")
    assert lagging(told, 3, 1010.0) == "process 2 lags: it has never been heard of"
