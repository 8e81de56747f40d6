"""How batches are cut and in which order their pieces go; which graphs stay."""

from __future__ import annotations

import pytest

from cliprt import InvalidInput
from cliprt_engines._batches import Piece, cut, in_turn
from cliprt_engines._graphs import GraphCache
from cliprt_engines._profiles import Profile, Span

WIDE, NARROW = Profile(batch=Span(1, 32, 64)), Profile(batch=Span(1, 1, 8))
TEXTS = (
    Profile(batch=Span(1, 32, 64), length=Span(2, 77, 77)),
    Profile(batch=Span(1, 64, 128), length=Span(2, 16, 16)),
)


@pytest.mark.parametrize(
    ("rows", "pieces"),
    [
        (0, []),
        (1, [Piece(0, 1, 1)]),
        (8, [Piece(0, 8, 1)]),
        (9, [Piece(0, 9, 0)]),
        (64, [Piece(0, 64, 0)]),
        (65, [Piece(0, 64, 0), Piece(64, 1, 1)]),
        (200, [Piece(0, 64, 0), Piece(64, 64, 0), Piece(128, 64, 0), Piece(192, 8, 1)]),
    ],
)
def test_a_batch_is_cut_into_full_pieces_and_a_rest(rows: int, pieces: list[Piece]) -> None:
    assert cut((WIDE, NARROW), rows, None) == pieces


def test_texts_take_the_greatest_batch_of_their_length() -> None:
    assert cut(TEXTS, 128, 16) == [Piece(0, 128, 1)]
    assert cut(TEXTS, 128, 17) == [Piece(0, 64, 0), Piece(64, 64, 0)]


def test_texts_that_are_too_long_are_refused() -> None:
    with pytest.raises(InvalidInput, match="takes no batch of 3 x 78 tokens"):
        cut(TEXTS, 3, 78)


def test_a_rest_too_small_for_every_profile_is_refused() -> None:
    with pytest.raises(InvalidInput, match="takes no batch of 2;"):
        cut((Profile(batch=Span(4, 8, 8)),), 10, None)


@pytest.mark.parametrize(
    ("rows", "pieces"),
    [
        (0, []),
        (31, [31]),
        (32, [16, 16]),
        (33, [16, 17]),
        (63, [16, 47]),
        (64, [32, 32]),
        # What is cut anyway overlaps anyway.
        (65, [64, 1]),
        (96, [64, 32]),
    ],
)
def test_a_large_batch_is_cut_in_two_to_overlap(rows: int, pieces: list[int]) -> None:
    found = cut((WIDE, NARROW), rows, None, overlap=True)
    assert [piece.rows for piece in found] == pieces
    assert [piece.start for piece in found] == [sum(pieces[:i]) for i in range(len(pieces))]


def test_batches_of_every_size_share_few_shapes_on_the_first_lane() -> None:
    profiles = (Profile(batch=Span(1, 128, 256)), NARROW)
    first, second = set(), set()
    for rows in range(32, 257):
        one, other = cut(profiles, rows, None, overlap=True)
        assert one.rows <= other.rows < one.rows + 32
        assert one.profile == other.profile == 0
        first.add(one.rows)
        second.add(other.rows)
    assert first == set(range(16, 129, 16))
    assert len(second) < 225


@pytest.mark.parametrize(
    "profiles",
    [
        # Takes no halves.
        (Profile(batch=Span(64, 64, 64)),),
        (Profile(batch=Span(40, 64, 64)),),
        # Tuned for the whole, while halves would run under the other.
        (Profile(batch=Span(1, 32, 256)), Profile(batch=Span(64, 64, 64))),
        (Profile(batch=Span(1, 32, 256)), Profile(batch=Span(1, 16, 32))),
    ],
)
def test_halves_that_would_leave_the_profile_are_not_made(profiles: tuple[Profile, ...]) -> None:
    assert [piece.rows for piece in cut(profiles, 64, None, overlap=True)] == [64]


@pytest.mark.parametrize("pieces", range(7))
def test_pieces_take_turns(pieces: int) -> None:
    began: list[int] = []
    collected: list[int] = []
    at_work: dict[int, int] = {}
    for what, piece, lane in in_turn(pieces, 2):
        if what == "begin":
            assert lane not in at_work, "a lane was filled before its answer was collected"
            at_work[lane] = piece
            began.append(piece)
        else:
            assert at_work.pop(lane) == piece
            collected.append(piece)
    assert began == collected == list(range(pieces))


def test_the_next_piece_begins_before_the_one_before_is_collected() -> None:
    steps = [(what, piece) for what, piece, _ in in_turn(3, 2)]
    assert steps.index(("begin", 1)) < steps.index(("collect", 0))
    assert steps.index(("begin", 2)) < steps.index(("collect", 1))


class Closable:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_shape_is_captured_when_it_comes_again() -> None:
    cache: GraphCache[int, Closable] = GraphCache(4)
    assert not cache.due(1)
    assert not cache.due(2)
    assert cache.due(1)


def test_the_graph_unused_for_longest_goes_first() -> None:
    cache: GraphCache[int, Closable] = GraphCache(2)
    one, two, three = Closable(), Closable(), Closable()
    cache.put(1, one)
    cache.put(2, two)
    assert cache.get(1) is one
    cache.put(3, three)
    assert (one.closed, two.closed, three.closed) == (0, 1, 0)
    assert cache.get(2) is None
    assert len(cache) == 2
    cache.close()
    assert (one.closed, two.closed, three.closed) == (1, 1, 1)


def test_an_evicted_shape_must_come_twice_again() -> None:
    cache: GraphCache[int, Closable] = GraphCache(1)
    for key in (1, 2):
        assert not cache.due(key)
        assert cache.due(key)
        cache.put(key, Closable())
    assert not cache.due(1)


def test_what_cannot_be_captured_is_not_tried_again() -> None:
    cache: GraphCache[int, Closable] = GraphCache(2)
    cache.due(1)
    assert cache.due(1)
    cache.refuse(1)
    assert not cache.due(1)
    assert not cache.due(1)


def test_no_graphs_are_due_where_none_are_wanted() -> None:
    cache: GraphCache[int, Closable] = GraphCache(0)
    assert not any(cache.due(1) for _ in range(3))
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        GraphCache(-1)


def test_shapes_seen_long_ago_are_forgotten() -> None:
    cache: GraphCache[int, Closable] = GraphCache(1)
    cache.due(-1)
    for key in range(1000):
        cache.due(key)
    assert not cache.due(-1)
