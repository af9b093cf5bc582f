"""Text that looks like a special token is text, in every part of a passage and in queries."""

import pytest
from tiny_models import TOKENIZERS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from dgr_trainer.data.passages import Passage
from dgr_trainer.identifiers import VIEWS, Identifiers, IdentifierSettings

KINDS = {**TOKENIZERS, "byt5": ByT5Tokenizer}
ALL_VIEWS = IdentifierSettings(views=VIEWS)


def special_texts(tokenizer):
    names = ("bos", "eos", "pad", "unk", "mask", "cls", "sep")
    return sorted({text for name in names if (text := getattr(tokenizer, f"{name}_token")) is not None})


def special_ids(tokenizer):
    return {tokenizer.convert_tokens_to_ids(text) for text in special_texts(tokenizer)}


@pytest.fixture(params=list(KINDS))
def any_tokenizer(request):
    return KINDS[request.param]()


def test_no_part_of_a_passage_holds_one(any_tokenizer):
    identifiers = Identifiers(any_tokenizer, ALL_VIEWS)
    never = special_ids(any_tokenizer) - {any_tokenizer.unk_token_id}
    for special in special_texts(any_tokenizer):
        for text in (special, f"river {special} mountain", f"river{special}mountain", special * 2):
            passage = Passage("p", text, text, (text,), text)
            segments = identifiers.encode_segments([passage])[0]
            for ids in (segments.title, segments.body, *segments.pseudo_queries, segments.docid):
                assert ids and never.isdisjoint(ids), (special, text)
            assert identifiers.decode(segments.body).replace(" ", "").lower() == text.replace(" ", "").lower() or (
                any_tokenizer.unk_token_id in segments.body
            )


def test_no_query_holds_one(any_tokenizer):
    identifiers = Identifiers(any_tokenizer)
    specials = special_ids(any_tokenizer) - {any_tokenizer.unk_token_id}

    def count(query):
        (ids,) = identifiers.encode_prompts([query], "title")
        return sum(token in specials for token in ids)

    for special in special_texts(any_tokenizer):
        for query in (special, f"what is {special} in text", f"a{special}b"):
            assert count(query) == count("what is a river")


def test_special_tokens_of_a_prompt_stay(bpe_tokenizer):
    settings = IdentifierSettings(views=("docid",), prompts={"docid": "<mask> {query}"})
    (ids,) = Identifiers(bpe_tokenizer, settings).encode_prompts(["a <mask> b"], "docid")
    assert ids.count(bpe_tokenizer.mask_token_id) == 1


def test_written_in_full_width(unigram_tokenizer):
    """NFKC makes `</s>` of it, which is a piece of the vocabulary."""
    assert unigram_tokenizer.eos_token_id in unigram_tokenizer("a ＜/s＞ b", add_special_tokens=False)["input_ids"]
    identifiers = Identifiers(unigram_tokenizer, ALL_VIEWS)
    text = "a ＜/s＞ b"
    segments = identifiers.encode_segments([Passage("p", text, text, (text,), text)])[0]
    for ids in (segments.title, segments.body, *segments.pseudo_queries, segments.docid):
        assert ids and unigram_tokenizer.eos_token_id not in ids
    (prompt,) = identifiers.encode_prompts([text], "title")
    assert prompt.count(unigram_tokenizer.eos_token_id) == 1


def test_tokens_that_a_user_added_stay_tokens(bpe_tokenizer):
    import copy

    tokenizer = copy.deepcopy(bpe_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<c1>", "<c2>"]}, replace_extra_special_tokens=False)
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=("docid",)))
    assert identifiers.encode_passage(Passage("p", docid="<c1><c2>")) == tokenizer.convert_tokens_to_ids(
        ["<c1>", "<c2>"]
    )
    assert not identifiers.forbidden_token_ids & set(tokenizer.convert_tokens_to_ids(["<c1>", "<c2>"]))


@pytest.fixture
def spaceless_tokenizer():
    """Characters, spaces left out: nothing that is put into a text separates it."""
    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz<>/@|#+ ", start=3)}
    tokenizer = Tokenizer(models.WordLevel({"</s>": 0, "<pad>": 1, "<unk>": 2, **letters}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


@pytest.mark.parametrize("part", ["title", "text", "pseudo-query", "docid"])
def test_what_cannot_be_told_apart_is_refused_by_passage(spaceless_tokenizer, part):
    values = {"title": "x", "text": "x", "pseudo_queries": ("x",), "docid": "x"}
    text = "< /s>"  # The normaliser makes the special token of it.
    values["pseudo_queries" if part == "pseudo-query" else part] = (text,) if part == "pseudo-query" else text
    settings = IdentifierSettings(views=VIEWS, title_end="t", query_start="q", query_end="u", docid_start="d")
    identifiers = Identifiers(spaceless_tokenizer, settings)
    with pytest.raises(ValueError, match=f"The {part} of passage 'p7' holds text that .* special token '</s>'"):
        identifiers.encode_segments([Passage("p0"), Passage("p7", **values)])
    with pytest.raises(ValueError, match="The text '< /s>' holds text"):
        identifiers.encode(text)


@pytest.mark.parametrize("ends", [False, True])
def test_a_query_that_cannot_be_told_apart_is_refused(spaceless_tokenizer, ends):
    if ends:
        ending = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
        spaceless_tokenizer.backend_tokenizer.post_processor = ending
    identifiers = Identifiers(spaceless_tokenizer, IdentifierSettings(views=("docid",)))
    with pytest.raises(ValueError, match="The query '< /s>' holds text .* special token '</s>'"):
        identifiers.encode_prompts(["x", "< /s>"], "docid")
