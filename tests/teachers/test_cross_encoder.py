import json
import shutil

import numpy as np
import pytest
import torch
import torch._dynamo
from teachers.reranker_models import save_cross_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.cross_encoder import SIMLM, CrossEncoderTeacher


@pytest.fixture(scope="module")
def make_model(tmp_path_factory):
    """Saves a tiny random BERT with so many labels; returns its folder."""
    folders = {}

    def make(labels):
        if labels not in folders:
            folders[labels] = save_cross_encoder(tmp_path_factory.mktemp(f"labels{labels}"), labels)
        return folders[labels]

    return make


@pytest.fixture(scope="module")
def candidates(queries, corpus):
    ids = list(corpus.ids)
    return Rankings({id: dict.fromkeys(ids[row : row + 6], 0.0) for row, id in enumerate(queries["query_id"])})


def one_at_a_time(folder, tokenizer, segments):
    # The logits of transformers alone, with no padding at all.
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer(*segments, truncation=True, max_length=128, return_tensors="pt")).logits[0]


def scores_of(rankings):
    return {id: dict(zip(*rankings[id], strict=True)) for id in rankings}


@pytest.mark.parametrize("labels", [1, 2])
def test_scores_are_the_raw_logits_of_each_pair(make_model, plain_tokenizer, corpus, queries, candidates, labels):
    teacher = CrossEncoderTeacher(make_model(labels), corpus, batch_tokens=300, progress=False)
    found = scores_of(teacher.rank(queries, candidates))
    texts = dict(zip(queries["query_id"], queries["query"], strict=True))
    for query_id in list(found)[:4]:
        for passage_id, score in found[query_id].items():
            passage = corpus.get(passage_id)
            pair = (texts[query_id], f"{passage.title}: {passage.text}")
            logits = one_at_a_time(make_model(labels), plain_tokenizer, pair)
            expected = logits[0] if labels == 1 else logits[1] - logits[0]
            assert score == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)
    assert any(not 0 <= score <= 1 for scores in found.values() for score in scores.values())


def test_templates_make_the_input(make_model, plain_tokenizer, corpus):
    candidates = Rankings({"q": {"p01": 0.0, "p09": 0.0}})
    options = {
        ("Query: two wheels\nSentence: " + corpus.get("p09").text,): {"template": "Query: {query}\nSentence: {text}"},
        ("Q two wheels", "Bicycle"): {"query_template": "Q {query}", "passage_template": "{title}"},
    }
    for segments, option in options.items():
        teacher = CrossEncoderTeacher(make_model(1), corpus, progress=False, **option)
        score = scores_of(teacher.rank({"q": "two wheels"}, candidates))["q"]["p09"]
        assert score == pytest.approx(one_at_a_time(make_model(1), plain_tokenizer, segments).item(), rel=1e-4)


def test_batches_and_the_order_of_candidates_do_not_change_scores(make_model, corpus, queries, candidates):
    whole = scores_of(CrossEncoderTeacher(make_model(2), corpus, progress=False).rank(queries, candidates))
    turned = Rankings({id: dict(reversed(scores_of(candidates)[id].items())) for id in reversed(list(candidates))})
    single = scores_of(
        CrossEncoderTeacher(make_model(2), corpus, batch_tokens=1, progress=False).rank(queries, turned)
    )
    for query_id in whole:
        assert single[query_id] == pytest.approx(whole[query_id], rel=1e-4, abs=1e-4)


def test_bfloat16_is_close_and_is_bfloat16(make_model, corpus, queries, candidates):
    exact = scores_of(CrossEncoderTeacher(make_model(1), corpus, progress=False).rank(queries, candidates))
    teacher = CrossEncoderTeacher(make_model(1), corpus, dtype="bfloat16", progress=False)
    assert {parameter.dtype for parameter in teacher.model.parameters()} == {torch.bfloat16}
    rough = scores_of(teacher.rank(queries, candidates))
    errors = torch.tensor([rough[q][p] - exact[q][p] for q in exact for p in exact[q]])
    values = torch.tensor([exact[q][p] for q in exact for p in exact[q]])
    assert 0 < errors.abs().mean() < 0.2 * values.std()


