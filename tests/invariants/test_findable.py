"""What the collator trains, the index holds and the search finds: one string, one sequence of ids, one score."""

import copy

import pytest
import torch
from tiny_models import TOKENIZERS, make_bart, make_t5
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import VIEWS, Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.pairs import generation_pairs

QUERY = "where is the river || title || + </s>"
# Markers and special tokens in strings, beside strings that are a part of them.
STRINGS = [
    "river ## mountain", "mountain", "## mountain", "a || b", "b", "a", "b @@", "b @@ c", "c", "@@ c", "||", "##",
    "@@", "river</s>sea", "sea", "</s>", "</s></s> town", "town", "<pad>", "<unk> town", "<s> the <mask> of <pad>",
    "[SEP] river", "[SEP]", "river [PAD] [CLS]", "[UNK]", "<extra_id_0>",
    "<extra_id_0><extra_id_1>", "a <extra_id_1> b", "en_XX", "river en_XX",
]  # fmt: skip


def with_added_tokens():
    """Sentinels and language codes, which are special tokens by name only."""
    tokenizer = copy.deepcopy(TOKENIZERS["bpe"]())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>", "<extra_id_1>", "en_XX"]})
    return tokenizer


@pytest.fixture(params=[*TOKENIZERS, "added"])
def student(request):
    tokenizer = with_added_tokens() if request.param == "added" else TOKENIZERS[request.param]()
    return (make_t5 if request.param == "unigram" else make_bart)(tokenizer), tokenizer


def known(tokenizer):
    """Strings without unknown tokens, which are never found."""
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=("docid",)))
    ids = {string: tuple(identifiers.encode_segments([Passage("p", docid=string)])[0].docid) for string in STRINGS}
    kept = {string: ids[string] for string in STRINGS if tokenizer.unk_token_id not in ids[string]}
    return {f"p{n}": string for n, string in enumerate(kept)}


def log_likelihood(model, prompt, ids):
    read = torch.tensor([[model.config.decoder_start_token_id, *ids[:-1]]])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=read, use_cache=False).logits[0]
    return logits.log_softmax(-1)[range(len(ids)), list(ids)].sum().item()


@pytest.mark.parametrize("given", ["tokenizer", "identifiers"])
def test_each_docid_has_its_own_score(student, given):
    model, tokenizer = student
    strings = known(tokenizer)
    assert len(strings) > 12
    docids = Identifiers(tokenizer, IdentifierSettings(views=("docid",)))
    rankings = Rankings.from_order({"q": list(strings)})
    qrels = {"q": {"p0": 1}}
    collator = DistillationCollator(docids if given == "identifiers" else tokenizer, strings, rankings, qrels)
    matched = collator.source.matched("q", list(strings), 1)
    trained = {passage_id: found[0].ids for passage_id, found in zip(strings, matched, strict=True)}
    assert len(set(trained.values())) == len(strings)
    corpus = Corpus.from_passages(Passage(id, "a title", docid=string) for id, string in strings.items())
    index = FMIndex.from_corpus(corpus, docids, progress=False)
    assert [index.count(docids.pattern("docid", ids)) for ids in trained.values()] == [1] * len(strings)
    pairs = generation_pairs(corpus, docids, {"q": QUERY}, {"q": dict.fromkeys(strings, 1)}, titles_per_query=1,
                             samples_per_passage=0, progress=False)  # fmt: skip
    assert sorted(tuple(row["labels"]) for row in pairs) == sorted(trained.values())
    retriever = GenerativeRetriever(
        model, docids, index, settings=SearchSettings(beam_size=len(strings)),
        scoring=ScoringSettings(kind="log_likelihood"),
    )  # fmt: skip
    (prompt,) = docids.encode_prompts([QUERY], "docid")
    assert {tuple(row["input_ids"]) for row in pairs} == {tuple(prompt)}
    batch = collator([{"query_id": "q", "query": QUERY}])
    assert batch["input_ids"][0, 0].tolist() == prompt
    expected = {passage_id: log_likelihood(model, prompt, ids) for passage_id, ids in trained.items()}
    hits = retriever.search(QUERY, k=len(strings))[0]
    assert {hit.passage_id: hit.score for hit in hits} == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert [hit.passage_id for hit in hits] == sorted(expected, key=expected.__getitem__, reverse=True)
    # With qrels, the passage's own docid is what a search for candidates keeps of it.
    candidates = retriever.candidates({"q": QUERY}, k=1, relevant={"q": dict.fromkeys(strings, 1)})["q"]
    kept = {candidate.passage_id: {one.ids for one in candidate.identifiers} for candidate in candidates}
    assert kept == {passage_id: {ids} for passage_id, ids in trained.items()}


MESSAGE = "The docid of passage 'p2', '{}', holds the marker {}="


