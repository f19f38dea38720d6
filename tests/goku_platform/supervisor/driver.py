"""A supervisor of the fake: `driver.py <run> <pod folder> <scenario> [asked]`.

Its place among several nodes, where there are any, is in the environment as in a pod.
"""

import os
import sys
from pathlib import Path

from goku.contract import env
from goku_platform.supervisor.placement import Placement
from goku_platform.supervisor.stop import StopRequest
from goku_platform.supervisor.supervisor import Supervisor

if __name__ == "__main__":
    run, folder, scenario, *rest = sys.argv[1:]
    stop = StopRequest()
    stop.install()
    if rest == ["asked"]:
        stop.ask()
    place = Placement.read({**os.environ, env.RUN: run, env.POD_DIR: folder})
    place = place._replace(host=f"pod-{place.node_rank}")
    fake = str(Path(__file__).with_name("fake.py"))
    supervisor = Supervisor(
        place, stop=stop, program=[fake, scenario], settle_seconds=3, silence_seconds=6
    )
    sys.exit(supervisor.run())