def test_max_length_cuts_the_input(make_model, plain_tokenizer, corpus):
    long = Corpus.from_passages([Passage(id="p", text="river " * 500)])
    for option, length in ((None, 128), (16, 16)):
        teacher = CrossEncoderTeacher(make_model(1), long, max_length=option, progress=False)
        score = scores_of(teacher.rank({"q": "water"}, Rankings({"q": {"p": 0.0}})))["q"]["p"]
        model = AutoModelForSequenceClassification.from_pretrained(make_model(1)).eval()
        inputs = plain_tokenizer("water", "river " * 500, truncation=True, max_length=length, return_tensors="pt")
        assert score == pytest.approx(model(**inputs).logits.item(), rel=1e-4)
    with pytest.raises(ValueError, match="max_length is 129, but .* has positions for 128 tokens"):
        CrossEncoderTeacher(make_model(1), corpus, max_length=129)
    for option, template, special in ((3, None, 3), (2, "{query} {passage}", 2)):
        with pytest.raises(ValueError, match=f"max_length is {option}, but an input of .* has {special} special tok"):
            CrossEncoderTeacher(make_model(1), corpus, max_length=option, template=template)


def test_the_passage_may_come_first(make_model, plain_tokenizer, corpus):
    teacher = CrossEncoderTeacher(
        make_model(1), corpus, passage_template="{title}", passage_first=True, progress=False
    )
    score = scores_of(teacher.rank({"q": "two wheels"}, Rankings({"q": {"p09": 0.0}})))["q"]["p09"]
    expected = one_at_a_time(make_model(1), plain_tokenizer, ("Bicycle", "two wheels")).item()
    assert score == pytest.approx(expected, rel=1e-4)


def test_simlm_reads_title_and_text_or_a_dash(make_model, plain_tokenizer):
    corpus = Corpus.from_passages([Passage("a", "Nile", "a river"), Passage("b", "", "a river " * 200)])
    teacher = CrossEncoderTeacher(make_model(1), corpus, **{**SIMLM, "max_length": 100}, progress=False)
    assert SIMLM["max_length"] == 192
    found = scores_of(teacher.rank({"q": "water"}, Rankings({"q": {"a": 0.0, "b": 0.0}})))["q"]
    model = AutoModelForSequenceClassification.from_pretrained(make_model(1)).eval()
    for passage_id, second in (("a", "Nile: a river"), ("b", "-: " + "a river " * 200)):
        inputs = plain_tokenizer("water", second, truncation=True, max_length=100, return_tensors="pt")
        assert found[passage_id] == pytest.approx(model(**inputs).logits.item(), rel=1e-4)


def test_scores_are_those_of_sentence_transformers(make_model, corpus, queries, candidates):
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="needs the extra sentence-transformers"
    )
    found = scores_of(CrossEncoderTeacher(make_model(1), corpus, progress=False).rank(queries, candidates))
    theirs = sentence_transformers.CrossEncoder(str(make_model(1)), activation_fn=torch.nn.Identity(), device="cpu")
    texts = dict(zip(queries["query_id"], queries["query"], strict=True))
    names = [(query_id, passage_id) for query_id in found for passage_id in found[query_id]]
    pairs = [(texts[q], f"{corpus.get(p).title}: {corpus.get(p).text}") for q, p in names]
    expected = theirs.predict(pairs, show_progress_bar=False)
    assert np.allclose([found[q][p] for q, p in names], expected, atol=1e-3)


def test_a_cache_is_of_one_model(make_model, corpus, queries, candidates, tmp_path, monkeypatch):
    teacher = CrossEncoderTeacher(make_model(1), corpus, cache=tmp_path, progress=False)
    expected = teacher.rank(queries, candidates)
    with monkeypatch.context() as patch:
        patch.setattr(teacher, "score", None)
        assert teacher.rank(queries, candidates) == expected
    for other in (
        CrossEncoderTeacher(make_model(2), corpus, progress=False),
        CrossEncoderTeacher(make_model(1), corpus, max_length=20, progress=False),
        CrossEncoderTeacher(make_model(1), corpus, dtype="bfloat16", progress=False),
        CrossEncoderTeacher(make_model(1), corpus, passage_first=True, progress=False),
        CrossEncoderTeacher(make_model(1), corpus, passage_template="{text}", progress=False),
        CrossEncoderTeacher(make_model(1), corpus, template="{query} {passage}", progress=False),
    ):
        alone = other.rank(queries, candidates)
        other.cache = tmp_path
        assert other.rank(queries, candidates) == alone != expected
    with torch.no_grad():
        list(teacher.model.parameters())[-1].add_(1.0)
    shifted = teacher.rank(queries, candidates)
    assert shifted["q01"].scores == pytest.approx(expected["q01"].scores + 1, abs=1e-5)


