"""Validation: the loss on held-out samples at fixed noise and stratified t, on raw and EMA weights.

Eight levels of t per sample make the number comparable from step to step; the noise is keyed by the
sample's place in the held-out set. All data ranks run the same number of forwards, because ZeRO
stage 3 gathers weights in each of them: where samples run out, a rank repeats one with weight 0.
"""

from collections.abc import Callable, Sequence

import torch

from goku.data.loader import Batch
from goku.flow.timesteps import stratified
from goku.parallel.engine import Engine
from goku.parallel.mesh import Mesh
from goku.trainer.ema import Ema
from goku.trainer.objective import Objective

LEVELS = 8


class Validation:
    """Held-out packs and how to measure a model on them."""

    def __init__(self, batches: Sequence[Batch], objective: Objective, mesh: Mesh) -> None:
        self._objective, self._mesh = objective, mesh
        rounds = -(-len(batches) // mesh.data)
        turns = [turn * mesh.data + mesh.data_rank for turn in range(rounds)]
        self._turns = [(batches[t % len(batches)], float(t < len(batches))) for t in turns]

    def __bool__(self) -> bool:
        return bool(self._turns)

    def losses(self, engine: Engine, ema: Ema, stop: Callable[[], bool]) -> dict[str, float]:
        """Mean loss by weights: {"raw": ..., "ema": ...}. The engine's weights end as they were.

        `stop` is asked before every pack, on all ranks together; where it says yes, what is not
        measured by then is left out. After an error the weights stay as they are: to put them back
        takes all ranks, and the others are elsewhere.
        """
        engine.module.eval()
        found = {"raw": self._mean(engine, stop)}
        engine.publish(ema.values)
        found["ema"] = self._mean(engine, stop)
        engine.publish(None)
        engine.module.train()
        return {weights: loss for weights, loss in found.items() if loss is not None}

    @torch.no_grad()
    def _mean(self, engine: Engine, stop: Callable[[], bool]) -> float | None:
        levels = stratified(LEVELS)
        total = torch.zeros(2, dtype=torch.float64)
        for batch, weight in self._turns:
            if stop():
                return None
            tokens_S = torch.tensor(batch.layout.full_lengths)
            for level in levels:
                t_S = self._objective.timesteps.quantile(level.expand(len(tokens_S)), tokens_S)
                total[0] += weight * float(self._objective.loss(engine.module, batch, t_S))
                total[1] += weight * len(tokens_S)
        total = self._mesh.sum(total)
        return float(total[0] * self._mesh.sequence / total[1])
