from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from modelcsi.pull.plan import Claim, Plan

MIB = 1 << 20


def take_all(plan: Plan) -> list[tuple[int, int, bool]]:
    """What one receiver after another gets."""
    claims = iter(plan.next_claim, None)
    return [(claim.position, claim.end, claim.is_stored) for claim in claims]


def test_one_receiver_takes_each_run_whole() -> None:
    """One request for all that is missing is the cheapest."""
    runs = [(0, MIB, True), (MIB, 900 * MIB, False), (900 * MIB, 901 * MIB, True)]

    assert runs == take_all(Plan(runs))


def test_nothing_to_do() -> None:
    """The empty blob has no claim."""
    assert None is Plan([]).next_claim()


def test_a_spread_cuts_what_is_left() -> None:
    """The receiver keeps a segment ahead of what it reads now; the rest is handed out in segments, in file order."""
    plan = Plan([(0, 40 * MIB, False)])
    first = plan.next_claim()
    assert first is not None
    first.advance(MIB)
    plan.spread()

    assert 9 * MIB == first.end
    assert [(start * MIB, end * MIB, False) for start, end in ((9, 17), (17, 25), (25, 33), (33, 40))] == take_all(plan)


def test_stored_runs_are_never_cut() -> None:
    """They are read from the disk: no connection helps."""
    plan = Plan([(0, 100 * MIB, True), (100 * MIB, 104 * MIB, False)])
    first = plan.next_claim()
    assert first is not None
    plan.spread()

    assert (100 * MIB, [(100 * MIB, 104 * MIB, False)]) == (first.end, take_all(plan))


def test_what_is_missing() -> None:
    """Claimed or not, but not what was stored or received."""
    plan = Plan([(0, MIB, True), (MIB, 11 * MIB, False), (11 * MIB, 12 * MIB, False)])
    before = plan.missing_bytes()
    plan.next_claim()
    claim = plan.next_claim()
    assert claim is not None
    claim.position += claim.advance(3 * MIB)

    assert (11 * MIB, 8 * MIB) == (before, plan.missing_bytes())


@settings(max_examples=80, deadline=None)
@given(
    edges=st.lists(st.integers(1, 90 * MIB), min_size=1, max_size=6, unique=True),
    stored=st.lists(st.booleans(), min_size=6, max_size=6),
    steps=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 3 * MIB), st.booleans()), max_size=60),
)
def test_every_byte_is_received_once(edges: list[int], stored: list[bool], steps: list[tuple[int, int, bool]]) -> None:
    """However receivers interleave and whenever the rest is spread."""
    bounds = [0, *sorted(edges)]
    plan = Plan([(start, end, flag) for (start, end), flag in zip(itertools.pairwise(bounds), stored, strict=False)])
    receivers: dict[int, Claim | None] = {}
    received: list[tuple[int, int]] = []

    def step(receiver: int, size: int) -> bool:
        claim = receivers.get(receiver)
        if claim is None or claim.is_done():
            claim = receivers[receiver] = plan.next_claim()
        if claim is None:
            return False
        got = claim.advance(size)
        received.append((claim.position, claim.position + got))
        claim.position += got
        return True

    for receiver, size, is_spread in steps:
        step(receiver, size)
        if is_spread:
            plan.spread()
    while step(0, 20 * MIB):
        pass
    for receiver in range(1, 8):
        while step(receiver, 20 * MIB):
            pass
    pieces = sorted(piece for piece in received if piece[0] != piece[1])

    assert (0, bounds[-1]) == (pieces[0][0], pieces[-1][1])
    assert all(before[1] == after[0] for before, after in itertools.pairwise(pieces))
    assert 0 == plan.missing_bytes()
