"""The bodies of answers about names and attributes: a view's nodes in the kernel's structures."""

from __future__ import annotations

import stat

from modelcsi.fuse.abi import ATTR_OUT, ATTRIBUTES, DIRENT, ENTRY_OUT, STATFS_OUT
from modelcsi.view.tree import ROOT, Tree

_FOR_EVER_SECONDS = 1 << 30
"""How long the kernel may believe what it was told of names and attributes: a view's never change."""
_BLOCK_BYTES = 4096
_SECTOR_BYTES = 512
_SECOND_NS = 1_000_000_000
MAX_NAME_BYTES = 255

NO_ENTRY = ENTRY_OUT.pack(0, 0, _FOR_EVER_SECONDS, 0, 0, 0) + bytes(ATTRIBUTES.size)
"""There is no such name, and the kernel need not ask again."""


def attributes(tree: Tree, number: int) -> bytes:
    """Of a node: root's, read-only, as design D15 says. Raises LookupError."""
    node = tree.node(number)
    links = 2 + tree.subdirectories(number) if stat.S_ISDIR(node.mode) else 1
    seconds, nanoseconds = divmod(node.mtime_ns, _SECOND_NS)
    seconds &= (1 << 64) - 1  # times before 1970 are a signed number in the kernel
    blocks = -(-node.size // _SECTOR_BYTES)
    times = (seconds, seconds, seconds, nanoseconds, nanoseconds, nanoseconds)
    return ATTRIBUTES.pack(number, node.size, blocks, *times, node.mode, links, 0, 0, 0, _BLOCK_BYTES, 0)


def entry(tree: Tree, number: int) -> bytes:
    """What LOOKUP finds. Raises LookupError."""
    return ENTRY_OUT.pack(number, 0, _FOR_EVER_SECONDS, _FOR_EVER_SECONDS, 0, 0) + attributes(tree, number)


def attribute_answer(tree: Tree, number: int) -> bytes:
    """What GETATTR says. Raises LookupError."""
    return ATTR_OUT.pack(_FOR_EVER_SECONDS, 0, 0) + attributes(tree, number)


def directory(tree: Tree, number: int, offset: int, size: int, *, with_attributes: bool) -> bytes:
    """What fits of a directory, from the entry `offset` on; empty at its end. Raises LookupError for what is no directory."""
    listing = ((b".", number), (b"..", tree.parent(number)), *tree.listing(number)[max(0, offset - 2) :])
    pieces: list[bytes] = []
    room = size
    for position, (name, child) in enumerate(listing[min(offset, 2) :], offset + 1):
        mode = tree.node(child).mode
        # A node id of 0: the kernel must not make a dentry of "." and "..".
        head = b"" if not with_attributes else NO_ENTRY if position <= 2 else entry(tree, child)
        piece = head + DIRENT.pack(child, position, len(name), stat.S_IFMT(mode) >> 12) + name
        piece += bytes(-len(piece) % 8)
        room -= len(piece)
        if room < 0:
            break
        pieces.append(piece)
    return b"".join(pieces)


def filesystem(tree: Tree) -> bytes:
    """What STATFS says: as large as its files, and full."""
    blocks = -(-tree.size_bytes // _BLOCK_BYTES)
    return STATFS_OUT.pack(blocks, 0, 0, tree.count + ROOT, 0, _BLOCK_BYTES, MAX_NAME_BYTES, _BLOCK_BYTES, 0)
