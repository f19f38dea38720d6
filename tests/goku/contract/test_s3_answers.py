"""What an S3 server's answers mean where no server is needed to hear them."""

import pytest

from goku.contract.store import StoreUnavailable
from goku.contract.store.s3_client import told, translated


def test_an_answer_that_broke_off_within_its_head_is_a_store_that_is_away() -> None:
    assert told({"ETag": '"1"'}, "ETag") == '"1"'
    with (
        pytest.raises(StoreUnavailable, match=r"s3://b/key: .* without UploadId: it broke off"),
        translated("s3://b/key"),
    ):
        told({"ResponseMetadata": {"HTTPStatusCode": 200}}, "UploadId")
