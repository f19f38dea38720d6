"""Compare-and-swap by generation and by ETag, against stand-ins that keep versions as clouds do.

The drivers themselves are optional and need an account. What is held here is what this code asks
of them; tests/store_promises.py is for whoever has a bucket.
"""

from typing import Any

import pytest

from goku.contract.store.conditions import Azure, Condition, Google, condition


class Cloud:
    """Objects with versions."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.requests: list[dict[str, Any]] = []

    def put(self, path: str, data: bytes) -> None:
        self.objects[path] = data, self.version(path) + 1

    def version(self, path: str) -> int:
        return self.objects.get(path, (b"", 0))[1]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if path not in self.objects:
            raise FileNotFoundError(path)
        version = self.version(path)
        return {"generation": str(version), "etag": f'"{version}"'}


class LikeGcsfs(Cloud):
    _location = "https://storage.googleapis.com"

    def invalidate_cache(self, path: str) -> None:
        pass

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call(self, method: str, url: str, *, data: bytes, **options: Any) -> None:
        self.requests.append({"method": method, "url": url, **options})
        path = f"{url.split('/')[-2]}/{options['name']}"
        if str(self.version(path)) != options["ifGenerationMatch"]:
            raise FileExistsError(path)
        self.put(path, data)


class ModifiedError(Exception):
    status_code = 412


class LikeAdlfs(Cloud):
    def pipe_file(self, path: str, data: bytes, *, headers: dict[str, str]) -> None:
        if headers["If-Match"] != f'"{self.version(path)}"':
            raise ModifiedError(path)
        self.put(path, data)


@pytest.fixture(params=[(Google, LikeGcsfs), (Azure, LikeAdlfs)], ids=["gs", "az"])
def cloud(request: pytest.FixtureRequest) -> tuple[Condition, Cloud]:
    kind, driver = request.param
    files = driver()
    return kind(files), files


def test_only_the_version_that_was_read_is_replaced(cloud: tuple[Condition, Cloud]) -> None:
    subject, files = cloud
    files.put("bucket/run/fence", b"1")
    tag = subject.tag("bucket/run/fence")
    assert subject.swap("bucket/run/fence", b"2", tag)
    assert not subject.swap("bucket/run/fence", b"3", tag)
    assert files.objects["bucket/run/fence"][0] == b"2"
    assert subject.swap("bucket/run/fence", b"4", subject.tag("bucket/run/fence"))


def test_what_is_not_there_has_no_version(cloud: tuple[Condition, Cloud]) -> None:
    subject, files = cloud
    with pytest.raises(FileNotFoundError):
        subject.tag("bucket/nothing")
    files.put("bucket/gone", b"1")
    tag = subject.tag("bucket/gone")
    del files.objects["bucket/gone"]
    assert not subject.swap("bucket/gone", b"2", tag)


def test_google_is_asked_for_one_conditional_upload() -> None:
    files = LikeGcsfs()
    files.put("bucket/run/a b", b"1")
    Google(files).swap("bucket/run/a b", b"2", "1")
    [request] = files.requests
    assert request["method"] == "POST"
    assert request["url"] == "https://storage.googleapis.com/upload/storage/v1/b/bucket/o"
    assert request["uploadType"] == "media"
    assert request["name"] == "run/a b"


def test_a_scheme_that_is_not_known_has_no_condition() -> None:
    assert condition(None, "sftp") is None
    assert isinstance(condition(None, "gs"), Google)
    assert isinstance(condition(None, "abfs"), Azure)
