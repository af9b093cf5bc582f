import sys

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from dgr_trainer.corpus import Corpus, Passage
from dgr_trainer.rankings import Rankings
from dgr_trainer.teachers.cross_encoder import CrossEncoderTeacher

pytest.importorskip("sentence_transformers", reason="needs the extra cross-encoder")


@pytest.fixture(scope="module")
def make_model(plain_tokenizer, tmp_path_factory):
    """Saves a tiny random BERT with so many labels; returns its folder."""
    folders = {}

    def make(labels):
        if labels not in folders:
            torch.manual_seed(labels)
            config = BertConfig(
                vocab_size=len(plain_tokenizer),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=128,
                num_labels=labels,
                initializer_range=1.0,  # random scores that differ clearly
                pad_token_id=plain_tokenizer.pad_token_id,
            )
            folders[labels] = tmp_path_factory.mktemp(f"labels{labels}")
            BertForSequenceClassification(config).save_pretrained(folders[labels])
            plain_tokenizer.save_pretrained(folders[labels])
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
    teacher = CrossEncoderTeacher(make_model(labels), corpus, batch_size=5, progress=False)
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
    single = scores_of(CrossEncoderTeacher(make_model(2), corpus, batch_size=1, progress=False).rank(queries, turned))
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


def test_k_cuts_and_queries_without_candidates_get_an_empty_list(make_model, corpus, queries, candidates):
    teacher = CrossEncoderTeacher(make_model(1), corpus, progress=False)
    asked = {"q01": "mountain", "other": "nothing"}
    full, cut = teacher.rank(asked, candidates), teacher.rank(asked, candidates, k=2)
    assert cut["q01"].passage_ids == full["q01"].passage_ids[:2]
    assert cut["other"].passage_ids == ()


def test_a_log_goes_on_where_it_stopped(make_model, corpus, queries, candidates, tmp_path, monkeypatch):
    monkeypatch.setattr("dgr_trainer.teachers.cross_encoder._BATCHES_AT_ONCE", 1)
    teacher = CrossEncoderTeacher(make_model(1), corpus, batch_size=12, progress=False)
    expected = teacher.rank(queries, candidates)
    predict, calls = teacher.model.predict, []

    def failing(inputs, **options):
        calls.append(len(inputs))
        if sum(calls) == 36:
            raise KeyboardInterrupt
        return predict(inputs, **options)

    monkeypatch.setattr(teacher.model, "predict", failing)
    with pytest.raises(KeyboardInterrupt):
        teacher.rank(queries, candidates, log=tmp_path / "scores.jsonl")
    assert calls == [12, 12, 12]
    assert teacher.rank(queries, candidates, log=tmp_path / "scores.jsonl") == expected
    assert sum(calls) == 36 + 48
    assert teacher.rank(queries, candidates, log=tmp_path / "scores.jsonl") == expected
    assert sum(calls) == 36 + 48
    wider = Rankings({"q01": {**scores_of(candidates)["q01"], "p24": 0.0}})
    assert len(teacher.rank({"q01": queries["query"][0]}, wider, log=tmp_path / "scores.jsonl")["q01"].scores) == 7
    assert sum(calls) == 36 + 48 + 1


def test_a_log_of_another_model_is_refused(make_model, corpus, candidates, tmp_path):
    query, path = {"q01": "mountain"}, tmp_path / "scores.jsonl"
    CrossEncoderTeacher(make_model(1), corpus, progress=False).rank(query, candidates, log=path)
    with pytest.raises(ValueError, match="were made with weights="):
        CrossEncoderTeacher(make_model(2), corpus, progress=False).rank(query, candidates, log=path)
    with pytest.raises(ValueError, match="were made with passage_template='{passage}', but now it is '{text}'"):
        teacher = CrossEncoderTeacher(make_model(1), corpus, passage_template="{text}", progress=False)
        teacher.rank(query, candidates, log=path)


def test_a_score_that_is_no_number_is_refused_with_its_pair(make_model, corpus, candidates):
    teacher = CrossEncoderTeacher(make_model(1), corpus, progress=False)
    with torch.no_grad():
        next(teacher.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the score nan to query 'q01' and passage 'p0.'"):
        teacher.rank({"q01": "mountain"}, candidates)


def test_more_labels_are_refused(make_model, corpus):
    with pytest.raises(ValueError, match="has 3 labels, of which no one is the score of a pair"):
        CrossEncoderTeacher(make_model(3), corpus)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype is 'int8', but the model can be loaded as one of"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"template": "{query}"}, "has no {passage} or {title} or {text}"),
    ],
)
def test_bad_settings_are_refused_before_the_model_is_loaded(corpus, options, message):
    with pytest.raises(ValueError, match=message):
        CrossEncoderTeacher("no/such-model", corpus, **options)


def test_candidates_are_needed(make_model, corpus):
    with pytest.raises(TypeError, match="a teacher ranks the passages of a Rankings"):
        CrossEncoderTeacher(make_model(1), corpus, progress=False).rank({"q": "water"}, None)


def test_missing_sentence_transformers_names_the_extra(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r'pip install "dgr-trainer\[cross-encoder\]"'):
        CrossEncoderTeacher("any/model", corpus)
