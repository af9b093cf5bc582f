import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.index.suffix_sort import sorted_suffixes


def brute_force(text: list[int], separator: int) -> list[int]:
    """Suffixes up to the first separator after their first symbol; equal ones in the order of the text."""
    ring = text + text
    ends = [ring.index(separator, start + 1) for start in range(len(text))]
    return sorted(range(len(text)), key=lambda start: (ring[start : ends[start] + 1], start))


def first_rows_of(text: list[int], num_symbols: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(text, minlength=num_symbols))])


def sort(text: list[int], separator: int, num_symbols: int, dtype=np.uint32) -> list[int]:
    symbols = np.array(text, np.uint16 if num_symbols <= 1 << 16 else np.uint32)
    order = sorted_suffixes(symbols, separator, first_rows_of(text, num_symbols), dtype)
    assert order is not None and order.dtype == dtype
    return order.tolist()


@st.composite
def texts(draw):
    """Read backwards, a text starts with the separator. Of many symbols fewer fit into a key."""
    num_symbols = draw(st.sampled_from([1, 2, 3, 20, 5000, 70_000]))
    separator = draw(st.integers(0, num_symbols - 1))
    usable = draw(st.lists(st.integers(0, num_symbols - 1), min_size=1, max_size=3))
    phrase = st.lists(st.sampled_from([*usable, separator]), max_size=12)
    phrases = draw(st.lists(phrase, min_size=1, max_size=4))
    chosen = draw(st.lists(st.sampled_from(phrases), max_size=8))
    return [separator, *(symbol for phrase in chosen for symbol in phrase)], separator, num_symbols


@given(texts(), st.sampled_from([np.uint32, np.uint64]))
@settings(max_examples=300, deadline=None)
def test_suffixes_are_sorted_up_to_the_end_of_their_passage(case, dtype):
    text, separator, num_symbols = case
    assert sort(text, separator, num_symbols, dtype) == brute_force(text, separator)


@pytest.mark.parametrize("num_symbols", [40, 70_000])
@pytest.mark.parametrize("threads", [1, 3])
def test_many_phrases_that_recur(num_symbols, threads, monkeypatch):
    # Hundreds of groups of equal keys in one bucket, of two suffixes and of hundreds, several keys deep.
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
    rng = np.random.default_rng(0)
    symbols = rng.choice(np.arange(1, num_symbols), 30, replace=False)
    phrases = [rng.choice(symbols, rng.integers(2, 30)).tolist() for _ in range(150)]
    frequent = [phrases[number] for number in np.minimum(rng.zipf(1.3, 1500), len(phrases)) - 1]
    passages = [[0, *frequent[start], *frequent[start + 1], int(symbols[0])] for start in range(0, 1500, 2)]
    text = [symbol for passage in passages for symbol in passage]
    assert sort(text, 0, num_symbols) == brute_force(text, 0)
