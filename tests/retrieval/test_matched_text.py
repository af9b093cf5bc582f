"""Identifiers are found in the text of a passage whatever the tokenizer made of it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TOKENIZERS

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.retrieval.matched_text import marked_pieces, matched_spans


def found(text, identifier, **options):
    (spans,) = matched_spans(text, [identifier], **options)
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("text", "identifier", "expected"),
    [
        ("The Nile is in Egypt.", "the nile", ["The Nile"]),
        ("a  b\n c", "b c", ["b\n c"]),
        ("It took 27 days. Don't go.", "27 days . don ' t", ["27 days. Don't"]),  # As WordPiece decodes.
        ("Voilà un café", "cafe", ["café"]),
        ("cafe, café", "café", ["café"]),  # With accents where it occurs with them.
        ("cafe\u0301 noir", "café noir", ["cafe\u0301 noir"]),
        ("ﬁne ½ ２０２６", "fine 1⁄2 2026", ["ﬁne ½ ２０２６"]),
        ("Straße", "strasse", ["Straße"]),
        ("to day, today", "today", ["today"]),
        ("today", "to day", []),
        ("The sea and the seaside", "sea", ["sea"]),  # Whole words if there are any,
        ("seaside, undersea", "sea", ["sea"]),  # else starts of words,
        ("undersea", "sea", ["sea"]),  # else inside of words,
        ("bees", "s", []),  # but not every single letter.
        ("コーパスの検索", "検索", ["検索"]),
        ("コーパスの検索", "の", ["の"]),
        ("한국어 문장", "한국어", ["한국어"]),
        ("naïve 🔎 search", "\N{REPLACEMENT CHARACTER}search", ["search"]),
        ("Mount Everest is high", "Everest @@ Mount Everest", ["Mount Everest"]),
        ("high is Everest", "high || Everest @@", ["high", "Everest"]),
        ("abcabc abc", "abc", ["abc"]),
        ("x", "", []),
        ("", "x", []),
        ("x", " @@ ", []),
        ("İstanbul", "istanbul", ["İstanbul"]),
    ],
)
def test_examples(text, identifier, expected):
    assert found(text, identifier, markers=["@@", "||"]) == expected


WORDS = st.lists(st.sampled_from(["red", "fish", "blue", "one", "two", "a", "redfish"]), min_size=1, max_size=12)
GAPS = st.sampled_from([" ", "  ", "\n", "\t "])


@given(WORDS, st.lists(WORDS, max_size=4), st.data())
def test_whole_words_are_those_of_a_regular_expression(words, phrases, data):
    text = ""
    for word in words:
        text += (data.draw(GAPS) if text else "") + data.draw(st.sampled_from([word, word.upper(), word.title()]))
    spans = matched_spans(text, [" ".join(phrase) for phrase in phrases])
    for phrase, places in zip(phrases, spans, strict=True):
        pattern = r"\b" + r"\s+".join(phrase) + r"\b"
        expected = [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]
        if expected:
            assert places == expected


@given(st.text(max_size=30), st.lists(st.text(max_size=5), max_size=4))
def test_spans_are_in_order_in_the_text_and_pieces_add_up_to_it(text, identifiers):
    spans = matched_spans(text, identifiers, markers=["@@"])
    assert len(spans) == len(identifiers)
    for places in spans:
        bounds = [bound for place in places for bound in place]
        assert bounds == sorted(bounds) and all(start < end for start, end in places)
        assert not bounds or (bounds[0] >= 0 and bounds[-1] <= len(text))
    pieces = marked_pieces(text, spans)
    assert "".join(piece for piece, _ in pieces) == text
    # Character by character, what belongs to an identifier is what its spans cover.
    marked = [numbers for piece, numbers in pieces for _ in piece]
    for position in range(len(text)):
        covering = {n for n, places in enumerate(spans) if any(a <= position < b for a, b in places)}
        assert set(marked[position]) == covering


@given(st.text(min_size=1, max_size=30), st.data())
def test_a_piece_of_whole_words_is_found_where_it_is(text, data):
    bounds = [m.start() for m in re.finditer(r"\b", text)]
    if len(bounds) < 2:
        return
    start = data.draw(st.sampled_from(bounds[:-1]))
    end = data.draw(st.sampled_from([bound for bound in bounds if bound > start]))
    if text[start:end].strip() and text[start:end].isascii() and text.isascii() and "_" not in text:
        (spans,) = matched_spans(text, [text[start:end]])
        assert spans


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_of_a_passage_are_found_in_it(name, passages):
    """Whatever a tokenizer makes of a text: runs of its tokens, decoded as those of a hit are."""
    identifiers = Identifiers(TOKENIZERS[name]())
    sought = 0
    for passage, segments in zip(passages[:8], identifiers.encode_segments(passages[:8]), strict=True):
        ids = segments.body
        texts = [identifiers.text("substring", ids[i : i + n]) for n in (1, 2, 5) for i in range(len(ids) - n)]
        texts = [text for text in texts if sum(map(str.isalnum, text)) >= 3]
        for text, places in zip(texts, matched_spans(passage.text, texts), strict=True):
            assert places, text
            letters = ["".join(filter(str.isalnum, passage.text[a:b])).lower() for a, b in places]
            assert set(letters) == {"".join(filter(str.isalnum, text)).lower()}
        sought += len(texts)
    assert sought > 200
