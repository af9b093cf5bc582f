"""Views, markers and prompts on byte-level BPE, Unigram and WordPiece tokenizers."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dgr_trainer.data.passages import Passage
from dgr_trainer.identifiers import VIEWS, Identifiers, IdentifierSettings

ALL_VIEWS = IdentifierSettings(views=VIEWS)


def normal(text: str, tokenizer) -> str:
    """The text as far as the tokenizer can restore it: letter case and spaces around punctuation may differ."""
    if tokenizer.sep_token is not None:  # The plain tokenizer lower-cases and splits punctuation off.
        return text.lower().replace(".", " .").replace(" .", ".")
    return text


def test_text_to_ids_to_text(tokenizer, passages):
    identifiers = Identifiers(tokenizer)
    for passage in passages:
        for text in (passage.title, passage.text, *passage.pseudo_queries):
            decoded = identifiers.decode(identifiers.encode(text))
            assert decoded.replace(" ", "") == normal(text, tokenizer).replace(" ", "")
            if tokenizer.sep_token is None:
                assert decoded == text


def test_words_have_the_same_ids_everywhere(tokenizer):
    identifiers = Identifiers(tokenizer)
    river, long_river = identifiers.encode("river"), identifiers.encode("long river in Africa")
    assert identifiers.encode("long") + river + identifiers.encode("in Africa") == long_river


def test_the_memory_of_words_may_be_emptied_by_another_thread(bpe_tokenizer):
    identifiers, text = Identifiers(bpe_tokenizer), "the long river in Africa"
    ids = identifiers.encode(text)
    expected = identifiers.words(text, ids)
    encoder = identifiers._encoder

    class Interrupted(dict):
        def __contains__(self, word):
            encoder._word_ids = {}  # What another thread does when there are too many.
            return super().__contains__(word)

    encoder._word_ids = Interrupted(encoder._word_ids)
    assert identifiers.words(text, ids) == expected


def test_layout_of_a_passage(tokenizer):
    identifiers = Identifiers(tokenizer, ALL_VIEWS)
    passage = Passage("p1", "Mount Everest", "the highest mountain", ("what is the highest", "where is it"), "id 1")
    title, body, pseudo_queries, docid = identifiers.encode_segments([passage])[0]
    ids = identifiers.encode_passage(passage)
    expected = title + list(identifiers.end("title")) + body
    for query in pseudo_queries:
        expected += [*identifiers.prefix("pseudo_query"), *query, *identifiers.end("pseudo_query")]
    assert ids == expected + [*identifiers.prefix("docid"), *docid]
    assert identifiers.text("title", identifiers.target("title", title)) == normal("Mount Everest", tokenizer)
    assert identifiers.text("docid", identifiers.target("docid", docid)) == "id 1"
    assert identifiers.prefix("title") == identifiers.end("docid") == (identifiers.eos_token_id,)
    assert identifiers.pattern("pseudo_query", (5, 6)) == (*identifiers.prefix("pseudo_query"), 5, 6)
    # The separator is the index's to add.
    assert identifiers.eos_token_id not in ids


def test_views_that_are_off_leave_no_trace(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("substring",)))
    passage = Passage("p1", "Nile", "a long river", ("what river",), "d1")
    assert identifiers.encode_passage(passage) == identifiers.encode("a long river")
    docids = Identifiers(bpe_tokenizer, IdentifierSettings(views=("docid",)))
    ids = bpe_tokenizer("p1", add_special_tokens=False)["input_ids"]
    assert docids.encode_passage(Passage("p1", "Nile")) == ids
    assert docids.prefix("docid") == docids.end("docid") == (bpe_tokenizer.eos_token_id,)
    marked = Identifiers(bpe_tokenizer, IdentifierSettings(views=("docid",), docid_start="##"))
    assert marked.encode_passage(Passage("p1", "Nile")) == [*marked.prefix("docid"), *ids]
    assert len(marked.prefix("docid")) == 1 and marked.eos_token_id not in marked.prefix("docid")


def test_no_marker_survives_inside_a_text(tokenizer):
    identifiers = Identifiers(tokenizer, ALL_VIEWS)
    passage = Passage("p1", "a @@ b@@@", "c || d ## e", ("f || g",))
    ids = identifiers.encode_passage(passage)

    def occurrences(pattern):
        return sum(tuple(ids[i : i + len(pattern)]) == pattern for i in range(len(ids)))

    assert occurrences(identifiers.end("title")) == 2  # One closes the title, one the pseudo-query.
    assert occurrences(identifiers.prefix("pseudo_query")) == 1
    assert occurrences(identifiers.prefix("docid")) == 1


def test_prompts_carry_the_reference_markers(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer)
    assert identifiers.prompt(" who  built it ", "title") == " who built it || title || +"
    assert identifiers.prompt("{query}", "substring") == " {query} || body || +"
    assert identifiers.prompt("q", "pseudo_query") == " q || query || +"
    assert identifiers.prompt("q", "docid") == "q"
    (ids,) = identifiers.encode_prompts(["who built it"], "title")
    assert ids == bpe_tokenizer(" who built it || title || +")["input_ids"]
    assert identifiers.encode_prompts([], "title") == []


def test_long_queries_lose_words_and_never_the_marker(tokenizer):
    identifiers = Identifiers(tokenizer, IdentifierSettings(max_query_length=30))
    query = "river mountain " * 60
    (long,) = identifiers.encode_prompts([query], "title")
    (short,) = identifiers.encode_prompts(["river"], "title")
    (empty,) = identifiers.encode_prompts([""], "title")
    assert len(long) == 30
    assert len(short) <= 30
    assert long[-5:] == empty[-5:]
    assert "title" in tokenizer.decode(long)
    with pytest.raises(ValueError, match="max_query_length=3 leaves no room"):
        Identifiers(tokenizer, IdentifierSettings(max_query_length=3)).encode_prompts([query], "title")


def test_word_starts(tokenizer, passages):
    identifiers = Identifiers(tokenizer)
    for passage in passages:
        ids = identifiers.encode(passage.text)
        starts = identifiers.word_starts(passage.text, ids)
        words = passage.text.split()
        assert len(starts) == len(words)
        bounds = [*starts, len(ids)]
        for i, word in enumerate(words):
            assert ids[bounds[i] : bounds[i + 1]] == identifiers.encode(word)


def test_every_token_is_a_word_where_words_are_joined(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer)
    assert identifiers.word_starts("other text", [5, 6, 7]) == [0, 1, 2]


def test_fingerprint_survives_saving_and_distinguishes_tokenizers(
    tokenizer, bpe_tokenizer, unigram_tokenizer, tmp_path
):
    tokenizer.save_pretrained(tmp_path)
    again = Identifiers(AutoTokenizer.from_pretrained(tmp_path))
    assert again.fingerprint == Identifiers(tokenizer).fingerprint
    assert Identifiers(bpe_tokenizer).fingerprint != Identifiers(unigram_tokenizer).fingerprint
    before = Identifiers(again.tokenizer).fingerprint
    again.tokenizer.add_tokens(["<one-more>"])
    assert Identifiers(again.tokenizer).fingerprint != before


def test_padding_and_truncation_state_does_not_change_the_fingerprint(tokenizer):
    before = Identifiers(tokenizer).fingerprint
    tokenizer(["a", "a longer text"], padding=True, truncation=True, max_length=3)
    assert Identifiers(tokenizer).fingerprint == before


def test_forbidden_tokens(bpe_tokenizer, plain_tokenizer):
    assert Identifiers(bpe_tokenizer).forbidden_token_ids == {0, 1, 3, 4}
    plain = Identifiers(plain_tokenizer)
    assert plain.eos_token_id == plain_tokenizer.sep_token_id
    assert plain.eos_token_id not in plain.forbidden_token_ids


def test_settings_round_trip():
    settings = IdentifierSettings(views=["docid", "title"], prompts={"docid": "find: {query}"}, title_end="=>")
    assert IdentifierSettings.from_dict(settings.to_dict()) == settings
    assert settings.views == ("docid", "title")
    assert settings.prompts["docid"] == "find: {query}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": ("titles",)}, "views must be one or more of title, substring"),
        ({"views": ()}, "views must be"),
        ({"views": ("title", "title")}, "views must be"),
        ({"prompts": {"body": "{query}"}}, "prompts for \\['body'\\]"),
        ({"prompts": {"title": "no place"}}, "must contain '{query}' once"),
        ({"title_end": " "}, "title_end is empty"),
        ({"query_start": "@@"}, "query_start and query_end are both"),
        ({"title_end": " ||"}, "title_end and query_start are both ' \\|\\|', so what follows a title would look"),
        ({"views": VIEWS, "docid_start": "||"}, "query_start and docid_start are both"),
        ({"views": VIEWS, "title_end": "##"}, "title_end and docid_start are both"),
        ({"views": ("pseudo_query", "docid"), "docid_start": "@@"}, "query_end and docid_start are both"),
        ({"docid_start": ""}, "docid_start is empty"),
        ({"docid_start": " ", "views": ("docid",)}, "docid_start is empty"),
        ({"max_query_length": 0}, "max_query_length=0 must be a whole number of at least 1"),
        ({"max_query_length": 9.5}, "max_query_length=9.5 must be a whole number"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        IdentifierSettings(**arguments)


def test_markers_that_are_never_mistaken_may_be_equal():
    for views in (("title", "substring"), ("pseudo_query", "docid")):
        assert IdentifierSettings(views=views, title_end="||").title_end == "||"
    assert IdentifierSettings(views=("docid",), docid_start="||").docid_start == "||"


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="Unknown identifier settings: colour"):
        IdentifierSettings.from_dict({"colour": 1})


def test_unknown_view(bpe_identifiers):
    for call in (bpe_identifiers.prefix, bpe_identifiers.end, lambda view: bpe_identifiers.prompt("q", view)):
        with pytest.raises(ValueError, match="'body' is not a view; the views are title, substring"):
            call("body")


def word_tokenizer(**specials) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "code": 1, "</s>": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **specials)


def test_a_tokenizer_without_an_end_is_refused():
    with pytest.raises(ValueError, match="neither an eos_token nor a sep_token.*add_special_tokens"):
        Identifiers(word_tokenizer())


def test_markers_outside_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="turns the marker title_end='@@' into .* unknown tokens"):
        Identifiers(word_tokenizer(eos_token="</s>"))


def test_markers_of_views_that_are_not_used_are_not_needed():
    tokenizer = word_tokenizer(eos_token="</s>")
    for views in (("substring",), ("docid",)):
        assert Identifiers(tokenizer, IdentifierSettings(views=views)).encode("code") == [1]
    for views, marker in ((("pseudo_query",), "query_start"), (("substring", "docid"), "docid_start")):
        with pytest.raises(ValueError, match=f"turns the marker {marker}="):
            Identifiers(tokenizer, IdentifierSettings(views=views))


@pytest.mark.parametrize("marker", ["</s>", "<pad>", "the </s>"])
def test_a_marker_is_no_special_token(bpe_tokenizer, marker):
    with pytest.raises(ValueError, match="turns the marker title_end='.*' into .* special tokens"):
        Identifiers(bpe_tokenizer, IdentifierSettings(title_end=marker))


def test_only_docids_need_no_marker():
    assert IdentifierSettings(views=("docid",)).docid_start == ""
    assert IdentifierSettings(views=("docid",), docid_start="##").docid_start == "##"
    assert IdentifierSettings(views=("title", "docid")).docid_start == IdentifierSettings().docid_start == "##"
    for settings in (IdentifierSettings(views=("docid",)), IdentifierSettings(views=("docid",), docid_start="##")):
        assert IdentifierSettings.from_dict(settings.to_dict()) == settings


def test_a_docid_without_tokens_is_refused(plain_tokenizer):
    identifiers = Identifiers(plain_tokenizer, IdentifierSettings(views=("docid",)))
    with pytest.raises(ValueError, match=r"The docid of passage 'p2', '\\x07', has no tokens"):
        identifiers.encode_segments([Passage("p1", docid="river"), Passage("p2", docid="\x07")])


def test_unused_markers_stay_in_a_text(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("substring",)))
    assert identifiers.decode(identifiers.encode_segments([Passage("p", "", "a @@ b || c ## d")])[0].body) == (
        "a @@ b || c ## d"
    )