@pytest.mark.parametrize(
    ("docid", "marker"), [("river ## sea", "docid_start"), ("a || b", "query_start"), ("## sea", "docid_start")]
)
def test_beside_other_views_a_docid_with_a_marker_is_refused_everywhere(bpe_tokenizer, docid, marker):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=VIEWS))
    # Byte-level tokenizers know a marker only behind a space.
    docid = f" {docid}" if docid.startswith("##") else docid
    strings = {"p1": "a river", "p2": docid, "p3": "b"}
    corpus = Corpus.from_passages(Passage(id, "x", docid=string) for id, string in strings.items())
    import re

    message = re.escape(MESSAGE.format(docid, marker))
    with pytest.raises(ValueError, match=message):
        FMIndex.from_corpus(corpus, identifiers, progress=False)
    with pytest.raises(ValueError, match=message):
        generation_pairs(corpus, identifiers, progress=False)
    with pytest.raises(ValueError, match=message):
        DistillationCollator(identifiers, strings, None)
    first = FMIndex.from_corpus(Corpus.from_passages([Passage("p0", "x")]), identifiers, progress=False)
    with pytest.raises(ValueError, match=message):
        first.add_corpus(corpus, identifiers, progress=False)
    # As advised: another marker.
    others = IdentifierSettings(views=VIEWS, docid_start="+ the", query_start="+ of")
    other = Identifiers(bpe_tokenizer, others)
    index = FMIndex.from_corpus(corpus, other, progress=False)
    for segments in other.encode_segments(list(corpus)):
        assert index.count(other.pattern("docid", other.target("docid", segments.docid))) == 1


@pytest.mark.parametrize("text", ["river ## sea || town @@ hill", "</s> river <pad> </s>", "@@", "<mask> || </s> b"])
def test_other_parts_are_the_same_in_the_index_and_in_pairs(bpe_tokenizer, text):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=VIEWS, max_query_length=128))
    passages = [Passage("p1", f"title {text}", f"text {text} words", (f"query {text} end", text), "d1"),
                Passage("p2", "other title", "other words", ("sea",), "d2")]  # fmt: skip
    corpus = Corpus.from_passages(passages)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    qrels = {"q": {"p1": 1, "p2": 1}}
    pairs = generation_pairs(corpus, identifiers, {"q": text}, qrels, samples_per_passage=3, progress=False)
    prompts = {view: identifiers.encode_prompts([text], view)[0] for view in VIEWS}
    seen = set()
    for row in pairs:
        view = next((view for view, ids in prompts.items() if ids == row["input_ids"]), None)
        assert row["labels"].count(identifiers.eos_token_id) == 1
        assert row["input_ids"].count(identifiers.eos_token_id) == 1
        if view is not None:
            ids = row["labels"] if view == "docid" else row["labels"][:-1]
            assert index.count(identifiers.pattern(view, ids)) >= 1
            seen.add(view)
    assert seen == set(VIEWS)
    retriever = GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, settings=SearchSettings(beam_size=4))
    for hit in retriever.search(text, k=2)[0]:
        for identifier in hit.identifiers:
            assert index.count(identifiers.pattern(identifier.view, identifier.ids)) == identifier.count


def test_strings_need_no_markers_in_the_vocabulary():
    """Semantic ids over a vocabulary of codes and words."""
    words = ["</s>", "<pad>", "<unk>", "c1", "c2", "c3", "which", "river"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    strings = {"p1": "c1 c2", "p2": "c1 c3", "p3": "c2"}
    collator = DistillationCollator(fast, strings, None, {"q": {"p2": 1}})
    batch = collator([{"query_id": "q", "query": "which river"}])
    assert batch["labels"].tolist() == [[3, 5, 0]]
    docids = Identifiers(fast, IdentifierSettings(views=("docid",)))
    corpus = Corpus.from_passages(Passage(id, "x", docid=string) for id, string in strings.items())
    index = FMIndex.from_corpus(corpus, docids, progress=False)
    retriever = GenerativeRetriever(
        make_bart(fast), docids, index, settings=SearchSettings(beam_size=3),
        scoring=ScoringSettings(kind="log_likelihood"),
    )  # fmt: skip
    assert {hit.passage_id for hit in retriever.search("which river")[0]} == set(strings)
    with pytest.raises(ValueError, match="turns the marker title_end='@@' into .* unknown tokens"):
        Identifiers(fast)
    Identifiers(fast, IdentifierSettings(views=("substring",)))


def test_an_index_with_the_marker_of_older_versions(bpe_tokenizer):
    corpus = Corpus.from_passages([Passage("p1", "x", docid="river"), Passage("p2", "x", docid="sea")])
    older = Identifiers(bpe_tokenizer, IdentifierSettings(views=("docid",), docid_start="##"))
    newer = Identifiers(bpe_tokenizer, IdentifierSettings(views=("docid",)))
    old_index, new_index = (FMIndex.from_corpus(corpus, one, progress=False) for one in (older, newer))
    settings = {"settings": SearchSettings(beam_size=2), "scoring": ScoringSettings(kind="log_likelihood")}
    model = make_bart(bpe_tokenizer)
    old, new = (
        GenerativeRetriever(model, one, index, **settings).search("where", k=2)[0]
        for one, index in ((older, old_index), (newer, new_index))
    )
    assert old == new and len(old) == 2
    with pytest.raises(ValueError, match="Every docid of the index begins with '##'.*docid_start='##'"):
        GenerativeRetriever(model, newer, old_index, **settings)
    with pytest.raises(ValueError, match="The index holds no docid_start='##'"):
        GenerativeRetriever(model, older, new_index, **settings)


def test_an_index_without_a_view_is_refused(bpe_tokenizer):
    corpus = Corpus.from_passages([Passage("p1", "river", "a long river")])
    bodies = FMIndex.from_corpus(
        corpus, Identifiers(bpe_tokenizer, IdentifierSettings(views=("substring",))), progress=False
    )
    for views, name in ((("title",), "title_end"), (("substring", "docid"), "docid_start")):
        with pytest.raises(ValueError, match=f"The index holds no {name}="):
            bodies.check_tokenizer(Identifiers(bpe_tokenizer, IdentifierSettings(views=views)))
