"""Text that a tokenizer does not know is counted, and refused where it is most of the text."""

import logging
import re

import pytest
from languages import KINDS, LANGUAGES, passages_in, tokenizer_for
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.identifiers import VIEWS, Identifiers, IdentifierSettings
from dgr_trainer.identifiers.unknown_text import UnknownText, check_script
from dgr_trainer.index import FMIndex
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.pairs import generation_pairs

TITLES = {"p1": "東京", "p2": "大阪", "p3": "river", "p4": "mountain"}
DOCIDS = IdentifierSettings(views=("docid",))


def counted(tokenizer, passages, views=("docid",)):
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=views))
    unknown = UnknownText(identifiers)
    unknown.add(passages, identifiers.encode_segments(passages))
    return unknown


def numbers(text):
    return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text.split("for example")[0])]


def test_unknown_characters_and_passages_that_become_identical(unigram_tokenizer, caplog):
    counted(unigram_tokenizer, [Passage(id, docid=title) for id, title in TITLES.items()]).report()
    lost, same = (record.getMessage() for record in caplog.records)
    # 4 of 2 + 2 + 5 + 8 characters, in 2 of 4 docids, each one unknown token.
    assert numbers(lost.replace("(23.5%)", "")) == [4, 17, 2, 4, 2]
    assert "for example in the docid of passage 'p1': '東京'" in lost
    assert "2 of 4 passages have the same tokens as another passage for a different docid" in same
    assert "'東京' of 'p1' and '大阪' of 'p2'" in same


def test_most_of_it_is_refused(unigram_tokenizer):
    passages = [Passage(id, docid=title) for id, title in list(TITLES.items())[:2]]
    message = "does not know 4 of 4 characters in the docids of 2 passages, for example in the docid of passage 'p1'"
    with pytest.raises(ValueError, match=message):
        counted(unigram_tokenizer, passages).report()


@pytest.mark.parametrize("part", ["title", "text", "pseudo_queries", "docid"])
def test_each_part_is_counted_by_itself(unigram_tokenizer, part):
    values = {"title": "the river", "text": "a long river " * 20, "pseudo_queries": ("the river",), "docid": "river"}
    values[part] = ("日本の川",) if part == "pseudo_queries" else "日本の川"
    passages = [Passage("p", **values)]
    name = {"pseudo_queries": "pseudo-queries"}.get(part, f"{part}s")
    with pytest.raises(ValueError, match=f"4 of 4 characters in the {name} of 1 passages"):
        counted(unigram_tokenizer, passages, VIEWS).check()
    view = {"text": "substring", "pseudo_queries": "pseudo_query"}.get(part, part)
    others = tuple(one for one in VIEWS if one != view)
    counted(unigram_tokenizer, passages, others).check()  # What no view uses does not matter.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_tokenizer_knows_what_it_was_trained_on_and_not_other_scripts(language, kind, caplog):
    tokenizer = tokenizer_for(language, kind)
    views = ("title", "substring")
    counted(tokenizer, passages_in(language), views).report()
    assert not caplog.records
    other = "thai" if language != "thai" else "arabic"
    unknown = counted(tokenizer, passages_in(other), views)
    if kind == "byte_bpe":
        unknown.report()
        assert not caplog.records
    else:
        with pytest.raises(ValueError, match="The tokenizer does not know .* characters in the titles of 10 passages"):
            unknown.report()


def test_bytes_know_everything(caplog):
    for language in LANGUAGES:
        counted(ByT5Tokenizer(), passages_in(language), ("title", "substring", "docid")).report()
    assert not caplog.records


def test_characters_that_are_dropped_without_an_unknown_token(caplog):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["</s>", "<pad>"], show_progress=False)
    tokenizer.train_from_iterator(["a long river and a high mountain of the plains"] * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")
    assert fast("a river 東京", add_special_tokens=False)["input_ids"] == fast(
        "a river", add_special_tokens=False
    )["input_ids"]  # fmt: skip
    unknown = counted(fast, [Passage("p", "", "a river 東京"), Passage("q", "", "a high river")], ("substring",))
    unknown.report()
    assert "does not know 2 of 18 characters (11.1%) in the texts of 1 of 2 passages" in caplog.text


@pytest.fixture
def mixed():
    return Corpus.from_passages(Passage(id, title, "a river", docid=title) for id, title in TITLES.items())


@pytest.fixture
def foreign():
    return Corpus.from_passages(Passage(f"p{n}", title, "a river") for n, title in enumerate(["東京", "大阪", "京都"]))


@pytest.mark.parametrize("where", ["index", "folder", "add", "pairs", "judged pairs", "collator"])
def test_said_once_wherever_passages_are_tokenised(where, unigram_tokenizer, mixed, foreign, tmp_path, caplog):
    titles = Identifiers(unigram_tokenizer, IdentifierSettings(views=("title",)))

    def tokenise(corpus):
        if where == "index":
            FMIndex.from_corpus(corpus, titles, progress=False)
        elif where == "folder":
            FMIndex.from_corpus(corpus, titles, folder=tmp_path / "index", segment_tokens=5, progress=False)
        elif where == "add":
            first = FMIndex.from_corpus(Corpus.from_passages([Passage("first", "river", "x")]), titles, progress=False)
            first.add_corpus(corpus, titles, progress=False)
        elif where == "pairs":
            qrels = {"q": {corpus[0].id: 1}}
            generation_pairs(corpus, titles, {"q": "river"}, qrels, progress=False)
        elif where == "judged pairs":
            qrels = {"q": dict.fromkeys(corpus.ids, 1), "r": {corpus[0].id: 1}}
            arguments = {"samples_per_passage": 0, "progress": False}
            generation_pairs(corpus, titles, {"q": "river", "r": "mountain"}, qrels, **arguments)
        else:
            DistillationCollator(unigram_tokenizer, {passage.id: passage.title for passage in corpus}, None)

    with caplog.at_level(logging.WARNING):
        tokenise(mixed)
    said = [record.getMessage() for record in caplog.records]
    assert sum("does not know 4 of 17 characters" in message for message in said) == 1
    assert sum("2 of 4 passages have the same tokens" in message for message in said) == 1
    with pytest.raises(ValueError, match="The tokenizer does not know 6 of 6 characters in the"):
        tokenise(foreign)


def test_a_sample_is_looked_at_before_long_work(unigram_tokenizer, foreign, monkeypatch):
    titles = Identifiers(unigram_tokenizer, IdentifierSettings(views=("title",)))
    monkeypatch.setattr("dgr_trainer.index.corpus_texts._tokenised", None)
    with pytest.raises(ValueError, match="does not know 6 of 6"):
        FMIndex.from_corpus(foreign, titles, progress=False)
    check_script([Passage(str(n), "river") for n in range(2500)], titles)


def test_markers_are_removed_on_purpose(bpe_tokenizer, caplog):
    passages = [Passage("p1", "@@", "|| ##", ("||",)), Passage("p2", "|| River @@", "a long river", ("@@", "## sea"))]
    counted(bpe_tokenizer, passages, ("title", "substring", "pseudo_query")).report()
    assert not caplog.records


def test_unknown_text_beside_markers_is_counted_without_them(unigram_tokenizer):
    passages = [Passage("p1", "the river", "@@ 東京 the river")]
    unknown = counted(unigram_tokenizer, passages, ("title", "substring"))
    assert unknown._parts["text"].unknown_characters == 2
