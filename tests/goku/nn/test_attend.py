"""Attention operators: gradients, whole graphs, and the choice among kernels."""

import pytest
import torch

from goku.nn.attend import choose, native, sdpa
from goku.nn.attend.choose import KernelMissing, Shape
from goku.nn.attend.ops import SAVED
from goku.nn.spans import Spans
from tests.goku.nn import by_hand

CPU = torch.device("cpu")
SHAPE = Shape(2, 4, torch.float64, (3, 1, 4), (2, 5, 3))


def test_the_reference_is_attention_per_segment_in_float64() -> None:
    (q, k, v), spans = choose.random_inputs(SHAPE._replace(dtype=torch.float32), CPU)
    found = native.reference(q, k, v, *spans)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, native.attend(q, k, v, *spans), rtol=1e-5, atol=1e-6)


def test_the_reference_gives_zeros_without_keys() -> None:
    q, k = torch.randn(3, 1, 4), torch.randn(2, 1, 4)
    found = native.reference(q, k, k, Spans.of((1, 2)), Spans.of((0, 2)))
    assert found[0].eq(0).all()
    assert found[1:].isfinite().all()


@pytest.mark.parametrize("wanted", ["auto", "reference"])
def test_another_rank_finds_a_choice_by_its_name(wanted: str) -> None:
    choice = choose.choose(wanted, SHAPE._replace(dtype=torch.float32), CPU)
    assert choose.load(choice.name) is choice.attend


def test_cudnn_is_not_asked_about_one_query_with_one_key() -> None:
    (q, k, v), spans = choose.random_inputs(Shape(2, 4, torch.float32, (1, 1, 3), (1, 1, 0)), CPU)
    found = sdpa.attend(q, k, v, *spans)
    torch.testing.assert_close(found[:2], v)
    assert found[2:].eq(0).all()
    dq, dk, dv = torch.autograd.grad(found, (q, k, v), torch.ones_like(found))
    assert dq.eq(0).all()
    assert dk.eq(0).all()
    assert dv.eq(1).all()


def test_an_operator_gives_its_kernels_results_and_gradients() -> None:
    inputs, spans = choose.random_inputs(SHAPE, CPU)
    found, expected = by_hand.attend(*inputs, *spans), native.attend(*inputs, *spans)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(found)
    ours = torch.autograd.grad(found, inputs, weight)
    theirs = torch.autograd.grad(expected, inputs, weight)
    for gradient, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-12)


def test_a_strided_input_is_taken_too() -> None:
    (q, k, v), spans = choose.random_inputs(SHAPE, CPU)
    strided = q.transpose(0, 1).contiguous().transpose(0, 1)
    found = by_hand.attend(strided, k, v, *spans)
    torch.testing.assert_close(found, by_hand.attend(q, k, v, *spans))


@pytest.mark.slow
def test_an_operator_breaks_no_graph_and_is_not_compiled_anew_for_other_packs() -> None:
    compiled = torch.compile(by_hand.attend, fullgraph=True, dynamic=True, backend="aot_eager")
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for lengths in ((3, 4), (5, 2, 6), (2, 2, 2, 9)):
        shape = SHAPE._replace(q_lengths=lengths, k_lengths=lengths)
        inputs, spans = choose.random_inputs(shape, CPU)
        found, expected = compiled(*inputs, *spans), by_hand.attend(*inputs, *spans)
        torch.testing.assert_close(found, expected)
        grads = (torch.autograd.grad(o.sum(), inputs) for o in (found, expected))
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 1


def test_recomputation_knows_every_operator() -> None:
    assert torch.ops.goku.attend_by_hand.default in SAVED


@pytest.mark.parametrize("wanted", ["auto", "sdpa"])
def test_on_a_cpu_attention_is_pytorchs_own(wanted: str) -> None:
    choice = choose.choose(wanted, SHAPE, CPU)
    assert choice.attend is native.attend
    assert (choice.name, choice.milliseconds, choice.missing) == ("native", {}, {})


def test_the_reference_can_be_asked_for() -> None:
    assert choose.choose("reference", SHAPE, CPU).attend is native.reference


def test_a_kernel_that_is_not_installed_is_named_with_the_reason() -> None:
    with pytest.raises(KernelMissing, match=r"fa3: ModuleNotFoundError: .*flash_attn_interface"):
        choose.choose("fa3", SHAPE._replace(dtype=torch.bfloat16), CPU)


def test_a_choice_says_what_was_measured_and_what_is_out() -> None:
    choice = choose.Choice("b", native.attend, {"a": 2.0, "b": 1.0}, {"c": "no such module"})
    assert str(choice) == "b; b 1.00 ms, a 2.00 ms; c is out (no such module)"
