import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from launched_processes import results_of
from tiny_models import make_bart

from dgr_trainer.evaluation import RetrievalEvaluator, evaluate_run
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings

SMALL = SearchSettings(beam_size=4)
METRICS = ("hits@1", "hits@5", "mrr@10")


@pytest.fixture(scope="module")
def identifiers(bpe_tokenizer):
    return Identifiers(bpe_tokenizer, IdentifierSettings(views=("title", "substring")))


@pytest.fixture(scope="module")
def index(corpus, identifiers):
    return FMIndex.from_corpus(corpus, identifiers)


@pytest.fixture(scope="module")
def model(bpe_tokenizer):
    return make_bart(bpe_tokenizer)


def test_metrics_are_those_of_the_retrievers_run(model, identifiers, index, queries, qrels):
    evaluator = RetrievalEvaluator(index, identifiers, queries, qrels, metrics=METRICS, k=10, settings=SMALL)
    run = GenerativeRetriever(model, identifiers, index, settings=SMALL).rank(queries, k=10)
    expected = evaluate_run(run, qrels, METRICS)
    assert list(expected) == list(METRICS)
    assert evaluator(model) == expected
    assert evaluator(model, Accelerator(cpu=True)) == expected
    assert sum(expected.values()) > 0


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("number", [2, 4])
def test_processes_share_the_queries_and_agree(model, identifiers, index, queries, qrels, number):
    settings = SearchSettings(beam_size=4, batch_size=2)  # Three batches: one of four processes has none.
    evaluator = RetrievalEvaluator(index, identifiers, queries, qrels, k=20, settings=settings, max_queries=5)

    def lists(rankings):
        return {query: (rankings[query].passage_ids, rankings[query].scores.tolist()) for query in rankings}

    def run(processes):
        everywhere, on_main = evaluator.rank(model, processes), evaluator.rank(model, processes, results_on="main")
        return evaluator(model, processes), lists(everywhere), lists(on_main)

    metrics, whole = evaluator(model), lists(evaluator.rank(model))
    assert results_of(number, run) == [(metrics, whole, whole if rank == 0 else {}) for rank in range(number)]


@pytest.mark.slow
def test_two_processes_return_what_one_returns(tmp_path):
    script = tmp_path / "evaluate.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from pathlib import Path
            from accelerate import Accelerator
            from sample_corpus import PASSAGES, QRELS, QUERIES
            from tiny_models import bpe_tokenizer, make_bart
            from dgr_trainer import Corpus, FMIndex, Identifiers, RetrievalEvaluator, SearchSettings

            accelerator = Accelerator(cpu=True)
            model, identifiers = make_bart(bpe_tokenizer()), Identifiers(bpe_tokenizer())
            index = FMIndex.from_corpus(Corpus.from_passages(PASSAGES), identifiers)
            evaluator = RetrievalEvaluator(index, identifiers, QUERIES, QRELS, settings=SearchSettings(beam_size=3))
            alone = evaluator(model)
            wrapped = accelerator.prepare(model).train()
            assert evaluator(wrapped, accelerator) == alone and wrapped.training
            (Path(sys.argv[1]) / str(accelerator.process_index)).write_text(str(accelerator.num_processes))
            """
        )
    )
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
                   "ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "bf16"}  # fmt: skip
    launch = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
    ]
    done = subprocess.run(
        [sys.executable, *launch, str(script), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2", "2"]


def test_a_sample_is_always_the_same_and_another_with_another_seed(identifiers, index, queries, qrels):
    def sampled(seed):
        return list(RetrievalEvaluator(index, identifiers, queries, qrels, max_queries=5, seed=seed).queries)

    assert len(sampled(0)) == 5 and sampled(0) == sampled(0)
    assert len({tuple(sampled(seed)) for seed in range(5)}) > 1
    assert len(RetrievalEvaluator(index, identifiers, queries, qrels, max_queries=500).queries) == 12


def test_queries_without_judgements_do_not_count(model, identifiers, index, queries, qrels):
    judged = {"q01": qrels["q01"], "q05": {"p14": 0}, "elsewhere": {"p01": 1}}
    evaluator = RetrievalEvaluator(index, identifiers, queries, judged, settings=SMALL)
    assert list(evaluator.queries) == ["q01"] == list(evaluator.rank(model))


def test_the_mode_of_the_model_is_kept(model, identifiers, index, queries, qrels):
    evaluator = RetrievalEvaluator(
        index, identifiers, queries, qrels, metrics=["hits@1"], max_queries=2, settings=SMALL
    )
    expected = evaluator(model)
    model.train()
    assert evaluator(model) == expected
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    assert evaluator(torch.nn.DataParallel(model)) == expected
    assert not model.training


def test_one_identifier_a_passage(bpe_tokenizer, model, corpus, queries, qrels):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("docid",)))
    evaluator = RetrievalEvaluator(
        FMIndex.from_corpus(corpus, identifiers), identifiers, queries, qrels, metrics=["hits@100"],
        settings=SearchSettings(beam_size=24), scoring=ScoringSettings(kind="log_likelihood"),
    )  # fmt: skip
    assert evaluator(model) == {"hits@100": 1.0}


def test_what_makes_no_sense_is_refused_at_once(identifiers, index, queries, qrels):
    with pytest.raises(ValueError, match="k is 0, but it has to be an integer of 1 or more"):
        RetrievalEvaluator(index, identifiers, queries, qrels, k=0)
    with pytest.raises(ValueError, match="max_queries is 0. Evaluate on at least 1 query"):
        RetrievalEvaluator(index, identifiers, queries, qrels, max_queries=0)
    with pytest.raises(ValueError, match="No metric was given"):
        RetrievalEvaluator(index, identifiers, queries, qrels, metrics=[])
    with pytest.raises(ValueError, match="k is 10, which is too few passages for ndcg@20"):
        RetrievalEvaluator(index, identifiers, queries, qrels, metrics=["hits@1", "ndcg@20"], k=10)
    with pytest.raises(ValueError, match="There is no metric 'accuracy'"):
        RetrievalEvaluator(index, identifiers, queries, qrels, metrics=["accuracy"])
    with pytest.raises(ValueError, match="None of the 12 queries has a relevant passage in the index"):
        RetrievalEvaluator(index, identifiers, queries, {"q01": {"nowhere": 1}})
