"""Texts encoded word by word from memory have the ids that the tokenizer gives them as a whole."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import tokenizer_for
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AddedToken, PreTrainedTokenizerFast

from dgr_trainer.identifiers import remembered_words
from dgr_trainer.identifiers.remembered_words import RememberedWords
from dgr_trainer.identifiers.text_encoder import TextEncoder

SIGNS = st.sampled_from("ab Z19'.,-_<>|/\\éß½東ーไ\u0301\u00a0\u200b¨ﬁ😀")
TEXTS = st.text(SIGNS, max_size=40).map(lambda text: " ".join(text.split()))


def remembered(encoder):
    return RememberedWords(encoder.raw, encoder._backend, encoder.space, encoder.special.count)


@pytest.fixture(scope="module", params=["bpe", "unigram", "wordpiece", "german unigram", "lstrip"])
def encoder(request, bpe_tokenizer, unigram_tokenizer):
    if request.param == "wordpiece":
        words = ["[UNK]", "[SEP]", *"abz19éß'.,-", *(f"##{letter}" for letter in "abz19éß"), "ab", "##ab"]
        backend = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
        backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        return TextEncoder(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="[SEP]"))
    if request.param == "german unigram":
        return TextEncoder(tokenizer_for("german", "unigram"))
    if request.param == "lstrip":  # As BART's mask.
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe_tokenizer.backend_tokenizer, eos_token="</s>")
        tokenizer.add_tokens([AddedToken("<a>", lstrip=True, normalized=True), AddedToken("Zab", normalized=True)])
        return TextEncoder(tokenizer)
    return TextEncoder({"bpe": bpe_tokenizer, "unigram": unigram_tokenizer}[request.param])


@settings(max_examples=300)
@given(texts=st.lists(TEXTS, max_size=3))
def test_texts_have_the_ids_of_their_words(encoder, texts):
    words = remembered_of(encoder)
    assert words.exact
    for text, ids in zip(texts, words.encode(texts), strict=True):
        if ids is not None:
            assert [ids] == encoder.raw([encoder.space + text] if text else [""])


_made = {}


def remembered_of(encoder):
    if id(encoder) not in _made:
        _made[id(encoder)] = remembered(encoder)
    return _made[id(encoder)]


def test_plain_text_is_remembered(encoder):
    assert None not in remembered_of(encoder).encode(["ab ab 19", "", "a-b, ab."])


def backend_with(pre_tokenizer, normalizer=None):
    alphabet = ["<unk>", "</s>", *map(chr, range(0x21, 0x7F)), " ", "▁", "a b", "a▁b"]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(alphabet)}, unk_token="<unk>"))
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


@pytest.mark.parametrize(
    "tokenizer",
    [
        backend_with(None),
        backend_with(pre_tokenizers.Split(Regex("[a-z] ?[a-z]"), "isolated")),  # Joins letters across a space.
        backend_with(pre_tokenizers.Split(Regex("x(?= y)|."), "isolated"), normalizers.Replace("1 2", "12")),
    ],
    ids=["not divided", "divided across spaces", "normalised across spaces"],
)
def test_a_tokenizer_that_looks_across_spaces_is_not_anticipated(tokenizer):
    words = remembered(TextEncoder(tokenizer))
    assert not words.exact
    assert words.encode(["a b"]) == [None]


def test_an_added_token_with_a_space_is_not_anticipated(bpe_tokenizer):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe_tokenizer.backend_tokenizer, eos_token="</s>")
    tokenizer.add_tokens(["new york"])
    assert not remembered(TextEncoder(tokenizer)).exact


def test_what_changes_with_its_surroundings_is_left_to_the_tokenizer(bpe_tokenizer):
    words = remembered(TextEncoder(bpe_tokenizer))
    assert words.encode(["a 東京 b", "a </s> b", "a \u0301b", "a ¨ b", "\ue000"]) == [None] * 5


def test_memory_is_bounded(bpe_tokenizer, monkeypatch):
    monkeypatch.setattr(remembered_words, "_MOST_WORDS", 3)
    encoder = TextEncoder(bpe_tokenizer)
    words = remembered(encoder)
    for text in ("one two", "three four one", "one five six seven eight", "", "two one", "three", "a </s>", "two a"):
        ids = encoder.raw([encoder.space + text if text else ""])
        assert words.encode([text]) == ([None] if "</s>" in text else ids)
        assert len(words._memory.table) == len(words._memory.sizes) <= 3


def test_words_whose_encoding_was_interrupted_are_encoded_next_time(bpe_tokenizer, monkeypatch):
    words = remembered(encoder := TextEncoder(bpe_tokenizer))
    expected = encoder.raw([f"{encoder.space}one two"])

    def interrupted(texts):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(words, "_raw", interrupted)
        words.encode(["one two"])
    assert words.encode(["one two"]) == expected


def test_each_thread_has_its_own_memory(bpe_tokenizer):
    words = remembered(encoder := TextEncoder(bpe_tokenizer))
    texts = [" ".join(f"w{number % 97}x{number % 89}" for number in range(start, start + 50)) for start in range(400)]
    expected = encoder.raw([encoder.space + text for text in texts])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: words.encode([text])[0], texts))
    assert found == expected and not len(words._memory.table)


def test_copies_have_an_empty_memory(bpe_tokenizer):
    encoder = TextEncoder(bpe_tokenizer)
    encoder.encode(["a river"] * 300)
    copied = copy.deepcopy(encoder)
    assert len(encoder._words._memory.table) and copied._words.exact and not len(copied._words._memory.table)
    assert copied.encode(["a river", "the sea"] * 150) == encoder.encode(["a river", "the sea"] * 150)


def test_large_batches_are_remembered_and_give_the_same_ids_and_errors(bpe_tokenizer):
    small, large = TextEncoder(bpe_tokenizer), TextEncoder(bpe_tokenizer)
    texts = [f"river {n}  of </s>the  東京 {n * n}" if n % 3 else f"plain {n}" for n in range(300)]
    assert large.encode(texts) == [small.encode([text])[0] for text in texts]
    assert large._words is not None and large._words.exact and small._words is None
