"""No secret is in what people and programs may read.

The key of the bucket is made up for the test and reaches the pods by reference. After a run that
was evicted, one that failed and calls that were refused, it is looked for everywhere.
"""

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest

from goku.contract.exits import Cause
from goku.contract.store import Store
from tests.cluster.tenant import Tenant

VERBS = ("status", "logs", "events", "ckpt ls", "ckpt verify", "status --json", "logs --attempt 1")


@pytest.fixture(scope="module")
def heard(tenant: Tenant) -> list[str]:
    """All that the command line said while a run went well and another did not."""
    said = [tenant.goku("doctor"), tenant.goku(*_unconfirmed(tenant), "--diff")]
    said.append(tenant.goku(*_unconfirmed(tenant), "--dry-run", "--json"))
    said.append(tenant.goku(*tenant.launch_arguments("well", steps=40)))
    tenant.reach("well", 3)
    tenant.cluster.chaos.evict(tenant.namespace, tenant.pod("well", 1))
    tenant.done("well")
    tenant.launch("ill", "training.learning_rate=1e30", "training.warmup_steps=0")
    assert tenant.ended("ill", 1).cause is Cause.USER_ERROR
    for name in ("well", "ill"):
        for verb in VERBS:
            ended = tenant.start(*verb.split(), name)
            said += [ended.stdout, ended.stderr]
    return [*said, tenant.goku("list"), tenant.goku("list", "--json")]


def test_not_in_what_the_command_line_says(tenant: Tenant, heard: list[str]) -> None:
    assert len("".join(heard)) > 5000
    assert not [text for text in heard if tenant.s3.secret_key in text]


def test_not_in_any_object_but_the_secret(tenant: Tenant, heard: list[str]) -> None:
    listed = tenant.cluster.kubectl(
        "api-resources", "--namespaced", "--verbs=list", "-o", "name"
    ).split()
    kinds = ",".join(kind for kind in listed if kind != "secrets")
    everything = tenant.cluster.kubectl("get", kinds, "-n", tenant.namespace, "-o", "yaml")
    assert "kind: PyTorchJob" in everything
    assert "kind: Event" in everything
    assert tenant.s3.secret_key not in everything
    assert tenant.s3.access_key not in everything
    records = [str(record) for record in tenant.cluster.requests()]
    assert records
    assert not [record for record in records if tenant.s3.secret_key in record]


def test_not_in_the_store_nor_on_the_engineers_disk(tenant: Tenant, heard: list[str]) -> None:
    kept = dict(_stored(tenant))
    assert {name.split("/")[1] for name in kept if name.startswith("well/")} >= {
        "attempts",
        "checkpoints",
        "logs",
        "metrics",
        "run.json",
    }
    key = tenant.s3.secret_key.encode()
    assert not [name for name, data in kept.items() if key in data]
    local = [path for path in tenant.folder.glob("state/**/*") if path.is_file()]
    assert not [path for path in local if key in path.read_bytes()]
    profiles = list(tenant.folder.glob("profile-*.yaml"))
    assert profiles
    assert not [path for path in profiles if key in path.read_bytes()]


def test_a_wrong_key_is_refused_without_being_told(tenant: Tenant) -> None:
    wrong = secrets.token_hex(16)
    stranger = replace(tenant, s3=replace(tenant.s3, secret_key=wrong))
    for words in (["list"], ["doctor"], stranger.launch_arguments("strange")):
        ended = stranger.start(*words)
        assert ended.returncode != 0, words
        said = ended.stdout + ended.stderr
        assert tenant.store in said or "signature" in said.lower(), said
        assert wrong not in said
        assert "Traceback" not in said


def _unconfirmed(tenant: Tenant) -> list[str]:
    return [word for word in tenant.launch_arguments("well", steps=40) if word != "--yes"]


def _stored(tenant: Tenant) -> Iterator[tuple[str, bytes]]:
    store = Store(tenant.store)
    for name in store.walk():
        yield name, store.read(name)
