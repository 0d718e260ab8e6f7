"""What a server knows of a plan is what the driver wrote."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from modelcsi.view.fill import FileState, FillMap
from modelcsi.view.plan import read_plan, write_plan
from modelcsi.view.tree import ROOT, read_tree
from tests.fakes.lazy import LazyStore


def test_nodes_are_the_plans_entries(store: LazyStore, tmp_path: Path) -> None:
    """Node n + 2 is entry n; names, types and sizes are the entry's, and every path leads to its node."""
    path = store.layout.lazy_view(store.view).plan
    tree = read_tree(path)
    for number, planned in enumerate(read_plan(path).entries):
        node = ROOT
        for name in planned.entry.path.split("/"):
            node = tree.children(node)[name.encode()]

        assert number + 2 == node == tree.number(number)
        assert planned.entry.mode == stat.S_IMODE(tree.node(node).mode)

    assert store.plan == read_plan(path)
    assert len(store.plan.entries) == tree.count
    assert (ROOT, ROOT) == (tree.parent(tree.number(store.numbers["dir"])), tree.parent(ROOT))


def test_numbers_of_nothing(store: LazyStore) -> None:
    """A node that is not there, or no directory, or no file, is a LookupError."""
    tree = read_tree(store.layout.lazy_view(store.view).plan)
    link, directory = tree.number(store.numbers["dir/link"]), tree.number(store.numbers["dir"])
    for ask, number in (
        *((tree.node, bad) for bad in (0, -1, 99)),
        *((tree.children, bad) for bad in (0, link, 99)),
        *((tree.listing, bad) for bad in (link, 99)),
        *((tree.file, bad) for bad in (link, directory, ROOT, 99)),
    ):
        with pytest.raises(LookupError):
            ask(number)


@pytest.mark.parametrize(
    "content", ["", "x", "[]", "{}", '{"version": 2}', '{"version": 1}\n[1]\n', '{"version": 1}\n["a/b"]\n']
)
def test_other_files_are_no_plans(tmp_path: Path, content: str) -> None:
    """What is not a plan is an error that names the file."""
    path = tmp_path / "plan"
    path.write_text(content)

    with pytest.raises(ValueError, match=r"plan|Expecting"):
        read_tree(path)


def test_large_plan_is_read_in_blocks(store: LazyStore, tmp_path: Path) -> None:
    """A plan of more than a block of lines is the same tree."""
    entries = tuple(store.plan.entries[-1:]) * 20_000
    plan = type(store.plan)("v", "r", "m", "h", entries)
    write_plan(plan, tmp_path / "plan")

    assert 20_000 == read_tree(tmp_path / "plan").count
    assert entries == read_plan(tmp_path / "plan").entries


def test_epochs_of_files_that_began_again(tmp_path: Path) -> None:
    """Only those that ever did, with an epoch of any size."""
    fill = FillMap(tmp_path / "fill", 300, is_writer=True)
    before = list(fill.epochs())
    for _ in range(256):
        fill.begin_again(7, FileState.WAITING)
    fill.begin_again(299, FileState.ARRIVING)
    after = list(fill.epochs())
    fill.close()

    assert ([], [(7, 256), (299, 1)]) == (before, after)
