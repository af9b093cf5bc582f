"""The text of a segment, read at once, is that of its passages one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.index import FMIndex, kernel_threads
from dgr_trainer.index.whole_text import whole_text


def texts_of(passages, separator, vocab_size):
    index = FMIndex.build(
        passages, passage_ids=map(str, range(len(passages))), vocab_size=vocab_size, separator=separator,
        progress=False,
    )  # fmt: skip
    (segment,) = index.segments
    return whole_text(segment.arrays, separator)


@given(st.lists(st.lists(st.sampled_from([0, 1, 3, 4]), max_size=9), min_size=1, max_size=9))
@settings(max_examples=150, deadline=None)
def test_small_texts(passages):
    assert texts_of(passages, 2, 6).tolist() == [token for passage in passages for token in [*passage, 2]]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_codes_of_all_lengths_in_several_threads(vocab_size, dtype, monkeypatch):
    monkeypatch.setattr(kernel_threads, "_STEPS_PER_THREAD", 500)
    random = np.random.default_rng(0)
    # Frequencies from one to thousands, so that codes end on many levels.
    tokens = np.minimum(random.zipf(1.3, 20_000), vocab_size - 2) + 1
    passages = np.split(tokens, np.sort(random.integers(0, len(tokens), 300)))
    text = texts_of(passages, 0, vocab_size)
    assert text.dtype == dtype
    assert text.tolist() == [token for passage in passages for token in [*passage.tolist(), 0]]
