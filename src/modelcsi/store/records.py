"""What this node remembers, in SQLite: publications, leases, artifacts, tags, and who proved what.

The database may be lost: content is found by its paths and records, publications by the mount table; tags and proofs are
gone then, so publishes ask the registry once more. So it is never fsynced at a commit (WAL, synchronous=NORMAL): a power cut
also takes the mounts away, and SQLite itself stays whole. Every public method is one transaction; any thread may call.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from modelcsi.errors import Busy, StoreFull
from modelcsi.oci.digest import Digest
from modelcsi.store.durable import NO_SPACE_HINT

_MIGRATIONS = (
    """
    -- One row a (volume, target): what was asked for there, and how far it came.
    CREATE TABLE publications (
        volume_id TEXT NOT NULL,   -- CSI's volume id; '' when the row was made from the mount table alone
        target TEXT NOT NULL,      -- the path that kubelet named
        arguments TEXT NOT NULL,   -- canonical text of everything that must not differ on a repeated call; '' as above
        reference TEXT NOT NULL,   -- as the user wrote it, for people
        state TEXT NOT NULL,       -- PENDING (intent, a pull may run) or MOUNTED
        manifest TEXT NOT NULL,    -- digest once resolved, else ''
        view TEXT NOT NULL,        -- view id once known, else ''
        pod TEXT NOT NULL,         -- namespace/name where kubelet told it, else ''
        seen_at REAL NOT NULL,     -- Unix time of the last call, for people; expiry uses the monotonic clock
        PRIMARY KEY (volume_id, target)
    ) STRICT;
    -- A durable reason to keep an artifact's content. Owner: 'publication <volume id> <target>' or a command's name.
    CREATE TABLE leases (owner TEXT NOT NULL PRIMARY KEY, manifest TEXT NOT NULL) STRICT;
    CREATE INDEX leases_by_manifest ON leases (manifest);
    -- Artifacts with content here, complete or not.
    CREATE TABLE artifacts (
        manifest TEXT NOT NULL PRIMARY KEY,
        reference TEXT NOT NULL,   -- the last one that led here, for people
        kind TEXT NOT NULL,
        size INTEGER NOT NULL,     -- bytes of its unique layers as the manifest says
        used INTEGER NOT NULL      -- a logical clock: greater is later (a wall clock may jump)
    ) STRICT;
    -- Its layers, and the documents that were read to know it: indexes and their entries, a config.
    CREATE TABLE artifact_content (
        manifest TEXT NOT NULL, content TEXT NOT NULL, PRIMARY KEY (manifest, content)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX artifacts_by_content ON artifact_content (content);
    -- What a tag meant when it was last resolved: a manifest, or an index.
    CREATE TABLE tags (
        host TEXT NOT NULL, repository TEXT NOT NULL, tag TEXT NOT NULL, manifest TEXT NOT NULL,
        PRIMARY KEY (host, repository, tag)
    ) STRICT, WITHOUT ROWID;
    -- These credentials (salted hash, or 'anonymous') were accepted for this manifest in this repository.
    CREATE TABLE proofs (
        host TEXT NOT NULL, repository TEXT NOT NULL, manifest TEXT NOT NULL, credential TEXT NOT NULL,
        PRIMARY KEY (host, repository, manifest, credential)
    ) STRICT, WITHOUT ROWID;
    -- This repository delivered the content (a layer or a manifest), or an authorised request showed that it holds it.
    CREATE TABLE deliveries (
        content TEXT NOT NULL, host TEXT NOT NULL, repository TEXT NOT NULL,
        PRIMARY KEY (content, host, repository)
    ) STRICT, WITHOUT ROWID;
    -- 'salt' of the credential hashes; 'clock' of artifacts.used.
    CREATE TABLE facts (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    """,
    # Greater is later, within one (host, repository, manifest); those of the first version are the oldest.
    "ALTER TABLE proofs ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0",
)
"""Applied in order; `PRAGMA user_version` counts how many were. Add a step, never change one; the release before must still
be able to use the result (new tables and new columns with defaults are fine)."""

_BUSY_SECONDS = 10
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_MAX_PROOFS = 100
"""For one manifest in one repository. Tokens rotate: each is another credential, and an old one is soon worth nothing."""

PENDING = "PENDING"
MOUNTED = "MOUNTED"


@dataclass(frozen=True, slots=True)
class PublicationRecord:
    """A row of `publications`; the columns are described there."""

    volume_id: str
    target: str
    arguments: str
    reference: str
    state: str
    manifest: str = ""
    view: str = ""
    pod: str = ""
    seen_at: float = 0.0

    @property
    def owner(self) -> str:
        """The name of this publication's lease."""
        return f"publication {self.volume_id} {self.target}"


@dataclass(frozen=True, slots=True)
class ArtifactRecord:
    """A row of `artifacts`, and how many leases it has."""

    manifest: Digest
    reference: str
    kind: str
    size_bytes: int
    used: int
    leases: int


class DamagedRecords(Exception):
    """The database is there, and its content is not what SQLite wrote."""


class Records:
    """The database of one store; without a path it lives in memory, and ends with the process.

    Raises DamagedRecords, Busy, StoreFull, and SQLite's errors.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.RLock()
        with _known_errors():
            self._connection = _open(path)  # used under the lock
            try:
                with self._transaction() as db:
                    row = (secrets.token_hex(16),)
                    db.execute("INSERT OR IGNORE INTO facts VALUES ('salt', ?), ('clock', '0')", row)
                    _prune(db)
                self.salt = bytes.fromhex(str(self._one("SELECT value FROM facts WHERE name = 'salt'")))
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the database; further calls fail."""
        with self._lock:
            self._connection.close()

    # Publications

    def put_publication(self, record: PublicationRecord) -> None:
        """Record a publication as it is now; with a manifest it holds a lease on it."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO publications VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(record.volume_id, record.target, record.arguments, record.reference, record.state),
                    *(record.manifest, record.view, record.pod, time.time()),
                ),
            )
            if record.manifest:
                db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?)", (record.owner, record.manifest))

    def remove_publication(self, volume_id: str, target: str) -> None:
        """Forget a publication and end its lease; repeatable."""
        with self._transaction() as db:
            db.execute("DELETE FROM publications WHERE volume_id = ? AND target = ?", (volume_id, target))
            db.execute("DELETE FROM leases WHERE owner = ?", (f"publication {volume_id} {target}",))

    def publications(self, target: str | None = None) -> list[PublicationRecord]:
        """All publications, or those at one target."""
        with self._lock:
            where, values = ("", ()) if target is None else (" WHERE target = ?", (target,))
            rows = self._connection.execute(f"SELECT * FROM publications{where}", values)  # noqa: S608 - constants
            return [PublicationRecord(*row) for row in rows]

    # Artifacts and leases

    def put_artifact(self, record: ArtifactRecord, content: Iterable[Digest], owner: str) -> None:
        """Record which content an artifact needs, and give `owner` a lease on it: from here no collector touches it."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO artifacts VALUES (?, ?, ?, ?, 0) ON CONFLICT (manifest) DO UPDATE SET reference = excluded.reference",
                (str(record.manifest), record.reference, record.kind, record.size_bytes),
            )
            self._touch(db, record.manifest)
            rows = [(str(record.manifest), str(digest)) for digest in content]
            db.executemany("INSERT OR IGNORE INTO artifact_content VALUES (?, ?)", rows)
            db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?)", (owner, str(record.manifest)))

    def touch(self, manifest: Digest) -> None:
        """The artifact is used now."""
        with self._transaction() as db:
            self._touch(db, manifest)

    def end_lease(self, owner: str) -> None:
        """End a lease; repeatable."""
        with self._transaction() as db:
            db.execute("DELETE FROM leases WHERE owner = ?", (owner,))

    def replace_leases(self, kind: str, manifests: Mapping[str, str]) -> None:
        """The leases of all owners whose name begins with the word `kind` are exactly these: owner -> manifest."""
        with self._transaction() as db:
            db.execute("DELETE FROM leases WHERE substr(owner, 1, ?) = ?", (len(kind) + 1, f"{kind} "))
            db.executemany("INSERT INTO leases VALUES (?, ?)", list(manifests.items()))

    def owners(self, manifest: Digest) -> frozenset[str]:
        """Who holds a lease on the artifact."""
        with self._lock:
            rows = self._connection.execute("SELECT owner FROM leases WHERE manifest = ?", (str(manifest),))
            return frozenset(row[0] for row in rows)

    def is_leased(self, manifest: str) -> bool:
        """Whether anybody holds a lease on what has this digest, known as an artifact or not."""
        return self._one("SELECT 1 FROM leases WHERE manifest = ?", manifest) is not None

    def artifacts(self) -> list[ArtifactRecord]:
        """All artifacts, least recently used first."""
        query = (
            "SELECT manifest, reference, kind, size, used, (SELECT count(*) FROM leases WHERE leases.manifest = artifacts.manifest)"
            " FROM artifacts ORDER BY used"
        )
        with self._lock:
            return [ArtifactRecord(Digest.parse(row[0]), *row[1:]) for row in self._connection.execute(query)]

    def contents(self, manifest: Digest) -> list[Digest]:
        """The layers and documents that an artifact needs."""
        with self._lock:
            rows = self._connection.execute("SELECT content FROM artifact_content WHERE manifest = ?", (str(manifest),))
            return [Digest.parse(row[0]) for row in rows]

    def known_content(self) -> frozenset[str]:
        """The digests of all manifests and layers that some artifact needs."""
        with self._lock:
            rows = self._connection.execute("SELECT manifest FROM artifacts UNION SELECT content FROM artifact_content")
            return frozenset(row[0] for row in rows)

    def forget_artifact(self, manifest: Digest) -> list[Digest] | None:
        """Forget an artifact that has no lease; None if somebody holds one.

        Returns what no other artifact needs, as a layer, a document or its own manifest: the caller removes it. Tags,
        proofs and deliveries of that are forgotten too.
        """
        key = (str(manifest),)
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM leases WHERE manifest = ?", key).fetchone():
                return None
            mine = "SELECT ?1 UNION SELECT content FROM artifact_content WHERE manifest = ?1"
            others = (
                "SELECT content FROM artifact_content WHERE manifest != ?1"
                " UNION SELECT manifest FROM artifacts WHERE manifest != ?1"
            )
            gone = db.execute(f"{mine} EXCEPT SELECT * FROM ({others})", key).fetchall()  # noqa: S608 - constants
            for table in ("artifact_content", "artifacts"):
                db.execute(f"DELETE FROM {table} WHERE manifest = ?", key)  # noqa: S608 - constants
            for table in ("tags", "proofs"):
                db.executemany(f"DELETE FROM {table} WHERE manifest = ?", [key, *gone])  # noqa: S608 - constants
            db.executemany("DELETE FROM deliveries WHERE content = ?", gone)
            return [Digest.parse(row[0]) for row in gone]

    # Tags, proofs, deliveries

    def put_tag(self, host: str, repository: str, tag: str, manifest: Digest) -> None:
        """The tag means this manifest now."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?)", (host, repository, tag, str(manifest)))

    def tag(self, host: str, repository: str, tag: str) -> Digest | None:
        """What the tag meant when it was last resolved."""
        found = self._one(
            "SELECT manifest FROM tags WHERE host = ? AND repository = ? AND tag = ?", host, repository, tag
        )
        return None if found is None else Digest.parse(str(found))

    def knows_repository(self, host: str, repository: str) -> bool:
        """Whether any tag of the repository was resolved before."""
        return self._one("SELECT 1 FROM tags WHERE host = ? AND repository = ?", host, repository) is not None

    def put_proof(self, host: str, repository: str, manifest: Digest, credential: str) -> None:
        """The registry accepted these credentials (a fingerprint) for this manifest; the oldest of too many are forgotten."""
        if self.has_proof(host, repository, manifest, credential):
            return
        key = (host, repository, str(manifest))
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO proofs (host, repository, manifest, credential, sequence)"
                " SELECT ?, ?, ?, ?, 1 + coalesce(max(sequence), 0) FROM proofs"
                " WHERE host = ? AND repository = ? AND manifest = ?",
                (*key, credential, *key),
            )
            db.execute(
                "DELETE FROM proofs WHERE host = ? AND repository = ? AND manifest = ? AND credential IN"
                " (SELECT credential FROM proofs WHERE host = ? AND repository = ? AND manifest = ?"
                " ORDER BY sequence DESC LIMIT -1 OFFSET ?)",
                (*key, *key, _MAX_PROOFS),
            )

    def remove_proof(self, host: str, repository: str, manifest: Digest, credential: str) -> None:
        """The registry does not accept these credentials any more."""
        statement = "DELETE FROM proofs WHERE host = ? AND repository = ? AND manifest = ? AND credential = ?"
        with self._transaction() as db:
            db.execute(statement, (host, repository, str(manifest), credential))

    def has_proof(self, host: str, repository: str, manifest: Digest, credential: str) -> bool:
        """Whether the registry accepted these credentials for this manifest before."""
        query = "SELECT 1 FROM proofs WHERE host = ? AND repository = ? AND manifest = ? AND credential = ?"
        return self._one(query, host, repository, str(manifest), credential) is not None

    def put_delivery(self, content: Iterable[Digest], host: str, repository: str) -> None:
        """This repository delivered these layers or manifests, or showed that it holds them."""
        with self._transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO deliveries VALUES (?, ?, ?)",
                [(str(digest), host, repository) for digest in content],
            )

    def deliveries(self, content: Iterable[Digest], host: str, repository: str) -> frozenset[Digest]:
        """Which of these the repository delivered."""
        query = "SELECT 1 FROM deliveries WHERE content = ? AND host = ? AND repository = ?"
        with self._lock:
            execute = self._connection.execute
            return frozenset(digest for digest in content if execute(query, (str(digest), host, repository)).fetchone())

    def came_from(self, content: Digest, host: str) -> bool:
        """Whether any repository of the host delivered the layer or manifest."""
        return self._one("SELECT 1 FROM deliveries WHERE content = ? AND host = ?", str(content), host) is not None

    def _touch(self, db: sqlite3.Connection, manifest: Digest) -> None:
        db.execute("UPDATE facts SET value = CAST(value AS INTEGER) + 1 WHERE name = 'clock'")
        clock = "(SELECT CAST(value AS INTEGER) FROM facts WHERE name = 'clock')"
        db.execute(f"UPDATE artifacts SET used = {clock} WHERE manifest = ?", (str(manifest),))  # noqa: S608 - constant

    def _one(self, query: str, *values: str) -> object | None:
        with self._lock:
            row = self._connection.execute(query, values).fetchone()
        return None if row is None else row[0]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _known_errors():
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk ends it
                    self._connection.execute("ROLLBACK")
                raise


def error_code(error: sqlite3.Error) -> int:
    """SQLite's primary code of an error; 0 if it is not SQLite's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


