from __future__ import annotations

import pytest

from modelcsi.errors import Forbidden, NotFound, Unauthenticated
from modelcsi.oci.reference import Reference
from modelcsi.pull.sources import Sources
from modelcsi.registry.client import Registry, Repository
from modelcsi.registry.credentials import ANONYMOUS, Credentials
from tests.fakes.registry import FakeRegistry

ALICE, BOB = Credentials("alice", "s3cret", source="a secret"), Credentials("bob", "b0b", source="a secret")


def repository(client: Registry, registry: FakeRegistry, credentials: Credentials) -> Repository:
    """The model's repository as somebody sees it."""
    return client.repository(Reference.parse(f"{registry.host}/models/tiny:v1"), credentials)


def test_who_is_refused_is_left_out(client: Registry, private: FakeRegistry) -> None:
    """Those who brought these credentials are told at once; the others go on."""
    descriptor = private.content.add_blob("models/tiny", b"weights")
    alice, bob = repository(client, private, ALICE), repository(client, private, BOB)
    told: list[object] = []
    sources = Sources(lambda: told.append(type(sources.error_of(bob))))
    sources.add(alice)
    sources.add(bob)
    with sources.open_blob(descriptor) as stream:
        content = stream.read(100)

    assert (b"weights", [Forbidden]) == (content, told)
    assert ([alice], None) == (sources.repositories(), sources.error_of(alice))


def test_the_last_refusal_is_the_answer(client: Registry, private: FakeRegistry) -> None:
    """When nobody may pull any more."""
    descriptor = private.content.add_blob("models/tiny", b"weights")
    sources = Sources()
    sources.add(repository(client, private, ANONYMOUS))
    sources.add(repository(client, private, BOB))
    with pytest.raises(Unauthenticated):
        sources.open_blob(descriptor)

    assert [] == sources.repositories()


def test_equal_credentials_are_one_source(client: Registry, private: FakeRegistry) -> None:
    """Whoever comes back with them replaces what was there, and gives them another chance."""
    descriptor = private.content.add_blob("models/tiny", b"weights")
    sources = Sources()
    first, second = (repository(client, private, BOB) for _ in range(2))
    sources.add(first)
    sources.add(second)
    with pytest.raises(Forbidden):
        sources.open_blob(descriptor)
    refused = type(sources.error_of(first))
    sources.add(second)

    assert (Forbidden, None, [second]) == (refused, sources.error_of(first), sources.repositories())


def test_who_holds_a_blob(client: Registry, private: FakeRegistry) -> None:
    """Asked with the credentials of the source: a refusal is a no."""
    descriptor = private.content.add_blob("models/tiny", b"weights")
    absent = private.content.add_blob("models/other", b"other")
    alice, bob = repository(client, private, ALICE), repository(client, private, BOB)
    questions = [(alice, descriptor), (alice, absent), (bob, descriptor)]

    assert [True, False, False] == [Sources().has_blob(source, item) for source, item in questions]


def test_a_missing_blob_is_final(client: Registry, fake: FakeRegistry) -> None:
    """404 of the only source."""
    descriptor = fake.content.add_blob("models/other", b"weights")
    sources = Sources()
    sources.add(repository(client, fake, ANONYMOUS))
    with pytest.raises(NotFound):
        sources.open_blob(descriptor)
