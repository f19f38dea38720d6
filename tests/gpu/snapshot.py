"""On a GPU: what the copy of a state costs training, and whether it is the state.

`python -m tests.gpu.snapshot [GB]` copies 2,400 tensors in four flat ones, as an engine keeps them,
while the GPU multiplies matrices. It prints how long the host was held up, whether the products
took longer beside the copy, and how long the copy takes alone; it fails where the copy differs.
"""

import sys
import time

import torch

from goku.checkpoint.snapshot import Snapshot, nbytes
from goku.checkpoint.state import NamedPiece

KINDS, TENSORS, PRODUCTS = 4, 600, 1200


def state(gigabytes: float, device: torch.device) -> list[NamedPiece]:
    length = int(gigabytes * 1e9 / 4 / KINDS / TENSORS)
    pieces = []
    for kind in range(KINDS):
        flat = torch.randn(TENSORS * length, device=device)
        parts = enumerate(flat.split([length] * TENSORS))  # type: ignore[no-untyped-call]  # torch's
        pieces += [NamedPiece(f"{kind}/{index}", (length,), 0, part) for index, part in parts]
    states = torch.arange(13, dtype=torch.uint8)
    return [*pieces, NamedPiece("rng/0/cpu", (13,), 0, states)]


def products(matrix: torch.Tensor) -> float:
    began = time.perf_counter()
    for _ in range(PRODUCTS):
        matrix @ matrix
    torch.cuda.synchronize()
    return time.perf_counter() - began


def main(gigabytes: float) -> None:
    device = torch.device("cuda", 0)
    pieces = state(gigabytes, device)
    began = time.perf_counter()
    snapshot = Snapshot(pieces, device=device)
    print(f"{nbytes(pieces) / 1e9:.1f} GB reserved in {time.perf_counter() - began:.1f} s")
    matrix = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    products(matrix)
    print(f"products alone {products(matrix):.3f} s")
    for _ in range(3):
        began = time.perf_counter()
        snapshot.take(pieces)
        begun = time.perf_counter()
        beside = products(matrix)
        waits = time.perf_counter()
        snapshot.wait()
        print(
            f"begun in {1e3 * (begun - began):.1f} ms, products beside it {beside:.3f} s, "
            f"then waited {1e3 * (time.perf_counter() - waits):.2f} ms"
        )
    for copy, piece in zip(snapshot.pieces, pieces, strict=True):
        assert torch.equal(copy.tensor, piece.tensor.cpu()), copy.name
    began = time.perf_counter()
    snapshot.take(pieces)
    snapshot.wait()
    print(f"copy alone {time.perf_counter() - began:.3f} s")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 32.0)
