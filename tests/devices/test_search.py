"""Searches, the index and teachers on a device: as on a CPU, with one wait for the device in a step."""

import numpy as np
import pytest
import torch
from devices.host_waits import HostWaits
from retrieval.causal_students import causal_identifiers, make_causal
from teachers.reranker_models import save_cross_encoder
from tiny_models import make_bart, make_t5

from dgr_trainer import CrossEncoderTeacher, GenerativeRetriever, Rankings, SearchSettings
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.index.passage_subset import index_of_passages
from dgr_trainer.index.tensor_index import TensorIndex
from dgr_trainer.retrieval.beam_search import search_views
from dgr_trainer.retrieval.decoder import decoding_way
from dgr_trainer.student.generation_mode import generation_mode

QUERIES = ["who discovered penicillin", "sea", "town buried by the ash of a volcano near Naples"]
LENGTHS = {"substring": 5, "title": 8, "pseudo_query": 8}


def made(name, request):
    if name == "llama":
        identifiers = causal_identifiers()
        return make_causal("llama", identifiers.vocab_size), identifiers
    tokenizer = request.getfixturevalue({"bart": "bpe_tokenizer", "t5": "unigram_tokenizer"}[name])
    return {"bart": make_bart, "t5": make_t5}[name](tokenizer), Identifiers(tokenizer)


@pytest.mark.parametrize("name", ["bart", pytest.param("t5", marks=pytest.mark.slow), "llama"])
def test_a_step_of_a_search_waits_once(name, device, corpus, request):
    model, identifiers = made(name, request)
    model = model.to(device).eval()
    index = FMIndex.from_corpus(corpus, identifiers)
    decoding_way(model)  # Tries the model, once in its life.
    with generation_mode(model) as ready:
        expected = search_views(ready, index, identifiers, QUERIES, LENGTHS, 4, constraint_device="host")
        search_views(ready, index, identifiers, QUERIES, LENGTHS, 4, constraint_device="model")
        waits = HostWaits()
        of_steps = []

        def on_token(step):
            of_steps.append(waits.own())
            waits.places.clear()

        with waits.watching():
            found = search_views(ready, index, identifiers, QUERIES, LENGTHS, 4, on_token, "model")
    for view, of_view in expected.items():
        assert found[view].identifiers == of_view.identifiers
    assert any(any(of_view.identifiers) for of_view in expected.values())
    assert len(of_steps) == 8
    for places in of_steps:
        assert len(places) <= 1, places
    assert any(of_steps)


@pytest.mark.parametrize("layout", ["sorted", "wavelet"])
@pytest.mark.parametrize("hidden", [False, True])
def test_the_index_on_a_device_answers_as_on_the_host(layout, hidden, device):
    rng = np.random.default_rng(0)
    passages = [rng.integers(3, 40, 60).tolist() for _ in range(30)]
    index = FMIndex.build(passages, passage_ids=[f"p{n}" for n in range(30)], vocab_size=40, separator=1,
                          segment_tokens=700, progress=False)  # fmt: skip
    if hidden:
        index = index_of_passages(index, np.arange(0, 30, 2), indexed_share=0.0)
    tensors = TensorIndex(index.segments, device, layout)
    ranges = index.find_batch([passage[7:8] for passage in passages])
    table = np.repeat(np.arange(40)[None], 30, axis=0)
    extended = tensors.extend(torch.from_numpy(ranges).to(device)[:, None], torch.from_numpy(table).to(device))
    assert extended.device.type == device.type
    expected = index.extend(ranges, table)
    assert extended.cpu().numpy().tolist() == expected.tolist()
    assert tensors.counts(extended).cpu().numpy().tolist() == index.counts(expected).tolist()
    listed = tensors.following(torch.from_numpy(ranges).to(device), 200).cpu().numpy()
    for row, passage_ranges in zip(listed, ranges, strict=True):
        following = set(index.continuations(passage_ranges)[0].tolist())
        assert following <= set(row.tolist()) - {40} if hidden else following == set(row.tolist()) - {40}


@pytest.mark.slow
def test_a_retriever_finds_on_a_device_what_it_finds_on_a_cpu(device, corpus, bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    found = []
    for where in (torch.device("cpu"), device):
        model = make_bart(bpe_tokenizer).to(where)
        retriever = GenerativeRetriever(model, identifiers, index, settings=SearchSettings(beam_size=4))
        found.append(retriever.search(QUERIES, k=3))
    for hits, expected in zip(found[1], found[0], strict=True):
        assert [hit.passage_id for hit in hits] == [hit.passage_id for hit in expected]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], rel=1e-3)


def test_a_teacher_scores_on_a_device_as_on_a_cpu(device, corpus, tmp_path):
    folder = save_cross_encoder(tmp_path / "reranker")
    candidates = Rankings({"q": dict.fromkeys(corpus.ids, 0.0)})
    scores = []
    for where in ("cpu", str(device)):
        teacher = CrossEncoderTeacher(str(folder), corpus, progress=False, device=where)
        assert teacher.model.device.type == where.split(":")[0]
        scores.append(teacher.rank({"q": QUERIES[0]}, candidates).to_run()["q"])
    assert scores[1] == pytest.approx(scores[0], rel=1e-3, abs=1e-3) and len(set(scores[0].values())) > 5
