"""On one GPU: how evenly joint steps are dealt to ranks by tokens, by FLOPs, by a measured table.

`python -m tests.gpu.balance` measures the table, lets the loader deal the same samples by each of
the three costs, and computes every pack forward and backward, rank after rank on the one GPU: what
the ranks' exchanges would add is not in it. It prints the expected and the measured time of a step
over that of ranks that finish together. With `--size tiny` every line runs on a CPU.
"""

import argparse
import faulthandler
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from goku.bench import costs
from goku.bench.measure import versions
from goku.bench.shapes import Pack
from goku.bench.step import Step, milliseconds
from goku.config import RunConfig, presets
from goku.config.memory import typical_of
from goku.config.overrides import parse
from goku.data.balance import Cost, Table, imbalance
from goku.data.loader import Loader
from goku.data.source import Source
from goku.nn.layout import Layout
from goku.trainer.feed import cost_of
from tests.gpu import made

BALANCES = ("tokens", "flops", "measured")
TARGET = 1.05
_SAMPLES = 2_000  # of each kind, of which the steps take a few hundred
_TABLE_ROUNDS = 3
_STACKS_SECONDS = 400


@dataclass(frozen=True)
class Dealt:
    """The packs of all steps, in order, as one cost deals them to the ranks."""

    balance: str
    cost: Cost
    packs: list[Layout]

    def expected(self, cost: Cost, ranks: int) -> float:
        return imbalance([sum(map(cost, pack.lengths)) for pack in self.packs], ranks=ranks)


@dataclass(frozen=True)
class Row:
    """What one cost achieves over all steps."""

    balance: str
    expected: float  # step time over that of even ranks, by the cost itself
    by_table: float  # the same by the measured table
    measured: float
    worst_step: float
    tokens_per_second: float  # of all ranks
    off: float  # how far a pack's time is from its cost, at worst

    def __str__(self) -> str:
        return (
            f"{self.balance:10} {self.expected:8.3f} {self.by_table:9.3f} {self.measured:9.3f} "
            f"{self.worst_step:10.3f} {self.tokens_per_second:12,.0f} {self.off:8.1%}"
        )


HEAD = (
    f"{'dealt by':10} {'expected':>8} {'by table':>9} {'measured':>9} {'worst step':>10} "
    f"{'tokens/s':>12} {'cost off':>8}"
)


def configured(asked: argparse.Namespace, balance: str, table: Path) -> RunConfig:
    """The run whose ranks are measured."""
    settings = [
        f"data.balance={balance}",
        f"data.packs_per_step={asked.packs}",
        f"parallel.processes_per_node={asked.ranks}",
        f"parallel.attention={asked.attention}",
        "data.prefetch_packs=1",
        "training.init_from=none",
    ]
    if balance == "measured":
        settings.append(f"data.costs={table}")
    return presets.build(asked.preset, store="made", size=asked.size, overrides=parse(settings))


def deal(config: RunConfig, source: Source, steps: int) -> Dealt:
    """The first steps of the loader of a rank that computes all packs."""
    cost = cost_of(config)
    assert cost is not None
    loader = Loader(source, config.data, patch=config.model.patch_size, cost=cost)
    packs = [pack.layout for step in islice(loader.steps(), steps) for pack in step.packs]
    return Dealt(config.data.balance, cost, packs)


def prepare(config: RunConfig) -> Step:
    """The model with the kernels and the recomputation of that run."""
    pack = Pack("typical", typical_of(config).lengths, text=config.text.max_tokens)
    return Step(config.model, pack, config.parallel)


