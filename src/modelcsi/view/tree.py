"""A view's files by node number, as a server looks at them: small, and made quickly, since a pod waits for a server that starts.

Node 1 is the root, node n + 2 the plan's entry n: whoever serves the view next knows the same nodes without being told.
"""

from __future__ import annotations

import base64
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from modelcsi.artifact.entries import EntryType
from modelcsi.view.plan import Record, read_records

ROOT = 1
_FIRST = 2
_DIRECTORY_MODE = 0o555
_SORTS = {
    EntryType.FILE.value: stat.S_IFREG,
    EntryType.DIRECTORY.value: stat.S_IFDIR,
    EntryType.SYMLINK.value: stat.S_IFLNK,
}


class Node(NamedTuple):
    """An entry. A tuple: a dataclass takes three times as long to make."""

    name: bytes
    mode: int
    """With the type: `stat.S_ISDIR` and so on."""
    size: int
    mtime_ns: int
    layer: str | None
    """Of a file whose bytes are in a layer, its digest."""
    member: int | None
    offset: int | None
    """`PlannedEntry.offset`."""
    content: bytes | None
    """All of a file that is in no layer; a symbolic link's target."""


class Tree:
    """All nodes of a view. Immutable."""

    def __init__(
        self,
        head: Mapping[str, str],
        nodes: list[Node],
        children: Mapping[int, dict[bytes, int]],
        parents: Mapping[int, int],
    ) -> None:
        self.head = head
        self.nodes = nodes
        self._children = children
        self._parents = parents
        self._listed: tuple[int, list[tuple[bytes, int]]] = (0, [])
        self.size_bytes = sum(node.size for node in nodes if stat.S_ISREG(node.mode))

    def node(self, number: int) -> Node:
        """Raises LookupError for a number that no node has."""
        if number < ROOT:
            raise LookupError(number)
        return self.nodes[number - ROOT]

    def file(self, number: int) -> int:
        """The plan's number of the file that a node is. Raises LookupError for what is no file."""
        if not stat.S_ISREG(self.node(number).mode):
            raise LookupError(number)
        return number - _FIRST

    def number(self, file: int) -> int:
        """The node of an entry of the plan."""
        return file + _FIRST

    @property
    def count(self) -> int:
        """How many entries the plan has."""
        return len(self.nodes) - 1

    def children(self, number: int) -> Mapping[bytes, int]:
        """Names and nodes of a directory; always in the same order. Raises LookupError for what is no directory."""
        return self._children[number]

    def listing(self, number: int) -> list[tuple[bytes, int]]:
        """The same in a list: a directory of 10,000 names is read in 250 pieces. Raises LookupError for what is no directory."""
        if self._listed[0] != number:
            self._listed = (number, list(self._children[number].items()))
        return self._listed[1]

    def parent(self, number: int) -> int:
        """The directory that a directory is in; the root is in itself. Raises LookupError for what is no directory."""
        return self._parents[number]

    def subdirectories(self, number: int) -> int:
        """How many children are directories: what a directory's link count tells."""
        return sum(stat.S_ISDIR(self.nodes[child - ROOT].mode) for child in self._children[number].values())


def read_tree(path: Path) -> Tree:
    """The tree of a plan. Raises ValueError for what is none, OSError."""
    head, records = read_records(path)
    nodes = [Node(b"", stat.S_IFDIR | _DIRECTORY_MODE, 0, 0, None, None, None, None)]
    children: dict[int, dict[bytes, int]] = {ROOT: {}}
    directories = {"": ROOT}
    parents = {ROOT: ROOT}
    try:
        for number, record in enumerate(records, _FIRST):
            parent, _, name = record[0].rpartition("/")
            node = _node(record, name)
            nodes.append(node)
            children[directories[parent]][node.name] = number
            if stat.S_ISDIR(node.mode):
                directories[record[0]] = number
                children[number] = {}
                parents[number] = directories[parent]
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"{path} is not the plan of a view: {error}") from error
    return Tree(head, nodes, children, parents)


def _node(record: Record, name: str) -> Node:
    _, sort, size, mode, mtime_ns, target, layer, member, data, offset = record
    content = target.encode() if target else None if data is None else base64.b64decode(data)
    length = len(content) if content is not None else size
    return Node(name.encode(), _SORTS[sort] | mode, length, mtime_ns or 0, layer, member, offset, content)
