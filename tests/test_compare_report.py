"""Ratios and fronts by their definitions, of points and draws made by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lapilli.compare_report import front_shares, members, ratio
from lapilli.runtime.uncertainty import DRAWS, Band


def test_nothing_to_compare_with_has_no_ratio() -> None:
    zero, some = np.zeros(1 + DRAWS), np.ones(1 + DRAWS)
    assert ratio(some, zero) is None
    assert ratio(some, 2 * some) == Band(0.5, 0.5, 0.5)


costs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8)


def beaten(points: list[tuple[int, int]], cost: int, score: int) -> bool:
    """By the definition: another one is at least as good in both, and better in one."""
    return any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)


@given(costs)
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    found = members([float(c) for c, _ in points], [float(s) for _, s in points])
    assert sorted(found) == [i for i, (c, s) in enumerate(points) if not beaten(points, c, s)]
    assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)


def test_shares_of_draws_on_the_front() -> None:
    draws = np.array([[1.0, 1.0, 3.0, 1.0, 2.0], [2.0, 2.0, 2.0, 2.0, 2.0]])
    assert front_shares(list(draws), [0.9, 0.9]) == (0.75, 0.5)
    assert front_shares(list(draws), [0.9, 0.8]) == (1.0, 0.25)
    assert front_shares([draws[0]], [0.5]) == (1.0,)


@given(st.lists(st.tuples(st.integers(0, 3), *[st.integers(1, 4)] * 5), min_size=1, max_size=6))
def test_shares_are_those_of_the_fronts_of_single_draws(rows: list[tuple[int, ...]]) -> None:
    scores = [float(score) for score, *_ in rows]
    draws = np.array([row[1:] for row in rows], float)
    fronts = [members(draw, scores) for draw in draws.T[1:].tolist()]
    wanted = tuple(sum(i in front for front in fronts) / 4 for i in range(len(rows)))
    assert front_shares(list(draws), scores) == wanted
