from __future__ import annotations

import json
from typing import Any

import pytest

from modelcsi.artifact.selection import Selection
from modelcsi.errors import InvalidRequest
from modelcsi.pull.progress import LayerMoment
from modelcsi.volume.dynamic_status import (
    DynamicMount,
    MountId,
    MountState,
    is_identifier,
    parse_mount_request,
    parse_record,
    progress_document,
    record_document,
    status_document,
)

MOUNT = DynamicMount(MountId("m1"), "r.example/x:y", MountState.PULLING, progress_document((), 2))


def body(**fields: Any) -> bytes:
    """A request that is fine but for `fields`."""
    return json.dumps({"mount_id": "m1", "reference": "r.example/x:y", **fields}).encode()


def test_a_whole_request() -> None:
    """Upstream's example; spaces around id and reference are cut off, the reference is kept as it was written."""
    request = parse_mount_request(
        body(
            mount_id=" m1 ",
            reference=" r.example/x ",
            check_disk_quota=False,
            exclude_model_weights=True,
            exclude_file_patterns=["*.bin"],
            something_new=1,
        )
    )

    assert ("m1", "r.example/x", "r.example/x:latest") == (request.mount_id, request.written, str(request.reference))
    assert Selection(exclude_weights=True, exclude_patterns=("*.bin",)) == request.selection


def test_what_go_sends_for_absent_fields() -> None:
    """A nil slice is null: nothing is excluded."""
    assert parse_mount_request(body(exclude_file_patterns=None)).selection.is_everything


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"", "mount_id is invalid"),
        (b"{", "invalid JSON body"),
        (b"\xff", "invalid JSON body"),
        (b"[" * 60000, "invalid JSON body"),
        (b"1" * 60000, "invalid JSON body"),
        (b"[]", "invalid JSON body"),
        (body(mount_id=""), "mount_id is invalid"),
        (body(mount_id=1), "mount_id is not text"),
        (body(mount_id="../m"), "mount_id is invalid"),
        (body(mount_id="m\n"), None),
        (body(mount_id="a\nb"), "mount_id is invalid"),
        (body(mount_id="m\0"), "mount_id is invalid"),
        (body(mount_id="."), "mount_id is invalid"),
        (body(mount_id="é"), "mount_id is invalid"),
        (body(mount_id="m" * 201), "mount_id is invalid"),
        (body(reference=" "), "reference is invalid"),
        (body(reference={}), "reference is not text"),
        (body(reference="\ud800"), "invalid repository"),
        (body(reference="r.example/../x:y"), "invalid repository"),
        (body(check_disk_quota="yes"), "check_disk_quota is neither"),
        (body(exclude_model_weights=1), "exclude_model_weights is neither"),
        (body(exclude_file_patterns="*.bin"), "exclude_file_patterns"),
        (body(exclude_file_patterns=[1]), "exclude_file_patterns"),
        (body(exclude_file_patterns=["*"] * 300), "exclude_file_patterns"),
        (body(exclude_file_patterns=["\ud800"]), "exclude_file_patterns"),
    ],
)
def test_hostile_bodies(sent: bytes, says: str | None) -> None:
    """Whatever is no request is an InvalidRequest that names the field; nothing else is raised."""
    if says is None:  # a newline at an end is a space, which upstream cuts off too
        assert "m" == parse_mount_request(sent).mount_id
        return
    with pytest.raises(InvalidRequest) as caught:
        parse_mount_request(sent)

    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["", "a.b", "a/b", "a\n", "\n", "%2e", "ä", "a" * 201])
def test_what_is_no_identifier(text: str) -> None:
    """Upstream's characters and an end; `$` of Python's regular expressions would let a newline pass."""
    assert not is_identifier(text)


def test_status_leaves_out_what_is_empty() -> None:
    """Go's omitempty; `progress` is always there."""
    assert {"volume_name": "v", "progress": {"total": 0, "items": None}} == status_document("v")
    assert {
        "volume_name": "v",
        "mount_id": "m1",
        "reference": "r.example/x:y",
        "state": "PULLING",
        "progress": {"total": 2, "items": []},
    } == status_document("v", MOUNT)


def test_progress_is_in_the_order_of_the_beginning() -> None:
    """Then by digest; a layer that is not complete has no end, one of several files no path."""
    moments = (
        LayerMoment("sha256:b", "", 5, 1_700_000_000.25),
        LayerMoment("sha256:a", "dir/x", 7, 1_700_000_000.25, 1_700_000_001.0),
        LayerMoment("sha256:c", "y", 1, 1_600_000_000.0),
    )

    assert {
        "total": 4,
        "items": [
            {"digest": "sha256:c", "path": "/y", "size": 1, "started_at": "2020-09-13T12:26:40Z"},
            {
                "digest": "sha256:a",
                "path": "/dir/x",
                "size": 7,
                "started_at": "2023-11-14T22:13:20.250000Z",
                "finished_at": "2023-11-14T22:13:21Z",
            },
            {"digest": "sha256:b", "path": "", "size": 5, "started_at": "2023-11-14T22:13:20.250000Z"},
        ],
    } == progress_document(moments, 4)


def test_record_is_read_back() -> None:
    """What a start reads is what was written."""
    mount = DynamicMount(
        *(MountId("m"), "r/x:y", MountState.MOUNTED, progress_document((), 0)),
        selection=Selection().key(),
        manifest="sha256:ab",
        size_bytes=5,
        files=2,
    )

    assert mount == parse_record(json.loads(json.dumps(record_document("v", mount))))
