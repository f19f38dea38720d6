"""Ranks, and attempts, that read a set of samples while somebody changes it."""

import io
import os
import signal
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from goku.apps.entry import judge
from goku.config import ConfigError, RunConfig
from goku.contract.attempts import Ledger
from goku.contract.exits import EXIT_OF, Cause
from goku.contract.rundir import LATENTS, RunDir, samples_file
from goku.contract.store import Store
from goku.data.cache import CacheWriter, LatentCache
from goku.data.encoding import Sample
from goku.data.records import Kind
from goku.parallel.mesh import Mesh
from goku.trainer import build, feed
from goku.trainer.loop import train
from tests.goku.trainer import world
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

read = feed.source_of


def add_a_clip(store: Path, name: str = "late") -> None:
    """As an encode run does that is started again after more was curated."""
    cache = LatentCache(Store(f"{store}/encode/{LATENTS}"))
    writer = CacheWriter(cache)
    latent_CTHW = torch.zeros(4, 1, 8, 14)
    writer.add(name, Kind.IMAGE, Sample(latent_CTHW, torch.zeros(2, 64), latent_CTHW[:, 0]))
    writer.flush()
    cache.complete()


def built(store: Path, *, added: bool) -> str:
    """What building says in this rank, where rank 1 reads last and perhaps after another clip."""

    def in_turn(config: RunConfig, mesh: Mesh) -> Any:
        if mesh.rank == 1:
            mesh.barrier()
            if added:
                add_a_clip(store)
        source = read(config, mesh)
        if mesh.rank == 0:
            mesh.barrier()
        return source

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "source_of", in_turn)
        config = world.configure(store, "run", "parallel.processes_per_node=2")
        try:
            world.trainer_of(config, store / "pod")
        except ConfigError as error:
            return str(error)
    return ""


def refused(store: Path) -> tuple[str, Cause]:
    config = world.configure(store, "run", "parallel.processes_per_node=2")
    with pytest.raises(ConfigError) as caught:
        world.trainer_of(config, store / "pod")
    return str(caught.value), judge(caught.value).cause


def test_a_damaged_index_is_the_users_error_on_all_ranks(tmp_path: Path) -> None:
    world.encode(tmp_path)
    latents, name = Store(f"{tmp_path}/encode/{LATENTS}"), "index.jsonl.gz"
    latents.write(name, latents.read(name)[:-1])
    for message, cause in run_ranks(refused, 2, tmp_path):
        assert message.startswith(f"{latents.uri}/{name}: its bytes have changed")
        assert "Start that encode run again" in message
        assert EXIT_OF[cause] == 1


def both(store: Path) -> list[str]:
    return [built(store, added=added) for added in (False, True)]


def attempt(store: Path, before: Callable[[], None], step: int) -> list[str]:
    """What an attempt warns of in this rank; rank 0 calls `before`, and stops it after `step`."""
    if int(os.environ["RANK"]) == 0:
        before()
        Ledger(RunDir(f"{store}/run")).open(host="test", nodes=1, processes_per_node=2)
    torch.distributed.barrier()
    with redirect_stdout(io.StringIO()) as said:
        trainer = world.trainer_of(world.configure(store, "run"), store / "pod")
        trainer.health.install()
        update = trainer.engine.step

        def watched(rate: float) -> float:
            if trainer.mesh.rank == 0 and trainer.position.step == step - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return update(rate)

        trainer.engine.step = watched  # type: ignore[method-assign]
        train(trainer)
    assert trainer.position.step == step
    return [line for line in said.getvalue().splitlines() if line.startswith("warning")]


def attempts(store: Path) -> list[list[str]]:
    """The warnings of a run's attempts, by what happens before each."""
    folder, run = Store(f"{store}/encode/{LATENTS}"), RunDir(f"{store}/run")
    first = set(folder.walk())

    def take_out_what_was_added() -> None:
        for name in set(folder.walk()) - first:
            folder.delete(name)
        LatentCache(folder).complete()

    def add_and_damage() -> None:
        add_a_clip(store, "damaged")
        run.store.write(samples_file(4), b'{"samples": 3')

    def add_and_lose() -> None:
        add_a_clip(store, "lost")
        run.store.delete(samples_file(5))

    happens: list[Callable[[], None]] = [
        lambda: None,
        lambda: add_a_clip(store),
        lambda: None,
        take_out_what_was_added,
        add_and_damage,
        add_and_lose,
    ]
    return [attempt(store, before, step) for step, before in enumerate(happens, 1)]


def test_an_attempt_that_goes_on_with_other_samples_says_so(tmp_path: Path) -> None:
    world.encode(tmp_path)
    zero, one = run_ranks(attempts, 2, tmp_path)
    _, [added], same, [removed], damaged, lost = zero
    assert added.startswith("warning: data.latents=encode: attempt 1, which saved step 1, read 36")
    assert "this one 37 and not the same. From here on samples come in another order" in added
    assert "back to step 1 (ckpt promote)" in added
    assert "training.init_from=run" in added
    assert "attempt 3, which saved step 3, read 37 samples there, this one 36" in removed
    assert [same, damaged, lost] == [[], [], []]
    assert one == [[]] * 6


def test_ranks_that_have_read_different_samples_do_not_train(tmp_path: Path) -> None:
    world.encode(tmp_path)
    for fine, refused in run_ranks(both, 2, tmp_path):
        assert fine == ""
        assert "data.latents=encode" in refused
        assert "rank 0 has read 36 samples, rank 1 37" in refused
