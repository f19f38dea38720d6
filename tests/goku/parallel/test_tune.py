"""What tuning leaves alone on a CPU, and what it refuses."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from goku.config import ConfigError
from goku.config.memory import Plan, Policy, Typical, least_sequence, state_bytes
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.model import build
from goku.nn.attend import native
from goku.nn.rowwise import PLAIN
from goku.parallel import tune
from goku.parallel.mesh import Mesh, connect
from goku.parallel.tune import compiles, finish_blocks, require_host, take_kernels
from tests.goku.model.packs import SMALL, packed, random_model, samples
from tests.ranks import run_ranks

MESH = Mesh(0, 1, 1, 1, None, torch.device("cpu"))
TYPICAL = Typical(SMALL, (6, 12), (4, 1))


def config(**values: object) -> ParallelConfig:
    return ParallelConfig.build({"processes_per_node": 1, **values})


def test_a_cpu_keeps_the_plain_eager_model() -> None:
    model = random_model(SMALL)
    take_kernels(model, config(), TYPICAL, MESH)
    assert finish_blocks(model, config(), TYPICAL, MESH) is None
    for block in model.blocks:
        assert block.rowwise is PLAIN
        assert block.attention.attend is block.text_attention.attend is native.attend
        assert block.forward.__func__ is type(block).forward


def test_a_kernel_that_cannot_run_is_the_users_error() -> None:
    with pytest.raises(ConfigError, match=r"parallel\.attention=fa3"):
        take_kernels(random_model(SMALL), config(attention="fa3"), TYPICAL, MESH)


@pytest.mark.parametrize("products", ["fp8_mlp", "fp8"])
def test_8_bit_products_are_refused_where_no_gpu_has_them(products: str) -> None:
    with pytest.raises(ConfigError, match=rf"parallel\.products={products}: .* 9\.0 \(Hopper\)"):
        take_kernels(random_model(SMALL), config(products=products), TYPICAL, MESH)


def test_recomputation_is_applied_on_a_cpu_where_it_is_asked_for() -> None:
    model = random_model(SMALL)
    finish_blocks(model, config(recompute="full", recompute_every=2), TYPICAL, MESH)
    changed = [block.forward.__func__ is not type(block).forward for block in model.blocks]
    assert changed == [False, True]


def test_what_waits_on_the_host_is_told_and_must_have_room() -> None:
    planned = Plan(Policy("offload"), 2**30, 2**31, fits=True, host_bytes=2**32)
    require_host(planned, 2**32)
    with pytest.raises(ConfigError, match=r"recompute=offload: 4\.0 GiB of each .* 2\.0 GiB are"):
        require_host(planned, 2**31)


def test_a_cpu_keeps_on_its_host_where_it_is_asked_to() -> None:
    model, plain = random_model(SMALL), random_model(SMALL)
    finish_blocks(model, config(recompute="offload"), TYPICAL, MESH)
    for each in (model, plain):
        packed(each, samples(SMALL)).square().sum().backward()
    for found, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(found.grad, expected.grad)


@pytest.mark.parametrize(
    ("values", "on_gpu", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"zero_stage": 3}, True, False),
        ({"zero_stage": 3, "engine": "fsdp2"}, True, True),
        ({"zero_stage": 3, "compile": "on"}, True, True),
        ({"precision": "fp32"}, True, False),
        ({"compile": "off"}, True, False),
    ],
)
def test_where_blocks_are_compiled(values: dict[str, object], on_gpu: bool, expected: bool) -> None:
    assert compiles(config(**values), on_gpu=on_gpu) is expected


def test_compiling_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="on a GPU only"):
        compiles(config(compile="on"), on_gpu=False)


def test_state_is_counted_as_zero_cuts_it() -> None:
    model = random_model(SMALL)
    weights = sum(p.numel() for p in model.parameters())
    two = {"processes_per_node": 2}
    assert state_bytes(weights, config(zero_stage=1, **two)) == (8 + 4 + 2) * weights
    assert state_bytes(weights, config(zero_stage=2, **two)) == (8 + 2 + 2) * weights
    assert state_bytes(weights, config(zero_stage=3, **two)) == (8 + 2 + 1) * weights
    fsdp = {"engine": "fsdp2", **two}
    assert state_bytes(weights, config(zero_stage=2, **fsdp)) == (8 + 2 + 1 + 2) * weights
    assert state_bytes(weights, config(zero_stage=3, **fsdp)) == (8 + 2 + 1) * weights
    assert state_bytes(weights, config(zero_stage=3, replicas=2, **fsdp)) == (8 + 2 + 2) * weights


@pytest.mark.parametrize(("tokens", "least"), [(40_000, 1), (400_000, 2), (1_000_000, 8)])
def test_the_fewest_ranks_that_can_share_a_pack(tokens: int, least: int) -> None:
    eight = ParallelConfig(processes_per_node=8)
    pack = Typical(ModelConfig(), (tokens,), (256,))
    memory = {"fixed_bytes": 30 * 2**30, "memory_bytes": 80 * 2**30}
    assert least_sequence(eight, pack, **memory) == least
    assert least_sequence(eight, pack, fixed_bytes=2**40, memory_bytes=2**30) is None


def plan_beside_a_smaller_gpu() -> str:
    """The policy of a rank; rank 1's GPU has less memory than rank 0's."""
    two = ParallelConfig(processes_per_node=2)
    mesh, clip = connect(two), Typical(ModelConfig(), (40_960,), (256,))
    gpu: Any = SimpleNamespace(total_memory=(140, 80)[mesh.rank] * 2**30)
    torch.cuda.get_device_properties = lambda _: gpu
    return str(tune._plan(build(clip.model, seed=0, device="meta"), two, clip, mesh).policy)


@pytest.mark.slow
def test_ranks_recompute_alike_whatever_their_memory() -> None:
    """Or they would not meet in the exchanges that are computed again."""
    assert len(set(run_ranks(plan_beside_a_smaller_gpu, 2))) == 1
