"""Stands in for the supervisor: `fake_supervisor.py <exit code> <seconds to save> [begin]`.

It says that it began, runs until SIGTERM (or ends at once with `begin` left out), then "saves".
"""

import os
import signal
import sys
import time
from types import FrameType


def main(code: int, save_seconds: float, stays: bool) -> int:
    def leave(_signal: int, _frame: FrameType | None) -> None:
        print("saving", flush=True)
        time.sleep(save_seconds)
        sys.exit(143)

    signal.signal(signal.SIGTERM, leave)
    print(f"began {os.environ['GOKU_RUN']} rank {os.environ['GOKU_NODE_RANK']}", flush=True)
    while stays:
        time.sleep(0.05)
    return code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:] == ["stay"]))
