import copy

import datasets
import numpy as np
import pytest
from tiny_models import make_bart
from tokenizers import normalizers
from transformers import DataCollatorForSeq2Seq, EvalPrediction, Seq2SeqTrainer, Seq2SeqTrainingArguments

from dgr_trainer.evaluation.generated import GeneratedIdentifierMetrics

TITLES = {"p1": "Mount Everest", "p2": "K2", "p3": "Mont Blanc", "p4": "K2"}
QRELS = {"q1": {"p1": 1}, "q2": {"p4": 1}, "q3": {"p3": 0, "p1": 1}}


def predictions(tokenizer, *texts):
    rows = [tokenizer(text)["input_ids"] for text in texts]
    padded = np.full((len(rows), max(map(len, rows))), -100)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return EvalPrediction(predictions=padded, label_ids=np.zeros((len(rows), 1)))


def test_written_strings_are_passages(bpe_tokenizer):
    metrics = GeneratedIdentifierMetrics(bpe_tokenizer, TITLES, ["q1", "q2", "q3"], QRELS, ["hits@1", "mrr@10"])
    found = metrics(predictions(bpe_tokenizer, " Mount Everest", "K2 ", "Mont Blanc"))
    # K2 is the string of two passages, of which the smaller id comes first.
    assert found == {"hits@1": pytest.approx(1 / 3), "mrr@10": pytest.approx((1 + 1 / 2) / 3)}


def test_beams_are_ranks_and_what_is_no_string_takes_one(bpe_tokenizer):
    metrics = GeneratedIdentifierMetrics(bpe_tokenizer, TITLES, ["q1", "q2"], QRELS, ["mrr"])
    texts = ["Mont Blanc", "Mont Blanc", "Everest", "Mount Everest"], ["Mount", "Mount", "Mount", "K2"]
    found = metrics(predictions(bpe_tokenizer, *texts[0], *texts[1]))
    assert found == {"mrr": pytest.approx((1 / 3 + 1 / 5) / 2)}


def test_it_is_compute_metrics_of_a_trainer(bpe_tokenizer, tmp_path):
    model = make_bart(bpe_tokenizer)
    model.generation_config.update(num_beams=3, num_return_sequences=3, max_length=8)
    rows = [{"input_ids": bpe_tokenizer(text)["input_ids"], "labels": [5, 2]} for text in ("one", "two", "a", "b")]
    seen = []
    metrics = GeneratedIdentifierMetrics(bpe_tokenizer, TITLES, ["q1", "q2", "q3", "q1x"], QRELS, ["hits@3"])

    def spy(prediction):
        seen.append(prediction.predictions.shape[0])
        return metrics(prediction)

    trainer = Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(
            str(tmp_path), predict_with_generate=True, per_device_eval_batch_size=2, report_to="none", use_cpu=True
        ),
        eval_dataset=datasets.Dataset.from_list(rows),
        data_collator=DataCollatorForSeq2Seq(bpe_tokenizer),
        compute_metrics=spy,
    )
    assert trainer.evaluate()["eval_hits@3"] == 0.0
    assert seen == [12]


def test_what_makes_no_sense_is_refused(bpe_tokenizer):
    with pytest.raises(ValueError, match=r"None of the 1 queries \(such as \['x'\]\) has qrels \(such as 'q1'\)"):
        GeneratedIdentifierMetrics(bpe_tokenizer, TITLES, ["x"], QRELS)
    with pytest.raises(ValueError, match="There is no metric 'accuracy'"):
        GeneratedIdentifierMetrics(bpe_tokenizer, TITLES, ["q1"], QRELS, ["accuracy"])
    metrics = GeneratedIdentifierMetrics(bpe_tokenizer, TITLES, ["q1", "q2"], QRELS)
    with pytest.raises(
        ValueError, match="3 sequences were generated for 2 queries, which is not a whole number for each"
    ):
        metrics(predictions(bpe_tokenizer, "a", "b", "c"))
    with pytest.raises(ValueError, match=r"the shape \(2, 3, 4\) and the type float64.*predict_with_generate=True"):
        metrics(EvalPrediction(predictions=np.zeros((2, 3, 4)), label_ids=None))


@pytest.mark.parametrize(
    ("normalizer", "title"),
    [(normalizers.Lowercase(), "River"), (normalizers.NFKC(), "\ufb01ne"), (normalizers.NFC(), "Re\u0301union")],
)
def test_a_tokenizer_may_change_the_strings(normalizer, title, bpe_tokenizer):
    tokenizer = copy.deepcopy(bpe_tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizer
    metrics = GeneratedIdentifierMetrics(tokenizer, {"a": title, "b": "K2"}, ["q"], {"q": {"a": 1}})
    assert metrics(predictions(tokenizer, title)) == {"hits@1": 1.0}


def test_a_model_that_writes_nothing_finds_nothing(bpe_tokenizer):
    metrics = GeneratedIdentifierMetrics(bpe_tokenizer, {"a": bpe_tokenizer.eos_token}, ["q"], {"q": {"a": 1}})
    assert metrics(predictions(bpe_tokenizer, "")) == {"hits@1": 0.0}
