"""A search that asks the index on the model's device finds bit for bit what one that asks the host's finds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval.causal_students import causal_identifiers, make_causal
from tiny_models import make_bart

from dgr_trainer import GenerativeRetriever, SearchSettings
from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifiers import VIEWS, Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex, tensor_index
from dgr_trainer.index.passage_subset import index_of_passages
from dgr_trainer.retrieval import beam_search, device_children, legal_tokens
from dgr_trainer.retrieval.beam_search import search_views
from dgr_trainer.retrieval.device_children import index_on_device
from dgr_trainer.student.generation_mode import generation_mode

QUERIES = ["who discovered penicillin", "sea", "town buried by the ash of a volcano near Naples"]
LENGTHS = {"title": 20, "substring": 6, "pseudo_query": 40, "docid": 12}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _chosen_anew():
    device_children._chosen.clear()


class Steps:
    """Counts how often the device knew the best children, and how often the host was asked after all."""

    def __init__(self, monkeypatch):
        self.known = self.asked = 0
        fetched = device_children.fetched

        def counted(proposals):
            found = fetched(proposals)
            for proposal, children in zip(proposals, found, strict=True):
                self.known += children is not None
                self.asked += proposal is not None and children is None
            return found

        monkeypatch.setattr(beam_search, "fetched", counted)


@pytest.fixture
def steps(monkeypatch):
    return Steps(monkeypatch)


def assert_same_results(model, index, identifiers, beams, lengths=None):
    lengths = lengths or {view: LENGTHS[view] for view in identifiers.views}
    with generation_mode(model) as ready:
        found, expected = (
            search_views(ready, index, identifiers, QUERIES, lengths, beams, constraint_device=where)
            for where in ("model", "host")
        )
    for view, of_view in expected.items():
        assert found[view].identifiers == of_view.identifiers
        assert torch.equal(found[view].first_scores, of_view.first_scores)
    assert any(any(of_view.identifiers) for of_view in expected.values())


def in_segments(index, size):
    """The same passages in segments of at most so many tokens."""
    indptr, tokens = index.extract_batch(range(index.num_passages))
    passages = [part.tolist() for part in np.split(tokens, indptr[1:-1])]
    ids = [f"p{number}" for number in range(len(passages))]
    return FMIndex.build(passages, passage_ids=ids, vocab_size=index.vocab_size, separator=index.separator,
                         segment_tokens=size, progress=False)  # fmt: skip


@pytest.mark.parametrize("layout", ["sorted", pytest.param("wavelet", marks=pytest.mark.slow)])
def test_every_view_is_searched_with_the_same_results(student, every_index, every_view, layout, steps, monkeypatch):
    monkeypatch.setattr(device_children, "fitting_layout", lambda *_: layout)
    assert_same_results(student[0], every_index, every_view, 5)
    assert steps.known and not steps.asked


def test_wide_ranges_are_searched_with_the_same_results(student, long_index, every_view, steps, monkeypatch):
    monkeypatch.setattr(legal_tokens, "LISTED", 20)
    for beams in (2, 12):
        assert_same_results(student[0], long_index, every_view, beams, {"substring": 5, "title": 6})
    assert steps.known > steps.asked


def test_where_the_device_cannot_know_the_host_is_asked(student, long_index, every_view, steps, monkeypatch):
    monkeypatch.setattr(legal_tokens, "LISTED", 3)
    monkeypatch.setattr(legal_tokens, "_TRIED", 1)
    assert_same_results(student[0], long_index, every_view, 6, {"substring": 6, "docid": 6})
    assert steps.asked and steps.known


@pytest.mark.slow
def test_segments_and_hidden_passages_change_nothing(student, long_index, every_view, steps, monkeypatch):
    monkeypatch.setattr(legal_tokens, "LISTED", 40)
    segments = in_segments(long_index, 4000)
    assert segments.num_segments > 2
    chosen = np.arange(0, segments.num_passages, 3)
    for index in (segments, *(index_of_passages(segments, chosen, share) for share in (0.0, 1.0))):
        assert_same_results(student[0], index, every_view, 4, {"substring": 5, "docid": 6})
    assert steps.known > steps.asked


def test_a_view_that_the_corpus_lacks_finds_nothing(bart):
    identifiers = Identifiers(bart[1])
    index = FMIndex.build([[300, 301]], passage_ids=["a"], vocab_size=identifiers.vocab_size,
                          separator=identifiers.eos_token_id, progress=False)  # fmt: skip
    assert_same_results(bart[0], index, identifiers, 3, {"pseudo_query": 5, "substring": 5})


@pytest.mark.parametrize("name", ["llama", pytest.param("qwen3", marks=pytest.mark.slow)])
def test_a_causal_student_finds_the_same(name, corpus, steps):
    identifiers = causal_identifiers(views=VIEWS)
    index = FMIndex.from_corpus(corpus, identifiers)
    assert_same_results(make_causal(name, identifiers.vocab_size), index, identifiers, 4)
    assert steps.known and not steps.asked


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from([0, 4, 512]), st.sampled_from([None, 60]))
def test_the_best_children_are_those_of_the_host(seed, beams, listed, segment_tokens):
    """Also with scores that are equal, as those of models in half precision often are."""
    rng = np.random.default_rng(seed)
    vocab_size = 30
    passages = [rng.integers(3, 3 + rng.integers(1, 26), 25).tolist() for _ in range(12)]
    index = FMIndex.build(passages, passage_ids=[f"p{i}" for i in range(12)], vocab_size=vocab_size, separator=1,
                          segment_tokens=segment_tokens, progress=False)  # fmt: skip
    patterns = [sequence[at : at + 2] for sequence, at in zip(passages, rng.integers(0, 20, 12), strict=True)]
    queries = np.sort(rng.integers(0, 12, 12))[: max(1, beams)]
    queries = np.array([query for number, query in enumerate(queries) if (queries[:number] == query).sum() < beams])
    ids = np.array(patterns)[: len(queries)]
    ranges = index.find_batch(ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(legal_tokens, "LISTED", listed)
        legal = _legal(index, vocab_size, 2 * beams)
        search = beam_search._ViewBeams("substring", legal, 9, 12, beams)
        search.ids, search._queries, search._ranges = ids, queries, ranges
        search.scores = (rng.integers(-9, 0, len(ids)) / 4).astype(np.float32)
        scores = torch.from_numpy((rng.integers(-40, 0, (len(ids), vocab_size + 2)) / 8).astype(np.float32))
        scores[torch.from_numpy(rng.random(scores.shape) < 0.1)] = -torch.inf
        expected = search.children(scores)
        search.move_to(index_on_device(index, CPU, "model", beams))
        (found,) = device_children.fetched([search.propose(scores)])
        if found is None:
            assert listed < 512
            return
    for name in ("rows", "tokens", "totals", "queries", "counts"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()
    assert found.ranges.numpy().tolist() == expected.ranges.tolist()


def _legal(index, vocab_size, best):
    class AllTokens:
        forbidden_token_ids = frozenset({0})

        def end(self, view):
            return ()

        def prefix(self, view):
            return ()

    return legal_tokens.LegalTokens(index, AllTokens(), "substring", best)


def test_the_device_is_chosen_by_kind_setting_and_memory(corpus, bpe_identifiers, monkeypatch):
    index = FMIndex.from_corpus(corpus, bpe_identifiers)
    assert index_on_device(index, CPU, "auto", 5) is None
    assert index_on_device(index, CPU, "host", 5) is None
    assert index_on_device(index, CPU, "model", 5).layout == "sorted"
    assert index_on_device(index, CPU, "model", 5) is index_on_device(index, CPU, "model", 9)
    assert index_on_device(index, CPU, "model", 1 << 30) is None
    # What a GPU would have, on the CPU.
    gpu = _Gpu()
    monkeypatch.setattr(device_children, "TensorIndex", lambda segments, device, layout: layout)
    for free, layout in ((10**9, "sorted"), (12 * index.num_tokens, "wavelet"), (100, None)):
        monkeypatch.setattr(tensor_index, "_memory_limit", lambda device, free=free: free)
        device_children._chosen.clear()
        assert index_on_device(index, gpu, "auto", 5) == layout
        assert index_on_device(index, gpu, "model", 5) == (layout or "wavelet")
        assert index_on_device(index, gpu, "host", 5) is None


class _Gpu:
    type = "cuda"

    def __str__(self):
        return "cuda:7"


def test_at_most_a_quarter_of_a_device_and_half_of_what_is_free(monkeypatch):
    memory = {"cuda:7": (60, 80)}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: memory[str(device)])
    assert tensor_index._memory_limit(_Gpu()) == 20
    memory["cuda:7"] = (10, 80)
    assert tensor_index._memory_limit(_Gpu()) == 5
    assert tensor_index._memory_limit(CPU) is None


@pytest.mark.parametrize("among", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_setting_reaches_the_search(among, corpus, bpe_tokenizer, steps):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings())
    index = FMIndex.from_corpus(corpus, identifiers)
    model = make_bart(bpe_tokenizer)
    ids = list(corpus.ids)[:3] if among else None
    hits = {}
    for where in ("host", "model"):
        retriever = GenerativeRetriever(
            model, identifiers, index, settings=SearchSettings(beam_size=4, constraint_device=where)
        )
        hits[where] = retriever.search(QUERIES, k=5, among=ids)
        assert (steps.known > 0) == (where == "model")
    assert hits["host"] == hits["model"]
    assert among or all(hits["host"])  # Among so few passages, no identifier is likelier than chance.


def test_a_setting_that_is_none_is_refused():
    with pytest.raises(DGRValueError, match="constraint_device='gpu' is none of 'auto', 'host', 'model'"):
        SearchSettings(constraint_device="gpu")
