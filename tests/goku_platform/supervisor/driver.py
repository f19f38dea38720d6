"""A supervisor of the fake: `driver.py <run> <pod folder> <scenario> [asked]`."""

import sys
from pathlib import Path

from goku_platform.supervisor.placement import Placement
from goku_platform.supervisor.stop import StopRequest
from goku_platform.supervisor.supervisor import Supervisor

if __name__ == "__main__":
    run, folder, scenario, *rest = sys.argv[1:]
    stop = StopRequest()
    stop.install()
    if rest == ["asked"]:
        stop.ask()
    place = Placement(run_uri=run, pod_folder=Path(folder))
    fake = str(Path(__file__).with_name("fake.py"))
    sys.exit(Supervisor(place, stop=stop, program=[fake, scenario], settle_seconds=3).run())
