"""What the ranks of a node take together, against what the node has left."""

from goku.checkpoint import memory
from goku.parallel.host import Room


def test_the_ranks_of_a_node_are_summed_up() -> None:
    def need(host: str, nbytes: int, left: int) -> memory._Need:
        return memory._Need(host, nbytes, Room(left, 1000, "the machine"))

    fitting = [need("a", 50, 100), need("a", 50, 110), need("b", 100, 100)]
    assert memory._lacking(fitting) is None
    error = memory._lacking([*fitting, need("b", 1, 100)])
    assert error is not None
    assert "2 ranks take 101 bytes (0.0 GiB) of memory on b, and 100 bytes" in error[1]
    assert "checkpoint.background=false" in error[2]
