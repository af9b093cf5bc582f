"""Words in scripts with and without spaces, and where they start in the ids of texts."""

import re
import unicodedata

import pytest
from languages import KINDS, LANGUAGES, TEXTS, UNSPACED, passages_in, tokenizer_for
from sample_corpus import PASSAGES, QUERIES

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.identifiers.words import is_unspaced, query_words, split_words


def words_of(text):
    words = split_words(text)
    return [words.piece(number, 1) for number in range(len(words.spans))]


def plain(text):
    return unicodedata.normalize("NFKC", text).replace(" ", "")


def query_words_of(text):
    return [text[start:end] for start, end in query_words(text)]


@pytest.mark.parametrize(
    ("text", "words", "in_queries"),
    [
        ("Don't  stop, now!", ["Don't", "stop,", "now!"], ["Don't", "stop", "now"]),
        ("Die Straßenbahn-Fahrt", ["Die", "Straßenbahn-Fahrt"], ["Die", "Straßenbahn-Fahrt"]),
        # Vowel signs and joiners are parts of words.
        ("كِتَابٌ جديد", ["كِتَابٌ", "جديد"], ["كِتَابٌ", "جديد"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा।"], ["हिन्दी", "भाषा"]),
        ("می‌خواهم", ["می‌خواهم"], ["می‌خواهم"]),
        ("한국어 문장.", ["한국어", "문장."], ["한국어", "문장"]),
        ("「東京」の天気。", ["「東", "京」", "の", "天", "気。"], ["東", "京", "の", "天", "気"]),
        (
            "iPhone15の価格 99円",
            ["iPhone15", "の", "価", "格", "99", "円"],
            ["iPhone15", "の", "価", "格", "99", "円"],
        ),
        ("カタカナと漢字", ["カタカナ", "と", "漢", "字"], ["カタカナ", "と", "漢", "字"]),
        ("สวัสดี ครับ", ["ส", "วั", "ส", "ดี", "ค", "รั", "บ"], ["ส", "วั", "ส", "ดี", "ค", "รั", "บ"]),
        ("—", ["—"], []),
        ("、", ["、"], []),
        ("", [], []),
    ],
)
def test_words(text, words, in_queries):
    assert words_of(text) == words
    assert query_words_of(text) == in_queries


def test_english_words_are_separated_by_whitespace():
    rule = re.compile(r"\w+(?:['’.\-]\w+)*")
    for text in [*QUERIES.values(), *(passage.text for passage in PASSAGES)]:
        assert words_of(text) == text.split()
        assert query_words(text) == [match.span() for match in rule.finditer(text)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_pieces_of_words_make_the_text_again(language):
    for _, text in TEXTS[language]:
        assert is_unspaced(text) == (language in UNSPACED)
        words = split_words(text)
        assert words.piece(0, len(words.spans)) == words.text == " ".join(text.split())
        assert "".join(words_of(text)) == "".join(text.split())
        assert words.piece(3, 4) == words.text[words.spans[3][0] : words.spans[6][1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_starts_of_words_divide_the_ids_as_the_text(language, kind):
    """The ids between two starts decode to the word that begins at the first."""
    identifiers = Identifiers(tokenizer_for(language, kind))
    most = 0
    for passage in passages_in(language):
        body = identifiers.encode_segments([passage])[0].body
        words = identifiers.words(passage.text, body)
        assert words is not None and words.starts[0] == 0
        assert words.starts == identifiers.word_starts(passage.text, body) == sorted(set(words.starts))
        assert words.piece(0, len(words.starts)) == words.text
        bounds = [*words.starts, len(body)]
        for number in range(len(words.starts)):
            decoded = identifiers.decode(body[bounds[number] : bounds[number + 1]])
            # WordPiece shows that a word goes on, and puts spaces around punctuation.
            piece = words.piece(number, 1)
            assert plain(decoded.replace("##", "")) == plain(piece)
        most = max(most, len(body) / len(words.starts))
    if language in UNSPACED and kind != "wordpiece":
        assert most < 3  # A word is a few tokens.


@pytest.mark.parametrize("language", UNSPACED)
def test_slow_tokenizers_divide_texts_without_spaces(language):
    from transformers import ByT5Tokenizer

    identifiers = Identifiers(ByT5Tokenizer())
    for passage in passages_in(language):
        body = identifiers.encode_segments([passage])[0].body
        words = identifiers.words(passage.text, body)
        bounds = [*words.starts, len(body)]
        pieces = [identifiers.decode(body[left:right]) for left, right in zip(bounds[:-1], bounds[1:], strict=True)]
        assert pieces == words_of(passage.text)


def test_texts_with_markers_are_divided_into_tokens(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer)
    text = "東京 @@ 大阪"
    (ids,) = identifiers.encode_substrings([text])
    assert identifiers.words(text, ids) is None
    assert identifiers.word_starts(text, ids) == list(range(len(ids)))


@pytest.mark.parametrize("kind", ["byte_bpe", "unigram"])
@pytest.mark.parametrize("language", UNSPACED)
def test_ids_inside_a_text_without_spaces(language, kind):
    """Most short pieces of a text have in it the ids that they get without a space before them."""
    identifiers = Identifiers(tokenizer_for(language, kind))
    found = spaced = 0
    for _, text in TEXTS[language]:
        (body,) = identifiers.encode_substrings([text])
        pieces = [text[first : first + 2] for first, _ in split_words(text).spans[3:12]]
        for piece, ids in zip(pieces, identifiers.encode_unspaced(pieces), strict=True):
            assert plain(identifiers.decode(ids)) in ("", plain(piece))
            found += any(body[start : start + len(ids)] == ids for start in range(len(body)) if ids)
        for ids in identifiers.encode_substrings(pieces):
            spaced += any(body[start : start + len(ids)] == ids for start in range(len(body)))
    assert found > max(8, 3 * spaced)
