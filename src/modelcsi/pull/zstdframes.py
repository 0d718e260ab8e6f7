"""Where zstd frames end (RFC 8878, 3.1): the decoder's stream does not tell whether its input stopped within one."""

from __future__ import annotations

from collections.abc import Callable

_SKIPPABLE = 0x184D2A50
_RLE = 1
_DICTIONARY_BYTES = (0, 1, 2, 4)
_SIZE_BYTES = (0, 2, 4, 8)


class FrameWalker:
    """Follows compressed bytes from header to header. Judges nothing: the decoder does."""

    def __init__(self) -> None:
        self._skip = 0
        self._head = bytearray()  # of the header that is under way
        self._needed = 4
        self._take: Callable[[int], None] = self._take_magic  # what becomes of the header once it is whole
        self._has_checksum = False
        self._frames = 0

    @property
    def is_complete(self) -> bool:
        """Whether at least one frame began, and none is under way."""
        return bool(self._frames) and not self._head and not self._skip and self._take == self._take_magic

    def feed(self, data: bytes) -> None:
        """The next bytes, cut anyhow."""
        position = 0
        while position < len(data):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
            else:
                step = min(self._needed - len(self._head), len(data) - position)
                self._head += data[position : position + step]
                if len(self._head) == self._needed:
                    whole = int.from_bytes(self._head, "little")
                    self._head.clear()
                    self._take(whole)
            position += step

    def _take_magic(self, magic: int) -> None:
        self._frames += 1
        if magic & ~0xF == _SKIPPABLE:
            self._needed, self._take = 4, self._take_skippable
        else:
            self._needed, self._take = 1, self._take_descriptor

    def _take_skippable(self, size: int) -> None:
        self._skip = size
        self._needed, self._take = 4, self._take_magic

    def _take_descriptor(self, flags: int) -> None:
        is_single_segment = bool(flags & 0x20)
        size_bytes = _SIZE_BYTES[flags >> 6] or int(is_single_segment)
        self._has_checksum = bool(flags & 0x04)
        self._skip = _DICTIONARY_BYTES[flags & 3] + size_bytes + int(not is_single_segment)
        self._needed, self._take = 3, self._take_block

    def _take_block(self, header: int) -> None:
        is_last, kind, size = header & 1, header >> 1 & 3, header >> 3
        self._skip = 1 if kind == _RLE else size
        if is_last:
            self._skip += 4 * self._has_checksum
            self._needed, self._take = 4, self._take_magic
