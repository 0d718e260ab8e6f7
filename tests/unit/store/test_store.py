from __future__ import annotations

import logging
import resource
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from modelcsi.deadline import Deadline
from modelcsi.errors import Busy, InvalidRequest, StoreFull
from modelcsi.oci.digest import Digest
from modelcsi.store import records
from modelcsi.store import store as store_module
from modelcsi.store.content import empty_trash
from modelcsi.store.ingest import BlobIngest
from modelcsi.store.layout import FORMAT_VERSION
from modelcsi.store.records import ArtifactRecord
from modelcsi.store.store import Store
from tests.unit.store.conftest import commit_blob, ready_blob

MIB = 1 << 20


def test_one_store_per_directory(tmp_path: Path) -> None:
    """A second one is told who is in its way, and comes in when the first has gone."""
    with closing(Store(tmp_path / "root")), pytest.raises(Busy, match="another process uses the store"):
        Store(tmp_path / "root")
    Store(tmp_path / "root").close()


def test_waiting_for_the_last_process(tmp_path: Path) -> None:
    """A successor waits for the lock as long as it was told."""
    first = Store(tmp_path / "root")
    timer = threading.Timer(0.05, first.close)
    timer.start()
    Store(tmp_path / "root", patience=Deadline.after(10)).close()
    timer.join()


@pytest.mark.parametrize("text", [f"{FORMAT_VERSION + 1}\n", "models\n", ""])
def test_a_directory_of_somebody_else(tmp_path: Path, text: str) -> None:
    """Another format is refused, and the lock is given back."""
    Store(tmp_path / "root").close()
    (tmp_path / "root" / "format").write_text(text)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="format"):
            Store(tmp_path / "root")


def test_leftovers_of_a_crash_are_cleared(tmp_path: Path) -> None:
    """Half-made views, trash and temporary files go; half-written content stays."""
    with closing(Store(tmp_path / "root")) as store:
        layout = store.layout
        half = BlobIngest(layout, Digest.of(b"x"), 1)
        half.close()
        (layout.trash / "tree" / "a").mkdir(parents=True)
        (layout.trash / "tree" / "a").chmod(0o555)
        (layout.trash / "file").touch()
        (layout.views / ".view.new" / "a").mkdir(parents=True)
        (layout.views / ".view.json.new").touch()
        (layout.manifests / "sha256" / ".manifest.new").touch()
    Store(tmp_path / "root").close()

    assert [[], [], []] == [list(path.iterdir()) for path in (layout.trash, layout.views, layout.manifests / "sha256")]
    assert half.path.exists()


@pytest.mark.parametrize("damage", ["garbage", "page", "shorter"])
def test_an_unreadable_database_is_begun_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is set aside; content is still there, and nothing of the old state is believed."""
    with closing(Store(tmp_path / "root")) as store:
        digest = commit_blob(store, b"weights")
        for number in range(200):
            record = ArtifactRecord(Digest.of(b"%d" % number), "model:v1" * 20, "kind", 1, 0, 0)
            store.records.put_artifact(record, [digest], f"owner {number}")
    damage_database(tmp_path / "root" / "state.db", damage)
    with caplog.at_level(logging.WARNING), closing(Store(tmp_path / "root")) as store:
        assert ([], True) == (store.records.artifacts(), store.content.has_blob(digest))
    assert (tmp_path / "root" / "state.db.bad").exists()
    assert "begun anew" in caplog.text


def test_a_locked_database_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's sqlite3 shell: the start fails and says so, and nothing is lost."""
    monkeypatch.setattr(records, "_BUSY_SECONDS", 0.01)
    keep_one(tmp_path / "root")
    with closing(sqlite3.connect(tmp_path / "root" / "state.db", isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(Busy, match=r"locked .* \(end the sqlite3 shell"):
            Store(tmp_path / "root")
    with closing(Store(tmp_path / "root")) as store:
        assert 1 == len(store.records.artifacts())
    assert [] == list((tmp_path / "root").glob("*.bad"))


def keep_one(root: Path) -> None:
    """A store that remembers an artifact."""
    with closing(Store(root)) as store:
        store.records.put_artifact(ArtifactRecord(Digest.of(b"m"), "model:v1", "kind", 1, 0, 0), [], "owner")


def test_a_database_that_cannot_be_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No inode for the files beside it: this run does without, and the next one has it again."""
    keep_one(tmp_path / "root")
    (tmp_path / "root" / "state.db-wal").mkdir()
    with caplog.at_level(logging.WARNING), closing(Store(tmp_path / "root")) as store:
        store.records.end_lease("owner")
        assert [] == store.records.artifacts()
    (tmp_path / "root" / "state.db-wal").rmdir()
    with closing(Store(tmp_path / "root")) as store:
        assert 1 == len(store.records.artifacts())
    assert "kept in memory" in caplog.text


def test_a_start_on_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a clean stop SQLite has to write first: volumes must be unpublished all the same."""
    keep_one(tmp_path / "root")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with closing(Store(tmp_path / "root")) as store:
            store.records.end_lease("owner")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "kept in memory" in caplog.text
    with closing(Store(tmp_path / "root")) as store:
        assert 1 == len(store.records.artifacts())


def test_a_leftover_that_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is skipped: the others go, and the store opens."""
    with closing(Store(tmp_path / "root")) as opened:
        trash = opened.layout.trash
    for name in ("a", "b", "c"):
        (trash / name).touch()

    def refuse(path: Path) -> int:
        if path.name == "b":
            raise PermissionError("immutable")
        return empty_trash(path)

    monkeypatch.setattr(store_module, "empty_trash", refuse)
    Store(tmp_path / "root").close()

    assert [trash / "b"] == list(trash.iterdir())
    assert "immutable" in caplog.text


def damage_database(path: Path, damage: str) -> None:
    """What a bad disk does to it."""
    content = path.read_bytes()
    assert len(content) > 5 * 4096
    damaged = {
        "garbage": b"x" * 5000,
        "page": content[:4096] + b"\xff" * (len(content) - 4096),
        "shorter": content[: len(content) // 2],
    }
    path.write_bytes(damaged[damage])


def test_a_lost_database(tmp_path: Path) -> None:
    """An empty one takes its place."""
    with closing(Store(tmp_path / "root")) as store:
        digest = commit_blob(store, b"weights")
    for path in (tmp_path / "root").glob("state.db*"):
        path.unlink()
    with closing(Store(tmp_path / "root")) as store:
        assert ([], True) == (store.records.artifacts(), store.content.has_blob(digest))


def test_nobody_else_looks_into_the_store(tmp_path: Path) -> None:
    """Other users may pass through the root to their mounts, and list nothing."""
    with closing(Store(tmp_path / "root")) as store:
        modes = [path.stat().st_mode & 0o777 for path in store.layout.directories()]

    assert [0o711, *[0o700] * (len(modes) - 1)] == modes


def test_the_limit_counts_what_is_being_written(tmp_path: Path) -> None:
    """Bytes in an ingest are no longer promised and not yet committed: they count all the same."""
    with closing(Store(tmp_path / "root", lambda: 3 * MIB)) as store:
        reservation = store.space.reserve(2 * MIB, "a")
        half = ready_blob(store.layout, b"x" * 2 * MIB)
        store.collector.begin_writing(half.digest)
        reservation.used(2 * MIB)
        with pytest.raises(StoreFull):
            store.space.reserve(2 * MIB, "b")
        store.content.commit(half)
        with pytest.raises(StoreFull):
            store.space.reserve(2 * MIB, "b")
        store.collector.end_writing(half.digest)

        assert 2 * MIB == store.space.reserve(2 * MIB, "b").remaining
