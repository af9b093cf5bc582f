"""Stop words: a list for English, and frequent words of the corpus in other languages."""

import pytest
from languages import LANGUAGES, passages_in, tokenizer_for

from dgr_trainer.data.passages import Passage
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.training.stop_words import StopWords


def stop_words(language, kind="unigram"):
    return StopWords(passages_in(language), Identifiers(tokenizer_for(language, kind)))


def test_english_has_its_list(bpe_identifiers, passages):
    words = StopWords(passages, bpe_identifiers)
    assert all(word in words for word in ("the", "The", "of", "you"))
    assert not any(word in words for word in ("river", "the,", "der"))
    # Also words that are in every passage, and a list for a corpus without words.
    assert "river" not in StopWords([Passage(str(n), "", "the river of the town") for n in range(9)], bpe_identifiers)
    assert "the" in StopWords([], bpe_identifiers) and "the" in StopWords([Passage("p", "title")], bpe_identifiers)


@pytest.mark.parametrize(
    ("language", "frequent", "rare"),
    [
        ("german", ["die", "Der", "und", "in"], ["Kuckuck", "Zugspitze", "was", "an"]),
        ("arabic", ["في", "من"], ["الجمل", "النيل"]),
        ("japanese", ["は", "の", "に"], ["富士山", "酢"]),
        ("chinese", ["的"], ["熊", "纸"]),
    ],
)
def test_frequent_words_of_other_languages(language, frequent, rare):
    words = stop_words(language)
    assert [word for word in frequent if word not in words] == []
    assert [word for word in rare if word in words] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_by_counting_passages(language):
    """With byte-level tokens, against a count over all passages."""
    identifiers = Identifiers(tokenizer_for(language, "byte_bpe"))
    words = StopWords(passages_in(language), identifiers)
    texts = []
    for passage in passages_in(language):
        (ids,) = identifiers.encode_substrings([passage.text])
        found = identifiers.words(passage.text, ids)
        texts.append({found.piece(n, 1).strip("。、，.,").lower() for n in range(len(found.spans))})
    for word in set().union(*texts):
        assert (word in words) == (sum(word in text for text in texts) >= 3), word


def test_a_large_corpus_is_sampled(bpe_identifiers):
    class Counting(list):
        read = 0

        def __getitem__(self, number):
            self.read += 1
            return super().__getitem__(number)

    many = Counting(Passage(str(n), "", f"der Fluss {n}") for n in range(9001))
    assert "der" in StopWords(many, bpe_identifiers)
    assert 1500 < many.read <= 2000
