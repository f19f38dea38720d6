"""`torchrun --nproc-per-node 4 -m goku.apps.parity`: do all ways to spread a step agree, here?

Runs on GPUs, or on CPUs where there is none. Prints a line for each way; returns 1 if one is off.
"""

import os
import sys


def main() -> int:
    """Examine every case that the number of processes allows."""
    from goku.bench.parity import examine
    from goku.parallel.mesh import assume_one_process

    assume_one_process()
    good = True
    for verdict in examine(int(os.environ["WORLD_SIZE"])):
        good &= verdict.good
        if os.environ["RANK"] == "0":
            print(verdict, flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # DeepSpeed and gloo abort now and then while the interpreter shuts down
