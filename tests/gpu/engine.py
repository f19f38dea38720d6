"""On a GPU: both engines around compiled, fused blocks, on packs of differing make-up.

`python -m tests.gpu.engine` trains a small model for a few steps in each case. It prints losses
and gradient norms, which must agree between cases, and fails where a micro-batch waits for the
GPU. Stacks are printed if it takes longer than five minutes: two and a half are expected.
"""

import faulthandler
import os
import sys
import time

import torch

from goku.config.memory import Typical
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.config.training import TrainingConfig
from goku.model import build
from goku.nn.layout import Grid, Layout
from goku.parallel.apply import parallelize
from goku.parallel.compile import graphs
from goku.parallel.engine import Engine
from goku.parallel.mesh import connect

ENVIRONMENT = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
MODEL = ModelConfig(layers=2, width=512, heads=8)
PACKS: list[list[Grid]] = [
    [(3, 18, 32), (1, 18, 32)],
    [(1, 18, 32)] * 5,
    [(5, 18, 32)],
    [(2, 9, 16), (1, 18, 32), (1, 18, 32)],
]
WARM = len(PACKS)  # steps that compile, and may wait
CASES = (
    ("fsdp2", 2, "none"),
    ("fsdp2", 3, "attention"),
    ("fsdp2", 3, "offload"),
    ("deepspeed", 1, "none"),
    ("deepspeed", 2, "products"),
    ("deepspeed", 2, "full"),
    ("deepspeed", 3, "none"),
)


def step(engine: Engine, index: int, *, strict: bool) -> tuple[float, float]:
    generator = torch.Generator("cuda").manual_seed(index)
    grids = PACKS[index % len(PACKS)]
    layout = Layout.build(grids, [200 + 7 * n for n in range(len(grids))]).to("cuda")
    x_NP = torch.randn(layout.tokens, MODEL.token_width, device="cuda", generator=generator)
    t_S = torch.rand(layout.segments, device="cuda", generator=generator)
    text = sum(layout.text_lengths)
    text_MY = torch.randn(text, MODEL.text_width, device="cuda", generator=generator)
    torch.cuda.set_sync_debug_mode("error" if strict else "default")
    try:
        loss = (engine.module(x_NP, t_S, text_MY, layout).float() - x_NP).square().mean()
        engine.backward(loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return round(loss.item(), 4), round(engine.step(1e-3), 3)


def main() -> int:
    faulthandler.dump_traceback_later(300)
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault("MASTER_PORT", "29511")
    found, began = [], time.monotonic()
    for engine_name, stage, keep in CASES:
        torch._dynamo.reset()
        config = ParallelConfig.build(
            {
                "processes_per_node": 1,
                "engine": engine_name,
                "zero_stage": stage,
                "recompute": keep,
            }
        )
        mesh, before = connect(config), graphs()
        lengths = tuple(t * h * w for t, h, w in PACKS[0])
        typical = Typical(MODEL, lengths, (256,) * len(lengths))
        model = build(MODEL, seed=0, device=mesh.device)
        engine = parallelize(model, config, TrainingConfig(), mesh, 1, typical=typical)
        waits = (engine_name, stage) == ("deepspeed", 3)  # by itself, for gathered weights
        history = [step(engine, n, strict=n >= WARM and not waits) for n in range(WARM + 2)]
        print(
            f"{time.monotonic() - began:.0f} s: {engine_name} {stage}, {keep}: {history}, "
            f"{graphs() - before} graphs",
            flush=True,
        )
        found.append(history)
    worst = max(abs(a[0] - b[0]) for run in found for a, b in zip(run, found[0], strict=True))
    print(f"losses differ by {worst:.1e} at most")
    return int(worst > 1e-2)


if __name__ == "__main__":
    sys.exit(main())
