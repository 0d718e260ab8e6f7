"""A store, a registry that can fail, and a puller between them."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from modelcsi.artifact.selection import Selection
from modelcsi.deadline import Deadline
from modelcsi.oci.digest import Digest
from modelcsi.oci.reference import Reference
from modelcsi.pull.patience import Patience
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.puller import PulledView, Puller, PullLimits
from modelcsi.pull.resolve import Resolved, Wish
from modelcsi.registry.caller import Caller
from modelcsi.registry.client import Registry
from modelcsi.registry.credentials import Keychain
from modelcsi.registry.hosts import Hosts
from modelcsi.registry.transport import HttpTransport
from modelcsi.store.store import Store
from tests.fakes.registry import Auth, FakeRegistry, User

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 4096 * 3, "tokenizer/vocab.txt": b"a\nb\n"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open store."""
    opened = Store(tmp_path / "root")
    yield opened
    opened.close()


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    """A registry that everybody may read."""
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def private() -> Iterator[FakeRegistry]:
    """A registry that knows alice, who may read all, and bob, who may read nothing."""
    users = {"alice": User("s3cret"), "bob": User("b0b", frozenset())}
    with FakeRegistry(auth=Auth.BASIC, users=users) as registry:
        yield registry


@pytest.fixture(scope="session")
def transport() -> Iterator[HttpTransport]:
    """The real one: it reads the system's roots when it is made, which takes longer than most tests."""
    made = HttpTransport()
    yield made
    made.close()


@pytest.fixture
def client(transport: HttpTransport) -> Registry:
    """The real client, which knows no registry yet."""
    return Registry(transport, Hosts())


@pytest.fixture
def make_puller(store: Store, client: Registry) -> Iterator[Callable[..., Puller]]:
    """Makes pullers on the store, as after a restart; all of them end with the test."""
    made: list[Puller] = []

    def make(limits: PullLimits | None = None) -> Puller:
        made.append(Puller(store, client, Keychain(None), limits or PullLimits()))
        return made[-1]

    yield make
    for puller in made:
        puller.stop(Deadline.after(10))


@pytest.fixture
def puller(make_puller: Callable[..., Puller]) -> Puller:
    """The puller of the store."""
    return make_puller()


@dataclass(frozen=True)
class Pod:
    """Somebody who wants a model."""

    puller: Puller
    reference: str
    owner: str = "pod"
    policy: PullPolicy = PullPolicy.IF_NOT_PRESENT
    secrets: dict[str, str] = field(default_factory=dict)
    selection: Selection = field(default_factory=Selection)
    pinned: Digest | None = None

    def resolve(self) -> Resolved:
        """As `Volumes` does."""
        wish = Wish(Reference.parse(self.reference), self.policy, self.selection, Caller(self.secrets), self.pinned)
        return self.puller.resolve(wish, Patience(Deadline.after(60)))

    def pull(self, patience: Patience | None = None) -> PulledView:
        """Resolve and wait."""
        return self.puller.pull(self.resolve(), self.owner, patience or Patience(Deadline.after(60)))


def secret(registry: FakeRegistry, user: str, password: str) -> dict[str, str]:
    """A pod's pull secret."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {".dockerconfigjson": json.dumps({"auths": {registry.host: {"auth": auth}}})}


def tree_of(path: Path) -> dict[str, bytes]:
    """The files below a directory."""
    return {str(item.relative_to(path)): item.read_bytes() for item in path.rglob("*") if item.is_file()}


def wait_until(condition: Callable[[], bool]) -> None:
    """Give other threads time, at most a minute of it."""
    ends, pause = time.monotonic() + 60, threading.Event()
    while not condition():
        assert time.monotonic() < ends
        pause.wait(0.002)
