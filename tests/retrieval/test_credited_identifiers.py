"""Identifiers as numbers and as columns, compared with the objects that they stand for."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.candidates import Candidate, MatchedIdentifier, pack, row_of
from dgr_trainer.identifier_weights import ORIGINS
from dgr_trainer.identifiers import VIEWS
from dgr_trainer.retrieval.credited_identifiers import CreditedIdentifiers, CreditedTable, columns_of

TOKENS = 9
scores = st.floats(-1e6, 1e6)
matched = st.builds(
    MatchedIdentifier,
    st.sampled_from(VIEWS),
    st.lists(st.integers(0, TOKENS - 1), min_size=1, max_size=4).map(tuple),
    st.integers(0, 2**40),
    scores,
    st.sampled_from(ORIGINS),
)


@st.composite
def credited(draw):
    """A table of a query, and for each passage the credited numbers, or identifiers that come from elsewhere."""
    table = CreditedTable(draw(st.lists(matched, max_size=5)), np.arange(TOKENS) * 7)
    number = st.integers(-TOKENS, len(table.identifiers) - 1)
    passages = draw(
        st.lists(
            st.lists(st.tuples(number, scores), max_size=6) | st.lists(matched, max_size=3).map(tuple), max_size=5
        )
    )
    return table, passages


@given(credited())
def test_columns_are_those_of_the_objects(made):
    table, passages = made
    lazy, objects = [], []
    for passage in passages:
        if isinstance(passage, tuple):
            lazy.append(passage)
            objects.append(passage)
            continue
        numbers, credits = zip(*passage, strict=True) if passage else ((), ())
        lazy.append(CreditedIdentifiers(table, np.array(numbers, np.int64), np.array(credits, np.float64)))
        objects.append(
            tuple(
                MatchedIdentifier("substring", (-1 - number,), 7 * (-1 - number), credit, "unigram")
                if number < 0
                else replace(table.identifiers[number], score=credit)
                for number, credit in passage
            )
        )
    assert [tuple(one) for one in lazy] == objects and lazy == objects
    assert [[one[place] for place in range(len(one))] for one in lazy] == [list(one) for one in objects]
    ids = [f"p{number}" for number in range(len(objects))]
    row = row_of("q", ids, [1.0] * len(ids), list(map(len, objects)), columns_of(lazy))
    assert row.equals(pack("q", [Candidate(id, 1.0, some) for id, some in zip(ids, objects, strict=True)]))
