import hypothesis.strategies as st
from hypothesis import given

from tune.results import best_of, pareto_front

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(points=POINTS)
def test_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = pareto_front(points, ("max", "min"))
    assert front
    for index, (gain, cost) in enumerate(points):
        beaten = any(g >= gain and c <= cost and (g, c) != (gain, cost) for g, c in points)
        assert (index in front) is not beaten


@given(points=POINTS)
def test_best_is_on_the_front(points: list[tuple[int, int]]) -> None:
    front = pareto_front(points, ("max", "max"))
    assert 0 <= best_of([points[i] for i in front], points, ("max", "max")) < len(front)


def test_best_is_the_balanced_trade_off() -> None:
    points = [(0.0, 1.0), (1.0, 0.0), (0.8, 0.8)]
    front = pareto_front(points, ("max", "max"))
    assert front == [0, 1, 2]
    assert best_of([points[i] for i in front], points, ("max", "max")) == 2
