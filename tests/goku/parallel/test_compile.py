"""Compiled blocks serve packs of any make-up, and are not compiled for each of them."""

import pytest

from tests.programs import printed


@pytest.mark.slow
def test_packs_of_several_segments_share_one_graph() -> None:
    cases = ("none bf16", "mlp bf16", "none fp8_mlp", "none fp8")
    found = printed("tests.goku.parallel.any_packs")
    assert found.splitlines() == [f"{case} 1 2" for case in cases]
