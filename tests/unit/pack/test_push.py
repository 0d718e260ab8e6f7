from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import pytest

from modelcsi.errors import (
    CorruptContent,
    Forbidden,
    InvalidRequest,
    RegistryUnavailable,
    Unauthenticated,
    UnsupportedArtifact,
)
from modelcsi.oci.reference import Reference
from modelcsi.pack.layout import PackedArtifact
from modelcsi.pack.push import Pushed, Pusher
from modelcsi.pull.progress import Progress
from modelcsi.registry.credentials import Keychain
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.transport import HttpTransport
from tests.fakes.push_registry import PushRegistry
from tests.unit.pack.conftest import Packer, write
from tests.unit.registry.conftest import Authority, make_authority

PASSWORD = "s3cret-password"


@pytest.fixture
def artifact(model: Path, packed: Packer) -> PackedArtifact:
    """What is pushed."""
    return packed(model)


def push(
    transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact, docker_config: Path | None = None
) -> tuple[Pushed, Progress]:
    """What was sent, and how far the progress is."""
    keychain = Keychain(docker_config)
    progress = Progress(sum(blob.size for blob in artifact.blobs))
    pusher = Pusher(transport, Hosts(keychain.scheme), keychain, pauses_seconds=(0.0, 0.0))
    return pusher.push(artifact, Reference.parse(registry.reference), progress), progress


def log_in(directory: Path, registry: PushRegistry, *passwords: str) -> Path:
    """A docker config with alice's passwords, the first of which is tried first."""
    keys = [f"{registry.host}/m", registry.host]
    auths = {
        key: {"auth": base64.b64encode(f"alice:{password}".encode()).decode()}
        for key, password in zip(keys, passwords, strict=False)
    }
    (directory / "config.json").write_text(json.dumps({"auths": auths}))
    return directory


def is_complete(registry: PushRegistry, artifact: PackedArtifact) -> bool:
    """Whether the registry has everything, under the tag."""
    blobs = {str(blob.digest): artifact.blob(blob.digest).read_bytes() for blob in artifact.blobs}
    return blobs == registry.blobs and registry.manifests == {"v1": artifact.content}


def test_everything_arrives(transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact) -> None:
    """Blobs, config, and the very bytes of the manifest; the result counts them."""
    pushed, progress = push(transport, registry, artifact)
    total = sum(blob.size for blob in artifact.blobs)

    assert is_complete(registry, artifact)
    assert (total, 0, artifact.digest) == (pushed.sent_bytes, pushed.found_bytes, pushed.reference.digest)
    assert 0 == progress.remaining_bytes


def test_what_is_there_is_not_sent(transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact) -> None:
    """A second push sends the manifest only."""
    push(transport, registry, artifact)
    registry.requests.clear()
    pushed, progress = push(transport, registry, artifact)

    assert {"HEAD blob": len(artifact.blobs), "PUT manifest": 1} == registry.requests
    assert (0, 0) == (pushed.sent_bytes, progress.remaining_bytes)


@pytest.mark.parametrize("fault", ["cut", "unavailable"])
def test_upload_that_fails_is_made_again(
    transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact, fault: str
) -> None:
    """A connection that is cut, or a 503: from the beginning, and counted once."""
    setattr(registry.faults, fault, 2)
    _, progress = push(transport, registry, artifact)

    assert is_complete(registry, artifact)
    assert (len(artifact.blobs) + 2, 0) == (registry.requests["PUT blob"], progress.remaining_bytes)


def test_interrupted_push_goes_on(transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact) -> None:
    """What arrived before a push failed is not sent again; until then no tag is visible."""
    registry.blobs |= {str(blob.digest): artifact.blob(blob.digest).read_bytes() for blob in artifact.blobs[1:]}
    registry.faults.status = 503
    with pytest.raises(RegistryUnavailable, match=r"cannot push .*/m/x:v1: .*\(503\): SOME"):
        push(transport, registry, artifact)
    assert {} == registry.manifests
    registry.faults.status = 0
    pushed, _ = push(transport, registry, artifact)

    assert is_complete(registry, artifact)
    assert artifact.blobs[0].size == pushed.sent_bytes


def test_right_to_push_is_asked_of_the_token_service(
    transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact, tmp_path: Path
) -> None:
    """The first question is a HEAD, whose challenge names the right to pull only."""
    registry.password = PASSWORD
    push(transport, registry, artifact, log_in(tmp_path, registry, PASSWORD))

    assert is_complete(registry, artifact)
    assert {"repository:m/x:pull,push"} == set(registry.scopes)


def test_credentials_are_tried_in_turn(
    transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact, tmp_path: Path
) -> None:
    """As in a pull: the longest key first, and a refusal moves on."""
    registry.password = PASSWORD
    _, progress = push(transport, registry, artifact, log_in(tmp_path, registry, "old", PASSWORD))

    assert is_complete(registry, artifact)
    assert 0 == progress.remaining_bytes


@pytest.mark.parametrize("passwords", [(), ("wrong-password",)])
def test_refusal_says_how_to_log_in(
    transport: HttpTransport,
    registry: PushRegistry,
    artifact: PackedArtifact,
    tmp_path: Path,
    passwords: tuple[str, ...],
) -> None:
    """Without or with a wrong password: at once, with a hint, and without the password."""
    registry.password = PASSWORD
    with pytest.raises(Unauthenticated) as caught:
        push(transport, registry, artifact, log_in(tmp_path, registry, *passwords))

    assert f"docker login {registry.host}" in caught.value.hint
    assert not any(password in str(caught.value) for password in passwords)
    assert ({}, {}) == (registry.blobs, registry.manifests)


