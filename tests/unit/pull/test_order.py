from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from modelcsi.pull.order import Demand, Order, Segment, Urgency

MIB = 1 << 20


def order_of(chunks: int, *stored: int) -> tuple[Order, Urgency]:
    """A blob of so many chunks, of which some are stored."""
    urgency = Urgency()
    return Order(chunks * MIB - 1, [(at * MIB, (at + 1) * MIB, True) for at in stored], urgency), urgency


def span(segment: Segment | None) -> tuple[int, int] | None:
    """Its chunks."""
    return None if segment is None else (segment.first, segment.end)


def test_in_order_around_what_is_stored() -> None:
    """Requests of bounded size that never cross bytes which are here."""
    order, _ = order_of(8, 0, 4)

    assert [(1, 4), (5, 7), (7, 8), None] == [span(order.next_in_order(size)) for size in (3, 2, 3, 3)]


def test_wants_come_before_hints() -> None:
    """And each in the order in which they came; neighbours are one request."""
    order, urgency = order_of(100)
    order.demand(50 * MIB, 60 * MIB, is_hint=True)
    order.demand(80 * MIB, 81 * MIB, is_hint=False)
    order.demand(20 * MIB + 5, 20 * MIB + 6, is_hint=False)
    order.demand(81 * MIB, 82 * MIB + 1, is_hint=False)
    spans = [span(order.next_demanded(8)) for _ in range(5)]

    assert [(80, 83), (20, 21), (50, 58), (58, 60), None] == spans
    assert 4 == urgency.demands


def test_a_demand_ends_with_its_last_chunk() -> None:
    """Whoever brings it; what is here is no demand."""
    order, urgency = order_of(10)
    order.demand(2 * MIB, 4 * MIB, is_hint=False)
    ends = [order.stored(2), order.stored(3)]
    again = order.demand(2 * MIB, 4 * MIB, is_hint=False)

    assert ([False, True], None, 0) == (ends, again, urgency.demands)
    assert (True, False) == (order.is_here(2 * MIB, 4 * MIB), order.is_here(2 * MIB, 4 * MIB + 1))


def test_all_of_a_blob() -> None:
    """Bytes behind the end are never here: whoever wants them waits for the commit, and hurries all that is missing."""
    order, urgency = order_of(3)
    order.demand(3 * MIB - 1, 3 * MIB, is_hint=False)
    claimed = span(order.next_demanded(8))
    for chunk in range(3):
        order.stored(chunk)

    assert ((0, 3), False, 0) == (claimed, order.is_here(3 * MIB - 1, 3 * MIB), urgency.demands)


def test_who_waits_for_all_waits_longest() -> None:
    """Others would wait for all of it behind him."""
    order, _ = order_of(100)
    order.demand(100 * MIB, 100 * MIB + 1, is_hint=False)
    order.demand(70 * MIB, 71 * MIB, is_hint=True)
    order.demand(30 * MIB, 31 * MIB, is_hint=False)

    assert [(30, 31), (70, 71), (0, 8)] == [span(order.next_demanded(8)) for _ in range(3)]


def test_who_is_waited_for() -> None:
    """A segment matters as long as what it has still to bring is wanted."""
    order, _ = order_of(10)
    segment = order.next_in_order(4)
    assert segment is not None
    order.demand(1 * MIB, 2 * MIB, is_hint=False)
    before = order.is_demanded(segment)
    segment.position = 2 * MIB

    assert (True, False) == (before, order.is_demanded(segment))


def test_old_hints_are_forgotten() -> None:
    """Their readers have gone elsewhere."""
    order, urgency = order_of(200)
    for at in range(40):
        order.demand(5 * at * MIB, (5 * at + 1) * MIB, is_hint=True)
    spans = [span(order.next_demanded(8)) for _ in range(17)]

    assert (16, (195, 196), (120, 121), None) == (urgency.demands, spans[0], *spans[-2:])


def test_the_hints_of_one_reader_are_one() -> None:
    """In their order, and before those of a reader that wanted nothing since."""
    order, urgency = order_of(100)
    for first, end in ((10, 14), (60, 64), (14, 22)):
        order.demand(first * MIB, end * MIB, is_hint=True)
    spans = [span(order.next_demanded(8)) for _ in range(3)]

    assert ([(10, 18), (18, 22), (60, 64)], 2) == (spans, urgency.demands)


def test_hints_without_a_reader_are_forgotten() -> None:
    """If somebody waits, for bytes of whichever blob: a reader that went on has wanted something lately, or waits itself."""
    now, urgency = [0.0], Urgency()
    order, other = (Order(100 * MIB, [], urgency, lambda: now[0]) for _ in range(2))
    order.demand(10 * MIB, 40 * MIB, is_hint=True)
    order.demand(50 * MIB, 90 * MIB, is_hint=True)
    now[0] = 1.0
    alone = span(order.next_demanded(2))
    waiting = order.demand(9 * MIB, 10 * MIB, is_hint=False)
    other.demand(0, MIB, is_hint=False)
    now[0] = 2.0
    spans = [span(order.next_demanded(40)) for _ in range(3)]
    assert waiting is not None
    order.demand(40 * MIB, 45 * MIB, is_hint=True)
    order.forget(waiting)
    now[0] = 2.1
    lately = span(order.next_demanded(40))
    order.demand(45 * MIB, 46 * MIB, is_hint=True)
    now[0] = 2.5

    assert ((50, 52), [(9, 40), None, None], (40, 45)) == (alone, spans, lately)
    assert None is order.next_demanded(40)
    assert (1, 1) == (urgency.demands, urgency.wants)


def test_what_is_given_back_is_claimed_again() -> None:
    """But for what was stored meanwhile."""
    order, _ = order_of(4)
    segment = order.next_in_order(4)
    assert segment is not None
    order.stored(1)
    order.give_back(segment)

    assert [(0, 1), (2, 4), None] == [span(order.next_in_order(9)) for _ in range(3)]


@settings(max_examples=100, deadline=None)
@given(
    chunks=st.integers(1, 60),
    stored=st.sets(st.integers(0, 59)),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 59), st.integers(1, 9), st.booleans()), max_size=60),
)
def test_every_chunk_is_claimed_once(chunks: int, stored: set[int], steps: list[tuple[int, int, int, bool]]) -> None:
    """However wants, hints and receivers come, and who gives up."""
    there = {at for at in stored if at < chunks}
    order, urgency = order_of(chunks, *sorted(there))
    claimed: list[int] = sorted(there)
    demands: list[Demand] = []
    for kind, at, count, flag in steps:
        if kind == 0 and at < chunks:
            found = order.demand(at * MIB, min((at + count) * MIB, chunks * MIB - 1), is_hint=flag)
            demands += [found] if found else []
        elif kind == 1 and demands:
            order.forget(demands.pop())
        else:
            segment = order.next_demanded(count) if kind == 2 else order.next_in_order(count)
            for chunk in range(segment.first, segment.end) if segment else ():
                claimed.append(chunk)
                order.stored(chunk)
    while (segment := order.next_in_order(5)) is not None:
        for chunk in range(segment.first, segment.end):
            claimed.append(chunk)
            order.stored(chunk)

    assert list(range(chunks)) == sorted(claimed)
    assert (0, 0) == (urgency.demands, order.missing_chunks())
