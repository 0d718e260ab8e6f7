"""The tree that is shown early is the tree of the complete view, whoever made the artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelcsi.artifact.entries import EntryType, FileEntry
from modelcsi.errors import ModelCsiError
from modelcsi.pull.puller import Filling, PulledView, Puller
from tests.examples import MOUNTABLE, serve
from tests.fakes.registry import FakeRegistry
from tests.producers import PRODUCTS
from tests.product import Product
from tests.unit.pull.conftest import Pod, wait_until
from tests.unit.pull.test_begin import Log, begin


def compare(pod: Pod, log: Log) -> None:
    """What was shown early, and what each layer's file must be, with the view; a file is at its offset in the blob."""
    found = begin(pod, log)
    wait_until(lambda: not pod.puller.running())
    view = begin(Pod(pod.puller, pod.reference, "later"), Log())
    assert isinstance(view, PulledView)
    if isinstance(found, Filling):
        assert {entry.path: _of_entry(entry) for entry in found.tree.entries} == _of_view(view.path)
        assert ("filled", None) == log.events[-1]


def begin_and_pull(pod: Pod) -> None:
    """Until it is complete."""
    begin(pod, Log())
    pod.pull()


def _of_entry(entry: FileEntry) -> tuple[object, ...]:
    if entry.type is EntryType.SYMLINK:
        return (entry.target,)
    return (entry.mode, entry.size if entry.type is EntryType.FILE else 0)


def _of_view(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        name, status = str(path.relative_to(root)), path.lstat()
        if path.is_symlink():
            found[name] = (str(path.readlink()),)
        else:
            found[name] = (status.st_mode & 0o777, status.st_size if path.is_file() else 0)
    return found


@pytest.mark.parametrize("name", MOUNTABLE)
def test_real_artifacts(puller: Puller, fake: FakeRegistry, name: str) -> None:
    """Of real producers."""
    serve(fake.content, "examples", name)
    compare(Pod(puller, f"{fake.host}/examples:{name}"), Log())


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
def test_products(puller: Puller, fake: FakeRegistry, product: Product) -> None:
    """In all forms that producers have; what is refused is refused."""
    product.push(fake.content, "products", "v1")
    pod, log = Pod(puller, f"{fake.host}/products:v1"), Log()
    if not product.refusal:
        compare(pod, log)
        return
    with pytest.raises(ModelCsiError, match=product.refusal):
        begin_and_pull(pod)