@pytest.mark.parametrize(("status", "kind"), [(403, Forbidden), (400, UnsupportedArtifact), (413, UnsupportedArtifact)])
def test_refused_blob_is_final(
    transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact, status: int, kind: type[Exception]
) -> None:
    """What asking again would not change is told at once, in the registry's words."""
    registry.faults.status = status
    with pytest.raises(kind, match=rf"\({status}\): SOME: reason|{status}") as caught:
        push(transport, registry, artifact)

    assert "push of blob sha256:" in str(caught.value)
    assert {} == registry.manifests


def test_damaged_blob_is_not_pushed(transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact) -> None:
    """A bit that flipped on the disk is found before the registry has the blob."""
    largest = max(artifact.blobs, key=lambda blob: blob.size)
    path = artifact.blob(largest.digest)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)

    with pytest.raises(CorruptContent, match="is damaged"):
        push(transport, registry, artifact)
    assert str(largest.digest) not in registry.blobs
    assert {} == registry.manifests


def test_credentials_stay_with_the_registry(
    transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact, tmp_path: Path
) -> None:
    """Another host, to which an upload is led, gets the blob and no authorization."""
    registry.password = PASSWORD
    with PushRegistry(password=PASSWORD) as other:
        registry.faults.location = f"http://{other.host}/v2/m/x/blobs/uploads/1?_state=a%2Fb"
        with pytest.raises(Unauthenticated):
            push(transport, registry, artifact, log_in(tmp_path, registry, PASSWORD))

        assert ([], {}) == (other.scopes, other.blobs)


class Pieces(Progress):
    """Remembers the pieces in which it is told."""

    def __init__(self) -> None:
        super().__init__(0)
        self.sizes: list[int] = []

    def add(self, size: int, *, is_downloaded: bool = True) -> None:
        self.sizes.append(size)


def test_blob_is_never_in_memory(
    transport: HttpTransport, registry: PushRegistry, tmp_path: Path, packed: Packer
) -> None:
    """A blob goes out in pieces of 256 KiB, with its length said before."""
    write(tmp_path, "large/model.bin", bytes(3 << 20))
    artifact = packed(tmp_path / "large")
    pieces = Pieces()
    Pusher(transport, Hosts(), Keychain(None)).push(artifact, Reference.parse(registry.reference), pieces)

    assert (3 << 20, 256 << 10) == (sum(size for size in pieces.sizes if size > 1000), max(pieces.sizes))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA of the tests' own."""
    return make_authority(tmp_path_factory.mktemp("authority"))


def test_private_ca_is_trusted_where_it_is_configured(
    authority: Authority, artifact: PackedArtifact, tmp_path: Path
) -> None:
    """SSL_CERT_FILE is for the registry and its token service, as in a pull."""
    transport = HttpTransport(ca_file=authority.ca)
    with PushRegistry(password=PASSWORD, tls=authority.server_context()) as registry:
        push(transport, registry, artifact, log_in(tmp_path, registry, PASSWORD))

        assert is_complete(registry, artifact)
    transport.close()


def test_unknown_ca_is_refused(transport: HttpTransport, authority: Authority, artifact: PackedArtifact) -> None:
    """Certificates are verified, on loopback too, and nothing is sent without."""
    with PushRegistry(tls=authority.server_context()) as registry:
        with pytest.raises(RegistryUnavailable, match=r"the certificate of .* is not trusted"):
            push(transport, registry, artifact)

        assert {} == registry.requests


def test_digest_must_be_that_of_the_layout(
    transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact
) -> None:
    """A pinned reference names one artifact."""
    reference = Reference.parse(f"{registry.host}/m/x@sha256:{'0' * 64}")
    with pytest.raises(InvalidRequest, match="holds sha256:"):
        Pusher(transport, Hosts(), Keychain(None)).push(artifact, reference, Progress(1))


def test_push_by_digest_needs_no_tag(
    transport: HttpTransport, registry: PushRegistry, artifact: PackedArtifact
) -> None:
    """An artifact may go without a tag."""
    reference = Reference.parse(f"{registry.host}/m/x@{artifact.digest}")
    Pusher(transport, Hosts(), Keychain(None)).push(artifact, reference, Progress(1))

    assert {str(artifact.digest): artifact.content} == registry.manifests


def test_registry_that_is_down_is_named(transport: HttpTransport, artifact: PackedArtifact) -> None:
    """What, where and why."""
    reference = Reference.parse("127.0.0.1:1/m/x:v1")
    with pytest.raises(RegistryUnavailable, match=r"cannot push 127\.0\.0\.1:1/m/x:v1: .*refused"):
        Pusher(transport, Hosts(), Keychain(None)).push(artifact, reference, Progress(1))


def test_missing_oras_is_told(transport: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver does not need it: it is an extra, which the message names."""
    monkeypatch.delitem(sys.modules, "modelcsi.pack.client", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "oras"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InvalidRequest) as caught:
        Pusher(transport, Hosts(), Keychain(None))

    assert "pip install 'model-csi-driver[pack]'" == caught.value.hint


def test_right_to_push_is_checked_without_a_trace(transport: HttpTransport, registry: PushRegistry) -> None:
    """An upload is begun, and cancelled."""
    reference = Reference.parse(registry.reference)
    Pusher(transport, Hosts(), Keychain(None)).check(reference)

    assert ({"POST blob": 1, "DELETE upload": 1}, {}) == (registry.requests, registry.uploads)


def test_missing_right_to_push_is_told_beforehand(transport: HttpTransport, registry: PushRegistry) -> None:
    """Packing may take an hour."""
    registry.faults.forbids = True
    with pytest.raises(Forbidden, match="DENIED") as caught:
        Pusher(transport, Hosts(), Keychain(None)).check(Reference.parse(registry.reference))

    assert "grant them the right to push" == caught.value.hint
