"""The table of words numbers words as a dictionary does, whatever they are and however many it forgets."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.identifiers.word_table import WordTable

WORDS = st.text(st.sampled_from("abcé東😀\u00a0.'"), max_size=4)  # Also empty ones: spaces side by side.
TEXTS = st.lists(st.lists(WORDS, max_size=6).map(" ".join), max_size=8)


def words_of(text):
    return [word for word in text.split(" ") if word]


@given(batches=st.lists(TEXTS, max_size=4))
def test_words_are_numbered_in_the_order_of_their_first_occurrence(batches):
    table, known = WordTable(), {}
    for texts in batches:
        before = len(known)
        numbers, starts = table.number(texts)
        for text, start, end in zip(texts, starts[:-1], starts[1:], strict=True):
            assert numbers[start:end].tolist() == [known.setdefault(word, len(known)) for word in words_of(text)]
        assert len(table) == len(known) and table.words(before) == list(known)[before:]


@given(batches=st.lists(TEXTS, max_size=6))
def test_the_words_that_were_used_last_are_kept(batches):
    table, known, used = WordTable(), [], {}
    for now, texts in enumerate(batches):
        table.number(texts)
        known = list(dict.fromkeys([*known, *(word for text in texts for word in words_of(text))]))
        used.update({word: now for text in texts for word in words_of(text)})
        kept = table.forget(most=6)
        assert (kept is None) == (len(known) <= 6)
        if kept is not None:
            last = sorted(known, key=used.__getitem__, reverse=True)[:3]  # Stable: of those used together, the first.
            assert [known[number] for number in kept] == [word for word in known if word in last]
            known = [word for word in known if word in last]
        assert table.words(0) == known
        numbers, _ = table.number([" ".join(known)])
        assert numbers.tolist() == list(range(len(known)))
        used.update(dict.fromkeys(known, now))


def test_many_words_outgrow_the_table():
    words = [f"w{number}" for number in range(5000)]
    table = WordTable()
    for start in range(0, 5000, 70):
        table.number([" ".join(words[start : start + 70])])
    assert len(table) == 5000 and table.words(4990) == words[4990:]
    numbers, _ = table.number(words[::-1])
    np.testing.assert_array_equal(numbers, np.arange(5000)[::-1])
