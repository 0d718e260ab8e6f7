from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest

from modelcsi.errors import CorruptContent, Forbidden, ModelCsiError, RegistryUnavailable
from modelcsi.oci.reference import Reference
from modelcsi.pack.layout import PackedArtifact
from modelcsi.pack.push import Pushed, Pusher
from modelcsi.pack.uploads import UploadRecords
from modelcsi.pull.progress import Progress
from modelcsi.registry.credentials import Keychain
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.transport import HttpTransport
from tests.fakes.push_registry import PushRegistry
from tests.unit.pack.conftest import Packer, write
from tests.unit.pack.test_push import log_in

PART = 1 << 20
SIZE = 5 * PART + 12_345


@pytest.fixture
def artifact(tmp_path: Path, packed: Packer) -> PackedArtifact:
    """A blob of six parts, and the config."""
    write(tmp_path, "model/model.bin", random.Random(5).randbytes(SIZE))  # noqa: S311 - not a secret
    return packed(tmp_path / "model")


@pytest.fixture
def push(transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact, tmp_path: Path) -> Push:
    """`push()` is what a command does; each call is one of its own.

    The config is pushed beside the parts: each of them waits for it, so that what is left to be sent is no matter of chance.
    """
    registry.faults.after_blobs = 1
    return Push(transport, registry, artifact, tmp_path / "uploads")


class Push:
    """Pushes with records that stay between."""

    def __init__(
        self, transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact, uploads: Path
    ) -> None:
        self.transport = transport
        self.registry = registry
        self.artifact = artifact
        self.uploads = uploads
        self.progress = Progress(0)

    def __call__(self, *, pauses: tuple[float, ...] = (), docker_config: Path | None = None) -> Pushed:
        keychain = Keychain(docker_config)
        records = UploadRecords(self.uploads)
        pusher = Pusher(self.transport, Hosts(), keychain, records=records, pauses_seconds=pauses, part_bytes=PART)
        self.progress = Progress(sum(blob.size for blob in self.artifact.blobs))
        self.registry.received = 0
        return pusher.push(self.artifact, Reference.parse(self.registry.reference), self.progress)

    @property
    def is_complete(self) -> bool:
        """Whether the registry has everything, every byte is counted once, and nothing is left to go on with."""
        blobs = {str(blob.digest): self.artifact.blob(blob.digest).read_bytes() for blob in self.artifact.blobs}
        is_there = blobs == self.registry.blobs and self.registry.manifests == {"v1": self.artifact.content}
        return is_there and not self.progress.remaining_bytes and not list(self.uploads.iterdir())

    @property
    def config_bytes(self) -> int:
        """The size of the other blob."""
        return sum(blob.size for blob in self.artifact.blobs) - SIZE


def test_large_blob_goes_in_parts(push: Push, registry: PushRegistry) -> None:
    """Several requests, one after the other, and an empty one at the end."""
    pushed = push()

    assert push.is_complete
    assert (6, 2) == (registry.requests["PATCH blob"], registry.requests["PUT blob"])
    assert SIZE + push.config_bytes == pushed.sent_bytes == registry.received


def test_interrupted_push_goes_on_inside_a_blob(push: Push, registry: PushRegistry) -> None:
    """Even in the middle of a part, when the registry says how far it is."""
    registry.faults.cut_after, registry.faults.cut_part = 2, 1
    with pytest.raises(RegistryUnavailable):
        push()
    assert (SIZE + push.config_bytes, {}) == (push.progress.remaining_bytes, registry.manifests)
    pushed = push()

    assert push.is_complete
    kept = 2 * PART + PART // 2
    assert SIZE - kept == pushed.sent_bytes == registry.received
    assert kept + push.config_bytes == pushed.found_bytes


def test_push_that_is_interrupted_twice_goes_on(push: Push, registry: PushRegistry) -> None:
    """Each time from where it was."""
    for _ in range(2):
        registry.faults.cut_after, registry.faults.cut_part = 2, 1
        with pytest.raises(RegistryUnavailable):
            push()
    pushed = push()

    assert push.is_complete
    last = SIZE - 4 * PART - PART // 2  # the part that was cut the second time, of which half had arrived
    assert last - last // 2 == pushed.sent_bytes == registry.received


def test_attempt_goes_on_where_the_one_before_broke_off(push: Push, registry: PushRegistry) -> None:
    """Within one push, too: nothing that arrived is sent again."""
    registry.faults.cut_after, registry.faults.cut_part = 2, 1
    pushed = push(pauses=(0.0,))

    assert push.is_complete
    assert SIZE + push.config_bytes - PART // 2 == registry.received  # of the part that was cut the fake counts nothing
    assert SIZE + push.config_bytes - pushed.found_bytes == pushed.sent_bytes


