"""Two gloo ranks of which one ends badly: `gloo_ranks.py killed|raises`."""

import os
import signal
import sys

import torch
import torch.distributed as dist

if __name__ == "__main__":
    how = sys.argv[1]
    dist.init_process_group("gloo")
    dist.all_reduce(torch.ones(1))
    print(f"hello from {dist.get_rank()}", flush=True)
    if dist.get_rank() == 1 and how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if dist.get_rank() == 1 and how == "raises":
        os._exit(139)
    dist.all_reduce(torch.ones(1))  # rank 0 learns of it here
