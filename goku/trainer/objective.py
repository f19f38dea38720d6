"""One pack through the model: noise, t, the point x_t, the predicted velocity, the loss.

Training and validation share it; they differ in where u comes from and in what is done with the
loss. With sequence parallelism every rank of a group has the whole pack. It takes the samples that
it shares with its neighbours, draws the same noise for them as these do, and computes its own shard
of their tokens: its loss is a part, and the parts sum over the group.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goku.data.loader import Batch
from goku.flow.loss import sample_losses
from goku.flow.path import interpolate, velocity
from goku.flow.timesteps import Timesteps
from goku.nn.layout import Layout
from goku.nn.spans import send
from goku.parallel.mesh import Mesh
from goku.parallel.sequence import shard
from goku.trainer import draws

Model = Callable[..., Tensor] | nn.Module


@dataclass(frozen=True)
class Objective:
    """Rectified flow's regression of the velocity (paper Eq. 1)."""

    timesteps: Timesteps
    seed: int
    mesh: Mesh

    def times(self, batch: Batch) -> Tensor:
        """t_S of a training pack, float64 on the CPU."""
        tokens_S = torch.tensor(batch.layout.full_lengths)
        return self.timesteps.quantile(draws.uniforms(self.seed, batch.ordinals), tokens_S)

    def loss(self, model: Model, batch: Batch, t_S: Tensor) -> Tensor:
        """This rank's part of the sum of the samples' losses, float32."""
        numbers = batch.division.part(self.mesh.sequence_rank)
        return self._loss(model, batch.only(numbers), t_S[list(numbers)])

    def _loss(self, model: Model, batch: Batch, t_S: Tensor) -> Tensor:
        """Of the samples that this rank shares at the degree of their pack."""
        device = self.mesh.device
        clean_NP = send(batch.x_NP, device)
        noise_NP = draws.noise(
            self.seed,
            batch.ordinals,
            batch.layout.lengths,
            width=clean_NP.shape[-1],
            device=device,
        )
        layout = batch.layout.to(device)
        t_S = send(t_S.float(), device)
        x_NP = interpolate(clean_NP, noise_NP, t_S[layout.segment_N, None])
        target_NP = velocity(clean_NP, noise_NP)
        return self._compare(model, batch, layout, t_S, x_NP, target_NP)

    def _compare(
        self,
        model: Model,
        batch: Batch,
        layout: Layout,
        t_S: Tensor,
        x_NP: Tensor,
        target_NP: Tensor,
    ) -> Tensor:
        tokens = [x_NP, target_NP]
        if batch.reference_NP is not None:
            tokens.append(send(batch.reference_NP, self.mesh.device))
        place = self.mesh.place(batch.division.degree)
        mine = shard(layout, tokens, [t_S], place=place)
        x_NP, target_NP, *reference = mine.tokens
        text_MY = send(batch.text_MY, self.mesh.device)
        v_NP = model(x_NP, mine.segments[0], text_MY, mine.layout, *reference)
        return sample_losses(v_NP, target_NP, mine.layout)[: len(t_S)].sum()