def test_a_score_that_is_no_number_is_refused_with_its_pair(make_model, corpus, candidates):
    teacher = CrossEncoderTeacher(make_model(1), corpus, progress=False)
    with torch.no_grad():
        next(teacher.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the score nan to query 'q01' and passage 'p0.'"):
        teacher.rank({"q01": "mountain"}, candidates)


def test_too_little_memory_is_explained(make_model, corpus, candidates, monkeypatch):
    teacher = CrossEncoderTeacher(make_model(1), corpus, progress=False)

    def full(**inputs):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(teacher, "_forward", full)
    with pytest.raises(
        MemoryError, match=r"a batch of 6 inputs of \d+ tokens on cpu. Give a smaller batch_tokens than 2048"
    ):
        teacher.rank({"q01": "mountain"}, candidates)


def test_batches_padded_to_multiples_keep_the_budget(make_model, corpus, queries, candidates):
    """As on accelerators, and for compiled models."""
    expected = scores_of(CrossEncoderTeacher(make_model(1), corpus, progress=False).rank(queries, candidates))
    teacher = CrossEncoderTeacher(make_model(1), corpus, batch_tokens=300, progress=False)
    teacher._pad_to = 8
    forward, shapes = teacher._forward, set()

    def recorded(**inputs):
        shapes.add(tuple(inputs["input_ids"].shape))
        return forward(**inputs)

    teacher._forward = recorded
    found = scores_of(teacher.rank(queries, candidates))
    assert all(found[query_id] == pytest.approx(expected[query_id], rel=1e-4, abs=1e-4) for query_id in expected)
    assert len(shapes) > 3
    assert all(length % 8 == 0 and (size == 1 or size * length <= 300) for size, length in shapes)


@pytest.mark.slow
def test_compiled_models_score_the_same_and_are_compiled_once(make_model, corpus, queries, candidates):
    plain = scores_of(CrossEncoderTeacher(make_model(1), corpus, progress=False).rank(queries, candidates))
    teacher = CrossEncoderTeacher(make_model(1), corpus, compile=True, progress=False)
    forward, shapes = teacher._forward, set()

    def recorded(**inputs):
        shapes.add(tuple(inputs["input_ids"].shape))
        return forward(**inputs)

    teacher._forward = recorded
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for teacher.batch_tokens in (400, 250, 130, 60):
        compiled = scores_of(teacher.rank(queries, candidates))
        for query_id in plain:
            assert compiled[query_id] == pytest.approx(plain[query_id], rel=1e-3, abs=1e-3)
    # Sizes are variables of the compiled code; only a batch of one may have code of its own.
    assert len(shapes) > 10 and {size for size, _ in shapes} > {1, 2, 4}
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def test_folders_of_sentence_transformers(make_model, corpus, candidates, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(make_model(1), folder)
    whole = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    (folder / "modules.json").write_text(json.dumps([whole]))
    assert len(CrossEncoderTeacher(folder, corpus, progress=False).rank({"q01": "x"}, candidates)["q01"].scores) == 6
    second = {"idx": 1, "name": "1", "path": "1_LogitScore", "type": "sentence_transformers.x.LogitScore"}
    (folder / "modules.json").write_text(json.dumps([whole, second]))
    with pytest.raises(ValueError, match="consists of the sentence-transformers modules Transformer, LogitScore"):
        CrossEncoderTeacher(folder, corpus)
    (folder / "modules.json").write_text("[")
    with pytest.raises(ValueError, match="modules.json is damaged: "):
        CrossEncoderTeacher(folder, corpus)


def test_a_tokenizer_without_padding(make_model, corpus, queries, candidates, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(make_model(1), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    expected = CrossEncoderTeacher(make_model(1), corpus, progress=False).rank(queries, candidates)
    assert CrossEncoderTeacher(folder, corpus, progress=False).rank(queries, candidates) == expected


def test_more_labels_are_refused(make_model, corpus):
    with pytest.raises(ValueError, match="has 3 labels, so none of them is the score of a pair"):
        CrossEncoderTeacher(make_model(3), corpus)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype is 'int8', but the model can be loaded as one of"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"template": "{query}"}, "has no {passage} or {title} or {text}"),
    ],
)
def test_bad_settings_are_refused_before_the_model_is_loaded(corpus, options, message):
    with pytest.raises(ValueError, match=message):
        CrossEncoderTeacher("no/such-model", corpus, **options)


def test_candidates_are_needed(make_model, corpus):
    with pytest.raises(ValueError, match="CrossEncoderTeacher is a reranker: .* Give candidates"):
        CrossEncoderTeacher(make_model(1), corpus, progress=False).rank({"q": "water"})
