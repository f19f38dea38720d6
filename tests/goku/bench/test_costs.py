"""The table of costs: which lengths, in which packs; and a step that takes pack after pack."""

import math

import torch

from goku.bench.costs import Costs, joint, lengths_to, measure
from goku.bench.shapes import Pack
from goku.bench.step import Step
from goku.config.model import ModelConfig
from goku.data.balance import Table

MODEL = ModelConfig(layers=2, width=64, heads=4, text_width=16, latent_channels=4)


def small() -> tuple[Step, list[int]]:
    """A step on the CPU, and the tokens of every pack that its model will see."""
    pack = Pack("small", (40, 9, 16))
    step = Step(MODEL, pack, pack.parallel())
    seen: list[int] = []
    step.model.register_forward_hook(lambda _module, inputs, _v_NP: seen.append(len(inputs[0])))
    return step, seen


def test_lengths_double_up_to_the_longest() -> None:
    assert lengths_to(14_400) == (256, 512, 1024, 2048, 4096, 8192, 14_400)
    assert lengths_to(14_400, shortest=576) == (576, 1152, 2304, 4608, 9216, 14_400)
    assert lengths_to(1024) == (256, 512, 1024)
    assert lengths_to(100) == (100,)


def test_the_joint_pack_is_full_and_half_of_it_one_clip() -> None:
    pack = joint(36_864)
    assert (pack.tokens, pack.lengths[0]) == (36_864, 18_432)
    assert set(pack.lengths[1:]) == {1_024}


def test_a_step_takes_other_packs_with_the_weights_it_has() -> None:
    step, seen = small()
    before = [parameter.data_ptr() for parameter in step.model.parameters()]
    losses = [step.run()]
    for pack in (Pack("one", (7,), text=3), Pack("many", (5, 1, 30, 12), text=1)):
        step.take(pack.layout())
        losses.append(step.run())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in step.model.parameters())
    assert seen == [65, 7, 48]
    assert torch.stack(losses).isfinite().all()
    assert [parameter.data_ptr() for parameter in step.model.parameters()] == before


def test_samples_are_measured_as_many_as_a_pack_holds() -> None:
    step, seen = small()
    tables = [
        dict(costs.milliseconds) for costs in measure(step, (8, 30), pack_tokens=50, rounds=3)
    ]
    assert seen == [48] * 4 + [30] * 4
    assert [set(table) for table in tables] == [{8}, {8, 30}]
    assert all(ms > 0 and math.isfinite(ms) for ms in tables[-1].values())


def test_a_table_comes_of_what_was_measured() -> None:
    found = Costs(36_864, {256: 4.5, 512: 10.0}).as_dict()
    assert found["pack_tokens"] == 36_864
    assert Table.of(found["milliseconds"])(512) == 10.0
