from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from modelcsi.errors import StoreFull
from modelcsi.oci.digest import Digest
from modelcsi.store.records import _MIGRATIONS, MOUNTED, PENDING, ArtifactRecord, PublicationRecord, Records

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
SHARED, OWN = Digest.of(b"shared layer"), Digest.of(b"own layer")


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    """A new database."""
    with closing(Records(tmp_path / "state.db")) as opened:
        yield opened


def artifact(manifest: Digest, reference: str = "registry.test/model:v1") -> ArtifactRecord:
    """An artifact of 10 bytes."""
    return ArtifactRecord(manifest, reference, "modelpack", 10, 0, 0)


def publication(
    volume_id: str = "v1", target: str = "/t", state: str = PENDING, manifest: str = ""
) -> PublicationRecord:
    """A publication; with a manifest it has a view too."""
    return PublicationRecord(volume_id, target, "arguments", "model:v1", state, manifest, "view" if manifest else "")


def test_a_publication_as_it_was_put(records: Records) -> None:
    """All but the time, which is that of the call."""
    records.put_publication(publication(manifest=str(ONE)))
    (found,) = records.publications()

    assert publication(manifest=str(ONE)) == PublicationRecord(
        *(found.volume_id, found.target, found.arguments, found.reference, found.state, found.manifest, found.view)
    )
    assert found.seen_at > 1_600_000_000


def test_a_publication_is_one_volume_at_one_target(records: Records) -> None:
    """Put again it is replaced; another target, or another volume, is another one."""
    for state in (PENDING, MOUNTED):
        records.put_publication(publication(state=state))
    records.put_publication(publication(target="/u"))
    records.put_publication(publication("v2"))

    assert 3 == len(records.publications())
    assert {("v1", MOUNTED), ("v2", PENDING)} == {(item.volume_id, item.state) for item in records.publications("/t")}


def test_a_publication_with_a_manifest_is_a_lease(records: Records) -> None:
    """It begins with the digest, moves with it and ends with the publication."""
    owners = []
    for record in (publication(), publication(manifest=str(ONE)), publication(manifest=str(TWO))):
        records.put_publication(record)
        owners.append((len(records.owners(ONE)), len(records.owners(TWO))))
    records.remove_publication("v1", "/t")
    records.remove_publication("v1", "/t")
    owners.append((len(records.owners(ONE)), len(records.owners(TWO))))

    assert [(0, 0), (1, 0), (0, 1), (0, 0)] == owners


def test_leases_are_counted(records: Records) -> None:
    """One per owner, whatever else the owner does."""
    for owner in ("a", "a", "b"):
        records.put_artifact(artifact(ONE), [SHARED], owner)
    counted = records.artifacts()[0].leases
    records.end_lease("a")
    records.end_lease("a")

    assert (2, frozenset({"b"})) == (counted, records.owners(ONE))


def test_artifacts_by_their_last_use(records: Records) -> None:
    """The least recently used comes first: the order is a counter's, not a clock's."""
    for manifest in (ONE, TWO):
        records.put_artifact(artifact(manifest), [SHARED], "owner")
    records.touch(ONE)

    assert [TWO, ONE] == [item.manifest for item in records.artifacts()]


def test_an_artifact_is_known_by_its_last_reference(records: Records) -> None:
    """People look for the name that they used."""
    records.put_artifact(artifact(ONE, "registry.test/model:v1"), [SHARED], "owner")
    records.put_artifact(artifact(ONE, "registry.test/model:latest"), [OWN], "owner")

    assert ["registry.test/model:latest"] == [item.reference for item in records.artifacts()]
    assert {SHARED, OWN} == set(records.contents(ONE))


def test_forgetting_keeps_what_another_artifact_needs(records: Records) -> None:
    """Only what this artifact alone needs is told to be removed: itself, and its own layers."""
    records.put_artifact(artifact(ONE), [SHARED, OWN], "a")
    records.put_artifact(artifact(TWO), [SHARED], "b")
    leased = records.forget_artifact(ONE)
    records.end_lease("a")

    assert (None, {ONE, OWN}) == (leased, set(records.forget_artifact(ONE) or ()))
    assert frozenset({str(TWO), str(SHARED)}) == records.known_content()


def test_forgetting_keeps_a_manifest_that_led_to_another_artifact(records: Records) -> None:
    """An entry of an index is a document of what the index means, and may be an artifact of its own."""
    records.put_artifact(artifact(ONE), [OWN], "a")
    records.put_artifact(artifact(TWO), [SHARED, ONE], "b")
    records.end_lease("a")
    records.end_lease("b")

    assert [{OWN}, {TWO, SHARED, ONE}] == [set(records.forget_artifact(item) or ()) for item in (ONE, TWO)]