def test_registry_that_signs_positions_goes_on_between_parts(push: Push, registry: PushRegistry) -> None:
    """As distribution does: what was cut inside a part is lost, and begins again in the same push."""
    registry.faults.signs_position = True
    registry.faults.cut_after, registry.faults.cut_part = 2, 1
    with pytest.raises(RegistryUnavailable):
        push()
    pushed = push()

    assert push.is_complete
    assert SIZE == pushed.sent_bytes


def test_record_outlives_a_registry_that_cannot_serve(push: Push, registry: PushRegistry) -> None:
    """A 503 between two parts: the position is kept for the next push, by a registry that signs it, too."""
    registry.faults.signs_position = True
    registry.faults.second_part_status = 503
    with pytest.raises(RegistryUnavailable, match="503"):
        push()
    registry.faults.second_part_status = 0
    pushed = push()

    assert push.is_complete
    assert SIZE - PART == pushed.sent_bytes == registry.received


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 416, 500, 501])
@pytest.mark.parametrize("fault", ["part_status", "second_part_status"])
def test_registry_without_parts_gets_the_blob_as_one(
    push: Push, registry: PushRegistry, fault: str, status: int
) -> None:
    """Whether it refuses every part, or only all after the first, and in whatever words."""
    setattr(registry.faults, fault, status)
    push()

    assert push.is_complete
    assert registry.requests["PATCH blob"] <= 2


def test_no_right_to_push_is_no_reason_to_try_in_one_piece(push: Push, registry: PushRegistry) -> None:
    """A refusal of the person is not one of the part."""
    registry.faults.part_status = 403
    with pytest.raises(Forbidden, match="403"):
        push()

    assert 1 == registry.requests["PATCH blob"]


@pytest.mark.parametrize("record", ["nonsense\n", "http://[\n", "gopher://x/\n", "http://127.0.0.1:1/x\n", "\n", "é\n"])
def test_damaged_record_is_as_good_as_none(push: Push, registry: PushRegistry, record: str) -> None:
    """Records are a help, and no more."""
    registry.faults.second_part_status = 503
    with pytest.raises(RegistryUnavailable):
        push()
    registry.faults.second_part_status = 0
    (path,) = push.uploads.iterdir()
    path.write_text(record)
    push(pauses=(0.0, 0.0))

    assert push.is_complete


def test_record_is_nobody_elses(push: Push, registry: PushRegistry) -> None:
    """It allows to write to the upload."""
    registry.faults.second_part_status = 503
    with pytest.raises(RegistryUnavailable):
        push()
    (path,) = push.uploads.iterdir()

    assert (0o600, 0o700) == (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(push.uploads.stat().st_mode))


def test_old_records_are_removed(push: Push, registry: PushRegistry) -> None:
    """Registries forget uploads after a week, too."""
    push.uploads.mkdir()
    for name, seconds in (("old", 1_000_000_000), ("young", None)):
        (push.uploads / name).write_text("x\n")
        if seconds:
            os.utime(push.uploads / name, (seconds, seconds))
    UploadRecords(push.uploads)

    assert ["young"] == os.listdir(push.uploads)


def test_directory_that_cannot_be_written_is_no_error(push: Push, tmp_path: Path) -> None:
    """The push works; only if it is interrupted, it cannot go on inside a blob."""
    push.uploads = tmp_path / "model" / "model.bin" / "below a file"
    pushed = push()

    assert SIZE + push.config_bytes == pushed.sent_bytes


def test_second_push_at_the_same_time_has_an_upload_of_its_own(push: Push, registry: PushRegistry) -> None:
    """Two writers would spoil it for each other."""
    reference = Reference.parse(registry.reference)
    digest = push.artifact.blobs[0].digest
    with UploadRecords(push.uploads).claimed(reference, digest) as first:
        first.save("http://127.0.0.1:1/first")
        with UploadRecords(push.uploads).claimed(reference, digest) as second:
            assert "" == second.location
    with UploadRecords(push.uploads).claimed(reference, digest) as third:
        assert "http://127.0.0.1:1/first" == third.location


def test_damage_is_found_before_the_last_part(push: Push, registry: PushRegistry) -> None:
    """Also in what had been sent by an earlier push: it is hashed again."""
    registry.faults.cut_after, registry.faults.cut_part = 2, 1
    with pytest.raises(RegistryUnavailable):
        push()
    path = push.artifact.blob(next(blob.digest for blob in push.artifact.blobs if blob.size == SIZE))
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)

    with pytest.raises(CorruptContent, match="is damaged"):
        push()
    assert {} == registry.manifests


def test_token_that_ends_between_parts_is_renewed(push: Push, registry: PushRegistry, tmp_path: Path) -> None:
    """A part that is answered with 401 goes again, with another token."""
    registry.password = "s3cret"
    registry.faults.second_part_status = 503
    with pytest.raises(ModelCsiError):
        push(docker_config=log_in(tmp_path, registry, "s3cret"))
    registry.faults.second_part_status = 0
    pushed = push(docker_config=tmp_path)

    assert push.is_complete
    assert SIZE - PART == pushed.sent_bytes