@contextlib.contextmanager
def _known_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = error_code(error)
        if code in _DAMAGED:
            raise DamagedRecords(str(error)) from error
        if code == sqlite3.SQLITE_FULL:
            raise StoreFull("no space left while writing the store's records", hint=NO_SPACE_HINT) from error
        if code == sqlite3.SQLITE_BUSY:
            raise Busy(
                "another process has locked the store's database, state.db",
                hint="end the sqlite3 shell, or the backup, that has it open",
            ) from error
        raise


def _prune(db: sqlite3.Connection) -> None:
    """Forget what is known of manifests that were resolved and never pulled; at worst the registry is asked once more."""
    for table in ("tags", "proofs"):
        db.execute(
            f"DELETE FROM {table} WHERE manifest NOT IN (SELECT manifest FROM artifacts)"  # noqa: S608 - constants
            f" AND NOT EXISTS (SELECT 1 FROM artifact_content WHERE artifact_content.content = {table}.manifest)"
        )
    db.execute(
        "DELETE FROM deliveries WHERE content NOT IN (SELECT manifest FROM artifacts)"
        " AND NOT EXISTS (SELECT 1 FROM artifact_content WHERE artifact_content.content = deliveries.content)"
    )


def _open(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        # It names models and pods, and has the salt of credentials' hashes. SQLite makes its other files with the same mode.
        path.touch(mode=0o600)
        for file in path.parent.glob(f"{path.name}*"):
            file.chmod(0o600)
    connection = sqlite3.connect(
        path or ":memory:", isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        # Damage is found now, when it can be mended by beginning anew, not in the middle of a publish.
        findings = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if findings != "ok":
            raise DamagedRecords(findings)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
            connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection
