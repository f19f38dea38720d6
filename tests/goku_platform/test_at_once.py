"""Work beside other work: its result and its error reach whoever waits, and it keeps nobody."""

import subprocess
import sys
import threading

import pytest

from goku_platform.runs.at_once import beside


def test_what_work_returns_is_had_while_other_work_goes_on() -> None:
    goes_on = threading.Event()
    future = beside(lambda: goes_on.wait(timeout=10))
    assert not future.done()
    goes_on.set()
    assert future.result()


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_what_work_raises_is_raised_to_whoever_waits(error: BaseException) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        beside(work).result()
    assert caught.value is error


@pytest.mark.slow
def test_work_that_hangs_does_not_outlast_the_program() -> None:
    code = (
        "import time\n"
        "from goku_platform.runs.at_once import beside\n"
        "beside(lambda: time.sleep(60))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
