"""Ways to save and load one state, behind the same three calls, for `tests.gpu.checkpoints`.

Every contender has a process of its own (`python -m tests.gpu.contenders NAME URI SIZE ...`).
It builds the model under ZeRO 2, trains, saves while it trains, saves again while it waits, loads,
compares what it loaded bit by bit, moves as many bytes raw, and prints its figures as JSON.
"""

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from goku.checkpoint import state
from goku.checkpoint.load import Checkpoint, restore
from goku.checkpoint.save import Saver
from goku.config.model import ModelConfig
from goku.config.parallel import ParallelConfig
from goku.config.presets import SIZES
from goku.config.training import TrainingConfig
from goku.contract.retention import Retention
from goku.contract.rundir import RunDir
from goku.contract.store import Store
from goku.model import build
from goku.nn.layout import Layout
from goku.parallel.apply import parallelize
from goku.parallel.mesh import Mesh, connect
from goku.parallel.zero import ZeroEngine, _cut_together
from goku.trainer.ema import Ema

SMALL = {"layers": 8, "width": 768, "heads": 12}  # about 1.7 GB of state, for machines without GPU
_WARM, _MEASURED = 2, 3  # steps
_TEXT = 64  # tokens
_CHUNK = 16 << 20
_LANES = 8


class Bench:
    """A model under training on one rank, and its state."""

    def __init__(self, size: str, tokens: int) -> None:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost")
        os.environ.setdefault("MASTER_PORT", "29517")
        precision = "bf16" if torch.cuda.is_available() else "fp32"
        config = ParallelConfig.build(
            {"processes_per_node": 1, "zero_stage": 2, "precision": precision}
        )
        self.mesh: Mesh = connect(config)
        shape = ModelConfig.model_validate(SMALL if size == "small" else SIZES[size])
        model = build(shape, seed=0, device="meta").to_empty(device=self.mesh.device)
        generator = torch.Generator(self.mesh.device).manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(std=0.02, generator=generator)
        engine = parallelize(model, config, TrainingConfig(), self.mesh, 1)
        assert isinstance(engine, ZeroEngine)
        self.engine = engine
        self.ema = Ema(engine.fragments(), decay=0.999)
        self._layout = Layout.build([(1, tokens // 32, 32)], [_TEXT]).to(self.mesh.device)
        self._inputs = (
            torch.randn(self._layout.tokens, shape.token_width, device=self.mesh.device),
            torch.rand(1, device=self.mesh.device),
            torch.randn(_TEXT, shape.text_width, device=self.mesh.device),
        )

    def pieces(self) -> list[state.NamedPiece]:
        """What a checkpoint of this rank holds."""
        return state.pieces(self.engine.fragments(), self.ema.values, rank=0)

    def tensors(self) -> dict[str, Tensor]:
        """The same by name, without the generators."""
        found = state.sharded(self.engine.fragments(), self.ema.values)
        return {piece.name: piece.tensor for piece in found}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def step(self, before_update: Callable[[], object] = lambda: None) -> float:
        """One step of training; the seconds it took."""
        began = time.monotonic()
        x_NP, t_S, text_MY = self._inputs
        out_NP = self.engine.module(x_NP, t_S, text_MY, self._layout)
        self.engine.backward((out_NP.float() - x_NP).square().mean())
        before_update()
        self.engine.step(1e-5)
        self.ema.update(self.engine.optimizer_steps)
        self.sync()
        return time.monotonic() - began

    def sync(self) -> None:
        """Wait for what was computed, not for what is copied beside it."""
        if self.mesh.device.type == "cuda":
            torch.cuda.current_stream().synchronize()

    def fingerprint(self) -> list[int]:
        """Of every bit of the state: a sum of its 32-bit words for each tensor."""
        return [int(t.detach().view(torch.int32).sum()) for t in self.tensors().values()]

    def forget(self) -> None:
        for tensor in self.tensors().values():
            tensor.detach().zero_()


class Contender(Protocol):
    """One way to save and load."""

    def start(self) -> float:
        """Begin to save; the seconds that training waited."""
        ...

    def before_update(self) -> float:
        """Called before the optimizer writes; the seconds that training waited."""
        ...

    def done(self) -> bool:
        """Whether the save has ended; the training thread asks after every step."""
        ...

    def wait(self) -> float:
        """Return when the save has ended; the seconds it took from its start."""
        ...

    def load(self) -> None: ...


class Ours:
    """Saver.start, beside training."""

    def __init__(self, bench: Bench, uri: str) -> None:
        self._bench, self._run, self._steps, self._took = bench, RunDir(uri), 0, 0.0
        self._saver = Saver(
            self._run,
            bench.mesh,
            attempt=1,
            config_digest="bench",
            code_version="bench",
            retention=Retention(last=1),
        )
        self._saver.reserve(bench.pieces())

    def start(self) -> float:
        began, self._steps = time.monotonic(), self._steps + 1
        steps = self._bench.engine.optimizer_steps
        self._saver.start(
            self._bench.pieces(), step=self._steps, samples_seen=0, optimizer_steps=steps
        )
        return time.monotonic() - began

    def before_update(self) -> float:
        return self._saver.release()

    def done(self) -> bool:
        unended = self._bench.mesh.most(torch.tensor(-self._saver.ended))
        saved = self._saver.poll(-int(unended()))
        if saved is not None:
            self._took = saved.persist_seconds
        return saved is not None

    def wait(self) -> float:
        saved = self._saver.wait()
        return self._took if saved is None else saved.persist_seconds

    def load(self) -> None:
        manifest = self._run.latest()
        assert manifest is not None
        checkpoint = Checkpoint(self._run.checkpoint(manifest.step), manifest)
        restore(checkpoint, self._bench.engine, self._bench.ema.values, mesh=self._bench.mesh)


class Dcp:
    """torch.distributed.checkpoint's async_save with its fsspec writer, as it comes."""

    def __init__(self, bench: Bench, uri: str) -> None:
        self._bench, self._uri = bench, uri
        self._future: Future[Any] = Future()
        self._began = self._ended = 0.0

    def start(self) -> float:
        from torch.distributed.checkpoint import async_save
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

        self._began = time.monotonic()
        writer = FsspecWriter(self._uri, thread_count=_LANES)
        future = async_save(self._bench.tensors(), storage_writer=writer)
        assert isinstance(future, Future)
        future.add_done_callback(self._note)
        self._future = future
        return time.monotonic() - self._began

    def _note(self, _: object) -> None:
        self._ended = time.monotonic()

    def before_update(self) -> float:
        return 0.0

    def done(self) -> bool:
        return self._future.done()

    def wait(self) -> float:
        self._future.result()
        return self._ended - self._began

    def load(self) -> None:
        from torch.distributed.checkpoint import load
        from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

        load(self._bench.tensors(), storage_reader=FsspecReader(self._uri))


class DeepSpeed:
    """DeepSpeed's save_checkpoint; the average travels as client state. Folders only."""

    def __init__(self, bench: Bench, uri: str) -> None:
        self._bench, self._folder, self._took = bench, uri, 0.0
        self._deepspeed = bench.engine._deepspeed

    def start(self) -> float:
        began = time.monotonic()
        average = {"ema": self._bench.ema.values}
        self._deepspeed.save_checkpoint(self._folder, tag="bench", client_state=average)
        self._took = time.monotonic() - began
        return self._took

    def before_update(self) -> float:
        return 0.0

    def done(self) -> bool:
        return True

    def wait(self) -> float:
        return self._took

    def load(self) -> None:
        _, client = self._deepspeed.load_checkpoint(self._folder, tag="bench")
        for name, value in client["ema"].items():
            self._bench.ema.values[name].copy_(value)
        # it has put new tensors in the place of those that the engine's fragments are views of
        named = dict(self._deepspeed.module.named_parameters())
        self._bench.engine._pieces = list(_cut_together(named, self._bench.engine._adam))


CONTENDERS: dict[str, Callable[[Bench, str], Contender]] = {
    "ours": Ours,
    "dcp": Dcp,
    "deepspeed": DeepSpeed,
}


def measure(bench: Bench, contender: Contender, uri: str, rounds: int) -> dict[str, float]:
    """Save beside training; then save, load and do both raw with nothing beside it, in turn."""
    for _ in range(_WARM):
        bench.step()
    step = statistics.median(bench.step() for _ in range(_MEASURED))
    _forget_peak()
    before = _memory("VmRSS")
    begun, polls, releases, steps = contender.start(), list[float](), list[float](), list[float]()
    while not _timed(contender.done, polls):
        steps.append(bench.step(lambda: releases.append(contender.before_update())))
    durable, peak = contender.wait(), _memory("VmHWM")
    alone = [_round(bench, contender, uri) for _ in range(rounds)]
    return {
        "state_bytes": bench.nbytes,
        "step_seconds": step,
        "stall_seconds": begun + sum(releases) + sum(polls),
        "stall_of_start_seconds": begun,
        "stall_of_release_seconds": sum(releases),
        "stall_of_polls_seconds": sum(polls),
        "steps_meanwhile": len(steps),
        "step_seconds_meanwhile": statistics.mean(steps or [step]),
        "durable_seconds": durable,
        **{key: statistics.median(one[key] for one in alone) for key in alone[0]},
        "memory_before_bytes": before,
        "memory_peak_bytes": peak,
    }


def _timed(done: Callable[[], bool], waits: list[float]) -> bool:
    began = time.monotonic()
    answer = done()
    waits.append(time.monotonic() - began)
    return answer


def _round(bench: Bench, contender: Contender, uri: str) -> dict[str, float]:
    """Right after one another, for other work on the machine comes and goes."""
    _remove(uri)
    contender.start()
    figures, saved = {"durable_alone_seconds": contender.wait()}, bench.fingerprint()
    bench.forget()
    bench.sync()
    began = time.monotonic()
    contender.load()
    bench.sync()
    figures["load_seconds"] = time.monotonic() - began
    assert bench.fingerprint() == saved, "what was loaded is not what was saved"
    _remove(uri)
    return figures | raw(uri, bench.nbytes)


def raw(uri: str, nbytes: int) -> dict[str, float]:
    """Write and read as many bytes by the same client, with nothing but the transfer."""
    store, data = Store(uri), os.urandom(_CHUNK)
    count = -(-nbytes // _CHUNK)
    began = time.monotonic()
    path = store.local_path("data")
    if path is None:
        _upload(uri, count, data)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, count, data)
    durable, began = time.monotonic() - began, time.monotonic()

    def read(part: int) -> int:
        return len(store.read_range("data", part * _CHUNK, (part + 1) * _CHUNK))

    with ThreadPoolExecutor(_LANES) as pool:
        assert sum(pool.map(read, range(count))) == count * _CHUNK
    return {"raw_durable_seconds": durable, "raw_load_seconds": time.monotonic() - began}


def _write(path: Path, count: int, data: bytes) -> None:
    with path.open("wb") as stream, ThreadPoolExecutor(_LANES) as pool:
        list(pool.map(lambda n: os.pwrite(stream.fileno(), data, n * len(data)), range(count)))
        os.fsync(stream.fileno())


def _upload(uri: str, count: int, data: bytes) -> None:
    """One multipart upload, as many parts under way as there are lanes."""
    from goku.contract.store.s3_client import client

    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    target = {"Bucket": bucket, "Key": f"{prefix}/data"}
    upload = client().create_multipart_upload(**target)["UploadId"]

    def put(number: int) -> dict[str, Any]:
        done = client().upload_part(**target, UploadId=upload, PartNumber=number, Body=data)
        return {"PartNumber": number, "ETag": done["ETag"]}

    with ThreadPoolExecutor(_LANES) as pool:
        parts = list(pool.map(put, range(1, count + 1)))
    client().complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": parts})


def _remove(uri: str) -> None:
    if "://" in uri:
        Store(uri.rpartition("/")[0]).delete(uri.rpartition("/")[2])
    else:
        shutil.rmtree(uri, ignore_errors=True)


def _forget_peak() -> None:
    """VmHWM counts from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def _memory(field: str) -> int:
    """Bytes of this process, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> int:
    name, uri, size, tokens, rounds = sys.argv[1:6]
    bench = Bench(size, int(tokens))
    figures = measure(bench, CONTENDERS[name](bench, uri), uri, int(rounds))
    _remove(uri)
    print(json.dumps(figures), flush=True)
    os._exit(0)  # DeepSpeed's teardown is slow, and sometimes aborts


if __name__ == "__main__":
    main()