def test_forgetting_keeps_an_artifact_that_is_a_document(records: Records) -> None:
    """The other way round."""
    records.put_artifact(artifact(ONE), [OWN], "a")
    records.put_artifact(artifact(TWO), [ONE], "b")
    records.end_lease("b")

    assert [TWO] == records.forget_artifact(TWO)
    assert [ONE] == [item.manifest for item in records.artifacts()]


def test_tags_and_proofs_of_an_index(tmp_path: Path) -> None:
    """They outlive a start as long as the artifact does that the index means, and go with it."""
    records = Records(tmp_path / "state.db")
    records.put_artifact(artifact(ONE), [OWN, TWO], "a")
    records.put_tag("host", "repository", "v1", TWO)
    records.put_proof("host", "repository", TWO, "alice")
    records.put_delivery([TWO], "host", "repository")
    records.close()
    records = Records(tmp_path / "state.db")
    before = (records.tag("host", "repository", "v1"), records.has_proof("host", "repository", TWO, "alice"))
    records.end_lease("a")
    records.forget_artifact(ONE)
    after = (records.tag("host", "repository", "v1"), records.has_proof("host", "repository", TWO, "alice"))
    came = records.came_from(TWO, "host")
    records.close()

    assert ((TWO, True), (None, False), False) == (before, after, came)


def test_forgetting_takes_tags_proofs_and_deliveries(records: Records) -> None:
    """Of this artifact; what is known of others stays."""
    for manifest, layer in ((ONE, OWN), (TWO, SHARED)):
        records.put_artifact(artifact(manifest), [layer], "owner")
        records.put_tag("host", "repository", str(manifest)[-5:], manifest)
        records.put_proof("host", "repository", manifest, "alice")
        records.put_delivery([layer, manifest], "host", "repository")
    records.forget_artifact(ONE)

    assert [None, TWO] == [records.tag("host", "repository", str(manifest)[-5:]) for manifest in (ONE, TWO)]
    assert [False, True] == [records.has_proof("host", "repository", manifest, "alice") for manifest in (ONE, TWO)]
    assert [False, True] == [records.came_from(layer, "host") for layer in (OWN, SHARED)]
    assert [False, True] == [records.came_from(manifest, "host") for manifest in (ONE, TWO)]


def test_tags_move(records: Records) -> None:
    """A tag means what it meant last; a repository is known by any of its tags."""
    records.put_tag("host", "repository", "v1", ONE)
    records.put_tag("host", "repository", "v1", TWO)

    assert (TWO, None) == (records.tag("host", "repository", "v1"), records.tag("host", "other", "v1"))
    assert [True, False] == [records.knows_repository("host", name) for name in ("repository", "other")]


def test_a_proof_is_about_all_four(records: Records) -> None:
    """Another host, repository, manifest or credential proves nothing."""
    records.put_proof("host", "repository", ONE, "alice")
    records.put_proof("host", "repository", ONE, "alice")
    questions = [
        ("host", "repository", ONE, "alice"),
        ("other", "repository", ONE, "alice"),
        ("host", "other", ONE, "alice"),
        ("host", "repository", TWO, "alice"),
        ("host", "repository", ONE, "bob"),
    ]

    assert [True, False, False, False, False] == [records.has_proof(*question) for question in questions]


def test_the_oldest_proofs_are_forgotten(records: Records) -> None:
    """Tokens rotate: each is another credential, and only the last hundred of a manifest are of use."""
    records.put_proof("host", "repository", TWO, "0")
    for number in range(102):
        records.put_proof("host", "repository", ONE, str(number))
    proven = [number for number in range(102) if records.has_proof("host", "repository", ONE, str(number))]

    assert list(range(2, 102)) == proven
    assert records.has_proof("host", "repository", TWO, "0")


def test_proofs_of_the_first_version_are_the_oldest(tmp_path: Path) -> None:
    """They stay valid when a database is migrated."""
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as old:
        old.executescript(_MIGRATIONS[0] + "PRAGMA user_version = 1;")
        old.execute("INSERT INTO artifacts VALUES (?, '', '', 0, 0)", (str(ONE),))
        old.execute("INSERT INTO proofs VALUES ('host', 'repository', ?, 'old')", (str(ONE),))
    with closing(Records(tmp_path / "state.db")) as records:
        proven = []
        for number in range(100):
            proven.append(records.has_proof("host", "repository", ONE, "old"))
            records.put_proof("host", "repository", ONE, str(number))

        assert [True] * 100 == proven
        assert not records.has_proof("host", "repository", ONE, "old")


