"""The program that the bench verb starts."""

from typing import Any

import pytest

from goku.contract.exits import Exit
from tests.goku_platform.command import Call


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("parity", "--json", "out"), "'parity' reads only --processes: leave --json out"),
        (("parity", "--size", "2b"), "leave --size out"),
        (("parity", "clip-8192"), "'parity' has packs of its own"),
        (("clip-8192", "peer"), "'peer' has packs of its own"),
    ],
)
def test_what_would_be_ignored_is_refused(goku: Call, words: tuple[str, ...], said: str) -> None:
    refused = goku("bench", *words)
    assert refused.code == Exit.USAGE
    assert said in " ".join(refused.err.split())


@pytest.mark.parametrize(
    ("words", "started"),
    [
        (("clip-8192",), "-m goku.apps.bench clip-8192 --size 2b --rounds 7"),
        (("peer", "--rounds", "3"), "-m goku.apps.bench --peer --size 2b --rounds 3"),
        (
            ("video-20480", "--processes", "2", "--train", "engine=fsdp2", "--json", "out"),
            "-m torch.distributed.run --standalone --nproc-per-node 2 -m goku.apps.bench "
            "video-20480 --size 2b --rounds 7 --train engine=fsdp2 --json out",
        ),
        (
            ("--costs", "out", "--pack-tokens", "40960", "--set", "processes_per_node=8"),
            "-m goku.apps.bench --size 2b --rounds 7 --set processes_per_node=8 "
            "--costs out --pack-tokens 40960",
        ),
        (
            ("--plain", "images-64", "--layers", "4", "--train", "engine=fsdp2"),
            "-m goku.apps.bench images-64 --size 2b --rounds 7 --layers 4 --plain "
            "--train engine=fsdp2",
        ),
        (("parity",), "-m goku.apps.parity"),
    ],
)
def test_what_is_started(
    goku: Call, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], started: str
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("subprocess.call", lambda *given, **more: calls.append((given, more)) or 1)
    assert goku("bench", *words).code == 1
    [([command], more)] = calls
    assert " ".join(command[1:]) == started
    assert more["env"]["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"  # as a run's ranks
