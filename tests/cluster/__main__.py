"""`python -m tests.cluster up|down|status`, from the repository's root; see `lifecycle`."""

import argparse
import sys

from tests.cluster import lifecycle, operators
from tests.cluster.binaries import MissingTool
from tests.cluster.daemons import ClusterError


def main() -> int:
    """Run one verb; a failure is told in words, without a traceback."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="start the cluster, or say that it is up")
    up.add_argument(
        "--with",
        dest="operators",
        default=",".join(operators.NAMES),
        help="operators to install, comma-separated; '' for none (default: all)",
    )
    verbs.add_parser("down", help="end it and everything that is left of it")
    verbs.add_parser("status", help="say what runs")
    chosen = parser.parse_args()
    try:
        if chosen.verb == "up":
            lifecycle.up(operators.chosen(chosen.operators))
        elif chosen.verb == "down":
            lifecycle.down()
        else:
            print(lifecycle.status())
    except (MissingTool, ClusterError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
