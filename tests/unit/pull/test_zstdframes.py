from __future__ import annotations

import zstandard
from hypothesis import given
from hypothesis import strategies as st

from modelcsi.pull.zstdframes import FrameWalker

frames = st.builds(
    lambda content, checksum, size, level: zstandard.ZstdCompressor(
        level=level, write_checksum=checksum, write_content_size=size
    ).compress(content),
    st.one_of(st.binary(max_size=300), st.integers(0, 300_000).map(bytes)),
    st.booleans(),
    st.booleans(),
    st.sampled_from([-5, 1, 3]),
)
skippable = st.binary(max_size=50).map(
    lambda content: b"\x5a\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
)


@given(parts=st.lists(frames | skippable, min_size=1, max_size=3), data=st.data())
def test_the_end_of_a_frame_is_known(parts: list[bytes], data: st.DataObject) -> None:
    """A stream is complete where a frame ends, and nowhere else, however it is cut."""
    stream = b"".join(parts)
    ends = {sum(map(len, parts[: number + 1])) for number in range(len(parts))}
    length = data.draw(st.one_of(st.integers(0, len(stream)), st.sampled_from(sorted(ends))))
    step = data.draw(st.integers(1, max(1, length)))
    walker = FrameWalker()
    for start in range(0, length, step) if length / step < 2000 else (0,):
        walker.feed(stream[start : min(start + step, length)] if length / step < 2000 else stream[:length])

    assert (length in ends) == walker.is_complete
