from __future__ import annotations

from pathlib import Path

import pytest

from modelcsi.oci.digest import Digest
from modelcsi.store.layout import StoreLayout


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_every_path_has_its_directory(tmp_path: Path, algorithm: str) -> None:
    """What `directories` names is enough for each path of a digest or a view."""
    layout = StoreLayout(tmp_path / "root")
    for directory in layout.directories():
        directory.mkdir()
    digest = Digest.of(b"content", algorithm)
    paths = (layout.manifest, layout.blob, layout.layer, layout.layer_record, layout.ingests_of)

    assert all(path(digest).parent.is_dir() for path in paths)
    assert all(path("0" * 64).parent.is_dir() for path in (layout.view, layout.view_record))


def test_one_digest_has_separate_places(tmp_path: Path) -> None:
    """A digest may be a blob, a layer and a manifest at once."""
    layout, digest = StoreLayout(tmp_path), Digest.of(b"content")
    paths = [
        path(digest) for path in (layout.manifest, layout.blob, layout.layer, layout.layer_record, layout.ingests_of)
    ]

    assert len(paths) == len(set(paths))
