"""The supervisor as a program. Signals are caught before anything else is imported."""

import sys

from goku_platform.supervisor.stop import StopRequest


def main() -> int:
    """Supervise one attempt; returns the pod's exit code."""
    stop = StopRequest()
    stop.install()
    from goku_platform.supervisor.supervisor import supervise

    return supervise(stop)


if __name__ == "__main__":
    sys.exit(main())
