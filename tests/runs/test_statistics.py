import pytest

from dgr_trainer import Rankings
from dgr_trainer.runs.statistics import rank_list_statistics


def ranked(length, step=1.0):
    return {f"p{place}": -step * place for place in range(1, length + 1)}


RANKINGS = Rankings(
    {
        "one": ranked(4),
        "five": ranked(8),
        "far": ranked(150, 0.5),
        "lost": ranked(2),
        "empty": {},
        "unjudged": ranked(3),
    }
)
QRELS = {
    "one": {"p1": 1, "p3": 1},
    "five": {"p5": 2, "p2": 0},
    "far": {"p101": 1},
    "lost": {"x": 1},
    "empty": {"p1": 1},
    "nowhere": {"p1": 1},
}


def test_lengths_and_ranks_are_counted():
    found = rank_list_statistics(RANKINGS, QRELS, [*RANKINGS, "nowhere"])
    assert (found.queries, found.lists, found.judged) == (7, 5, 4)
    assert found.lengths == (2, 3, 4, 8, 150)
    assert found.ranks == {"1": 1, "2-5": 1, "6-20": 0, "21-100": 0, "above 100": 1, "not ranked": 1}
    # The best passage that is not relevant is 1 below, 4 above and 50 above the relevant one.
    assert found.above == (1.5, 4.0, 27.0)
    assert found.tied == 0.0


def test_the_borders_of_the_groups():
    found = rank_list_statistics(
        Rankings({str(rank): ranked(200) for rank in (1, 2, 5, 6, 20, 21, 100, 101)}),
        {str(rank): {f"p{rank}": 1} for rank in (1, 2, 5, 6, 20, 21, 100, 101)},
    )
    assert found.ranks == {"1": 1, "2-5": 2, "6-20": 2, "21-100": 2, "above 100": 1, "not ranked": 0}


def test_ties_are_counted():
    assert rank_list_statistics(Rankings({"q": {"a": 1.0, "b": 1.0, "c": 0.5, "d": 0.5, "e": 0.1}})).tied == 0.5


def test_the_table():
    assert str(rank_list_statistics(RANKINGS, QRELS)).splitlines() == [
        "queries                     6, with a rank list 5",
        "passages in a list          2 to 150, half of them 3 to 8, median 4",
        "neighbours of equal score   0.0%",
        "first relevant passage      of 4 queries:",
        "  1                         1 (25.0%)",
        "  2-5                       1 (25.0%)",
        "  6-20                      0 (0.0%)",
        "  21-100                    0 (0.0%)",
        "  above 100                 1 (25.0%)",
        "  not ranked                1 (25.0%)",
        "best other above relevant   half of them 1.5 to 27, median 4",
    ]
    assert len(str(rank_list_statistics(RANKINGS)).splitlines()) == 3
    assert (
        str(rank_list_statistics(RANKINGS, None, ["nowhere"])) == "queries                     1, with a rank list 0"
    )


def test_nothing_to_look_at_is_refused():
    with pytest.raises(ValueError, match="There are no queries"):
        rank_list_statistics(Rankings({}))
