"""What each of several ranks of encode gets of the curated clips, and what it keeps of the rest."""

import tracemalloc
from pathlib import Path

import pytest

from goku.config.data import DataConfig
from goku.contract.store import Store
from goku.data.encoding import share
from goku.data.records import Commit, add_commit, write_clips
from tests.goku.data import fakes
from tests.goku.data.curated import write_curated

CONFIG = DataConfig(height=64, width=112, frames=17, fps=12, pack_tokens=512, packs_per_step=2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("clips")))
    write_curated(store)
    return store


def test_ranks_share_all_clips_and_know_of_all(clips: Store) -> None:
    alone = share(clips, CONFIG)
    for ranks in (2, 3, 8):
        parts = [share(clips, CONFIG, rank=rank, ranks=ranks) for rank in range(ranks)]
        dealt = sorted((clip for part in parts for clip in part.clips), key=lambda clip: clip.id)
        assert dealt == alone.clips
        assert all(alone.whole <= part.whole <= alone.whole for part in parts)
        assert len(parts[0].whole) == len(alone.clips)


def test_a_rank_holds_no_records_but_its_own(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for number in range(40):
        name, each = f"records/{number}.parquet", f"{number:03d}"
        found = [
            fakes.clip(f"{each}-{n:03d}", caption="so long a caption" * 60) for n in range(100)
        ]
        write_clips(store, name, found)
        film = f"memory://{each}.mp4"
        record = Commit(task_key=each, source=film, source_sha256=each, records=name, clips=100)
        add_commit(store, record)
    share(store, CONFIG, ranks=1000)  # what is loaded once
    tracemalloc.start()
    part = share(store, CONFIG, ranks=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(part.whole) == 4_000
    assert len(part.clips) < 40
    assert peak < 1_000 * len(part.whole)  # of records it would be 4,000
