"""Whether what a job brings is what is mounted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from modelcsi.artifact.entries import EntryType, FileEntry, FileTree
from modelcsi.deadline import Deadline
from modelcsi.errors import UnsupportedArtifact
from modelcsi.oci.digest import Digest
from modelcsi.oci.reference import Reference
from modelcsi.pull.patience import Patience
from modelcsi.pull.policy import PullPolicy
from modelcsi.pull.puller import Filling, Puller
from modelcsi.pull.resolve import Wish
from modelcsi.view.plan import ViewPlan, plan_of
from modelcsi.volume.lazyplan import check_same, planned
from tests.examples import MOUNTABLE, serve
from tests.fakes.registry import FakeRegistry
from tests.producers import PRODUCTS
from tests.product import Product
from tests.unit.pull.conftest import client, fake, make_puller, private, puller, store, transport, wait_until

__all__ = ["client", "fake", "make_puller", "private", "puller", "store", "transport"]

TAR = Digest.of(b"tar")
FILES = (
    FileEntry("a", EntryType.FILE, 10, 0o444, 5, layer=TAR, member=1),
    FileEntry("b", EntryType.FILE, 10, 0o444, 5, layer=TAR, member=2),
    FileEntry("d", EntryType.DIRECTORY),
    FileEntry("l", EntryType.SYMLINK, target="a"),
)
OFFSETS: Mapping[tuple[Digest, int | None], int] = {(TAR, 1): 512, (TAR, 2): 1536}


@pytest.fixture
def plan() -> ViewPlan:
    """What is mounted."""
    head = {"view": "0" * 64, "reference": "r.test/m:1", "manifest": "sha256:" + "0" * 64, "host": "r.test"}
    return plan_of(head, planned(FileTree(FILES), OFFSETS))


@pytest.mark.parametrize("name", MOUNTABLE)
def test_real_artifacts(puller: Puller, fake: FakeRegistry, name: str) -> None:
    """What is known early of what real producers make is what is known of it when all is here."""
    serve(fake.content, "examples", name)
    _compare(puller, f"{fake.host}/examples:{name}")


@pytest.mark.parametrize("product", [item for item in PRODUCTS if not item.refusal], ids=lambda product: product.name)
def test_products(puller: Puller, fake: FakeRegistry, product: Product) -> None:
    """In all forms that producers have."""
    product.push(fake.content, "products", "v1")
    _compare(puller, f"{fake.host}/products:v1")


def _compare(puller: Puller, reference: str) -> None:
    patience = Patience(Deadline.after(20))
    resolved = puller.resolve(Wish(Reference.parse(reference), PullPolicy.ALWAYS), patience)
    found = puller.begin(resolved, "pod", patience, None)
    wait_until(lambda: not puller.running())
    if isinstance(found, Filling):
        head = {"view": "0" * 64, "reference": reference, "manifest": "", "host": ""}
        plan = plan_of(head, planned(found.tree, found.offsets))
        check_same(plan, puller.tree_of(resolved), {})

        assert len(plan.entries) == len(found.tree.entries)


def test_the_same(plan: ViewPlan) -> None:
    """Where bytes are is not known any more when all are here; a tar may have had more directories behind its file."""
    for tree, offsets in (
        (FILES, OFFSETS),
        (FILES, {}),
        ((*FILES, FileEntry("e", EntryType.DIRECTORY)), OFFSETS),
    ):
        check_same(plan, FileTree(tree), offsets)

    assert 4 == len(plan.entries)


@pytest.mark.parametrize(
    ("tree", "offsets", "path"),
    [
        ((replace(FILES[0], member=2), replace(FILES[1], member=1), *FILES[2:]), {}, "a"),  # two names change places
        ((replace(FILES[0], size=11), *FILES[1:]), OFFSETS, "a"),
        (FILES, {**OFFSETS, (TAR, 2): 2048}, "b"),
        (FILES[1:], OFFSETS, "a"),
        ((*FILES, FileEntry("more", EntryType.FILE, 1, layer=TAR, member=3)), OFFSETS, "more"),
        ((*FILES[:3], replace(FILES[3], target="b")), OFFSETS, "l"),
    ],
)
def test_another(
    plan: ViewPlan, tree: tuple[FileEntry, ...], offsets: Mapping[tuple[Digest, int | None], int], path: str
) -> None:
    """A registry that tells one tree at first and delivers another is found out, whichever job does."""
    with pytest.raises(UnsupportedArtifact, match=f"^r.test/m:1: {path} is not what"):
        check_same(plan, FileTree(tree), offsets)