def test_what_belongs_to_no_artifact_is_forgotten_at_the_start(tmp_path: Path) -> None:
    """Resolved and never pulled: nobody else would take these rows away."""
    with closing(Records(tmp_path / "state.db")) as records:
        records.put_artifact(artifact(ONE), [SHARED], "owner")
        for manifest, layer in ((ONE, SHARED), (TWO, OWN)):
            records.put_tag("host", "repository", str(manifest)[-5:], manifest)
            records.put_proof("host", "repository", manifest, "alice")
            records.put_delivery([layer, manifest], "host", "repository")
    with closing(Records(tmp_path / "state.db")) as records:
        tags = [records.tag("host", "repository", str(manifest)[-5:]) for manifest in (ONE, TWO)]
        proven = [records.has_proof("host", "repository", manifest, "alice") for manifest in (ONE, TWO)]
        delivered = records.deliveries([ONE, TWO, SHARED, OWN], "host", "repository")

    assert ([ONE, None], [True, False], frozenset({ONE, SHARED})) == (tags, proven, delivered)


def test_deliveries(records: Records) -> None:
    """By repository, and by host alone."""
    records.put_delivery([SHARED], "host", "repository")

    assert frozenset({SHARED}) == records.deliveries([SHARED, OWN], "host", "repository")
    assert frozenset() == records.deliveries([SHARED, OWN], "host", "other")
    assert [True, False] == [records.came_from(SHARED, host) for host in ("host", "other")]


def test_the_salt_stays(tmp_path: Path) -> None:
    """Fingerprints of credentials can be compared after a restart."""
    salts = []
    for _ in range(2):
        with closing(Records(tmp_path / "state.db")) as records:
            salts.append(records.salt)

    assert (salts[0], 16) == (salts[1], len(salts[0]))


def test_everything_outlives_the_process(tmp_path: Path) -> None:
    """Also one that never closed the database."""
    killed = Records(tmp_path / "state.db")
    killed.put_publication(publication(manifest=str(ONE)))
    with closing(Records(tmp_path / "state.db")) as records:
        assert 1 == len(records.publications())
    killed.close()


def test_a_database_of_a_later_release_is_used(tmp_path: Path) -> None:
    """A downgrade: more tables and columns with defaults, and a greater version, are fine and stay."""
    Records(tmp_path / "state.db").close()
    with closing(sqlite3.connect(tmp_path / "state.db")) as later:
        later.executescript("CREATE TABLE news (a TEXT); PRAGMA user_version = 7;")
    with closing(Records(tmp_path / "state.db")) as records:
        records.put_artifact(artifact(ONE), [SHARED], "owner")
    with closing(sqlite3.connect(tmp_path / "state.db")) as later:
        assert (7,) == later.execute("PRAGMA user_version").fetchone()


def test_an_empty_file_is_migrated_from_the_start(tmp_path: Path) -> None:
    """Version 0 gets every step; a second opening none."""
    (tmp_path / "state.db").touch()
    for _ in range(2):
        Records(tmp_path / "state.db").close()
    with closing(sqlite3.connect(tmp_path / "state.db")) as database:
        assert (2,) == database.execute("PRAGMA user_version").fetchone()


def test_a_failed_transaction_leaves_nothing(records: Records) -> None:
    """All of a call or nothing, and the next call works."""
    with pytest.raises(sqlite3.Error):
        records.put_artifact(artifact(ONE), [SHARED], owner=None)  # type: ignore[arg-type]
    records.put_artifact(artifact(TWO), [OWN], "owner")

    assert [TWO] == [item.manifest for item in records.artifacts()]


def test_a_full_disk(records: Records) -> None:
    """It is StoreFull, which a caller may retry, and what was recorded stays."""
    records.put_artifact(artifact(ONE), [SHARED], "owner")
    pages = records._connection.execute("PRAGMA page_count").fetchone()[0]
    records._connection.execute(f"PRAGMA max_page_count = {pages}")
    layers = [Digest.of(b"%d" % number) for number in range(2000)]
    with pytest.raises(StoreFull):
        records.put_artifact(artifact(TWO), layers, "owner")

    assert [ONE] == [item.manifest for item in records.artifacts()]


def test_many_threads(records: Records) -> None:
    """Each call is whole, and none is lost."""

    def work(number: int) -> None:
        for item in range(20):
            records.put_publication(publication(f"{number}-{item}", manifest=str(ONE)))
            records.publications("/t")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (80, 80) == (len(records.publications()), len(records.owners(ONE)))


def test_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    """Also one that an older release left open to all: it names models, and has what credentials' hashes are salted with."""
    path = tmp_path / "state.db"
    path.touch(mode=0o644)
    records = Records(path)
    records.put_publication(publication("v", "/target"))
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}
    records.close()

    assert {"state.db": "0o600", "state.db-wal": "0o600", "state.db-shm": "0o600"} == modes