def write_table(step: Step, config: RunConfig, path: Path) -> None:
    """Measure samples from an image to the run's longest."""
    longest, pack = config.sample_tokens, config.data.pack_tokens
    lengths = costs.lengths_to(longest, shortest=longest // config.data.latent_shape[0])
    for found in costs.measure(step, lengths, pack_tokens=pack, rounds=_TABLE_ROUNDS):
        path.write_text(json.dumps(found.as_dict()))
    print(found, flush=True)


def rounds_of(step: Step, dealt: Sequence[Dealt], seconds: float) -> list[list[list[float]]]:
    """Milliseconds by round, cost and pack: costs in turn, whole rounds while there is time.

    Every pack runs once before that: some are the first of a shape for which a kernel is compiled.
    """
    for pack in {pack.lengths: pack for one in dealt for pack in one.packs}.values():
        step.take(pack)
        step.run()
    rounds: list[list[list[float]]] = []
    began = time.monotonic()
    while not rounds or (time.monotonic() - began) * (len(rounds) + 1) / len(rounds) < seconds:
        rounds.append([[] for _ in dealt])
        for place in range(len(dealt[0].packs)):
            for one, times in zip(dealt, rounds[-1], strict=True):
                step.take(one.packs[place])
                times.append(milliseconds(step.run, 1))
    return rounds


def summarise(dealt: Dealt, times: Sequence[float], table: Table, asked: argparse.Namespace) -> Row:
    """`times` are the packs' milliseconds: as ranks that wait for one another would spend them."""

    def waited(times: Sequence[float]) -> float:
        return imbalance(times, ranks=asked.ranks)

    steps = [times[at : at + asked.packs] for at in range(0, len(times), asked.packs)]
    scales = [
        ms / sum(map(dealt.cost, pack.lengths)) for ms, pack in zip(times, dealt.packs, strict=True)
    ]
    middle = statistics.median(scales)
    return Row(
        dealt.balance,
        expected=dealt.expected(dealt.cost, asked.ranks),
        by_table=dealt.expected(table, asked.ranks),
        measured=waited(times),
        worst_step=max(map(waited, steps)),
        tokens_per_second=1e3
        * sum(pack.tokens for pack in dealt.packs)
        / (waited(times) * sum(times) / asked.ranks),
        off=max(abs(scale / middle - 1) for scale in scales),
    )


def report(
    dealt: Sequence[Dealt],
    rounds: list[list[list[float]]],
    table: Table,
    asked: argparse.Namespace,
) -> dict[str, Any]:
    """Print the table of rows; everything, for JSON."""
    by_cost = [list(zip(*(one[n] for one in rounds), strict=True)) for n in range(len(dealt))]
    medians = [[statistics.median(runs) for runs in packs] for packs in by_cost]
    spread = max(max(runs) / min(runs) - 1 for packs in by_cost for runs in packs)
    rows = [summarise(one, ms, table, asked) for one, ms in zip(dealt, medians, strict=True)]
    print(
        f"\n{asked.preset}, {asked.size}, {asked.steps} steps of {asked.packs} packs for "
        f"{asked.ranks} ranks, measured one after another on one device; medians of {len(rounds)} "
        f"rounds, which differ by {spread:.1%} at most; must {TARGET}\n{HEAD}"
    )
    print(*rows, sep="\n", flush=True)
    packs = {
        one.balance: [{"lengths": p.lengths, "text": p.text_lengths} for p in one.packs]
        for one in dealt
    }
    return {"rows": [vars(row) for row in rows], "spread": spread, "packs": packs, "rounds": rounds}


def main() -> int:
    faulthandler.dump_traceback_later(_STACKS_SECONDS)
    asked, began = _parse(), time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:.0f} s: {what}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        path = asked.costs or Path(folder) / "costs.json"
        plain = configured(asked, "flops", path)
        step = prepare(plain)
        tell("model is ready")
        if not asked.costs:
            write_table(step, plain, path)
            tell("table is measured")
        source = made.Blank.of(plain, images=_SAMPLES, videos=_SAMPLES)
        runs = [configured(asked, balance, path) for balance in BALANCES]
        dealt = [deal(run, source, asked.steps) for run in runs]
        tell("packs are dealt")
        rounds = rounds_of(step, dealt, asked.seconds)
        table = Table.read(str(path))
        found = report(dealt, rounds, table, asked) | {"costs": json.loads(path.read_text())}
    if torch.cuda.is_available():
        found |= {"versions": versions(), "recompute": str(step.policy)}
        found |= {"peak_bytes": torch.cuda.max_memory_allocated()}
        print(f"recompute {step.policy}, {found['peak_bytes'] / 2**30:.1f} GiB at the peak")
    if asked.json:
        asked.json.write_text(json.dumps({"asked": vars(asked), **found}, default=str))
    tell("done")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="stage2-288x512")
    parser.add_argument("--size", choices=sorted(presets.SIZES), default="2b")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--packs", type=int, default=8, help="in one step")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=140, help="of measurement, table apart")
    parser.add_argument("--costs", type=Path, help="read this table instead of measuring one")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
