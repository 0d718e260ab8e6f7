from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelcsi.store.content import empty_trash
from modelcsi.store.dynamic import key_of
from modelcsi.store.store import Store

VIEW = "a" * 64
KEY = key_of("volume", "/target")


@pytest.fixture
def view(store: Store) -> Path:
    """A view with a file, a deep file and a symlink, as `Views.build` leaves one."""
    path = store.layout.view(VIEW)
    (path / "deep" / "er").mkdir(parents=True)
    (path / "deep" / "er" / "weights").write_bytes(b"weights")
    (path / "run.sh").write_bytes(b"run")
    (path / "run.sh").chmod(0o555)
    (path / "link").symlink_to("deep/er")
    for directory in (path / "deep" / "er", path / "deep", path):
        directory.chmod(0o555)
    return path


def test_a_mount_is_hard_links(store: Store, view: Path) -> None:
    """The same files, links as links, read-only directories; the volume and its record are there."""
    path = store.dynamic.create(KEY, {"volume_id": "volume"}, {"volume_name": "volume"})
    store.dynamic.add(KEY, "m", VIEW, {"state": "x"})
    model = path / "models" / "m" / "model"

    assert (model / "deep" / "er" / "weights").samefile(view / "deep" / "er" / "weights")
    assert (0o555, "deep/er") == ((model / "deep").stat().st_mode & 0o777, os.readlink(model / "link"))
    assert {"m": {"state": "x"}} == store.dynamic.mounts(KEY)
    assert {KEY: {"volume_id": "volume"}} == store.dynamic.records()


def test_a_mount_goes_without_its_view(store: Store, view: Path) -> None:
    """Unlinking takes names only."""
    store.dynamic.create(KEY, {}, {})
    store.dynamic.add(KEY, "m", VIEW, {})
    empty_trash(*store.dynamic.discard_mount(KEY, "m"))

    assert ({}, b"weights") == (store.dynamic.mounts(KEY), (view / "deep" / "er" / "weights").read_bytes())
    assert [] == store.dynamic.discard_mount(KEY, "m")


def test_a_failed_mount_leaves_nothing(store: Store) -> None:
    """Here the view is not there."""
    store.dynamic.create(KEY, {}, {})
    with pytest.raises(FileNotFoundError):
        store.dynamic.add(KEY, "m", VIEW, {})

    assert sorted([KEY, f"{KEY}.json"]) == sorted(path.name for path in store.layout.dynamic_volumes.iterdir())
    assert {} == store.dynamic.mounts(KEY)


def test_volumes_of_one_id_are_told_apart() -> None:
    """By their targets; and no id with a slash in it is another volume's."""
    assert 3 == len({key_of("a", "/b"), key_of("a", "/c"), key_of("a/b", "")})


def test_leftovers(store: Store) -> None:
    """A directory without a record, a record without a directory and half-made trees go; a complete volume stays."""
    store.dynamic.create(KEY, {}, {})
    root = store.layout.dynamic_volumes
    (root / ("b" * 64)).mkdir()
    (root / f"{'c' * 64}.json").write_text("{}")
    (root / f".{'d' * 64}.1234").mkdir()
    (root / f".{KEY}.5678").mkdir()
    empty_trash(*store.dynamic.discard_leftovers())

    assert sorted([KEY, f"{KEY}.json"]) == sorted(path.name for path in root.iterdir())


def test_unreadable_records(store: Store) -> None:
    """Are no records: the volume is a leftover, and a mount has an empty status."""
    path = store.dynamic.create(KEY, {}, {})
    (path / "models" / "m").mkdir()
    (path / "models" / "m" / "status.json").write_text("{")
    (path / "models" / "n").mkdir()

    assert {"m": {}, "n": {}} == store.dynamic.mounts(KEY)
    store.layout.dynamic_record(KEY).write_text("[]")
    assert {} == store.dynamic.records()


def test_leases_are_replaced_by_kind(store: Store) -> None:
    """Those of other kinds stay, also of a kind whose name begins alike."""
    records = store.records
    records.replace_leases("dynamic", {"dynamic a": "sha256:1", "dynamic b": "sha256:2"})
    records.replace_leases("dynamics", {"dynamics c": "sha256:3"})
    records.replace_leases("dynamic", {"dynamic b": "sha256:4"})

    assert [False, False, True, True] == [records.is_leased(f"sha256:{number}") for number in (1, 2, 3, 4)]
