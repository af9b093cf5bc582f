"""Corpora that hold the queries: the passage with the id of the query is left out everywhere, on request only."""

import json

import pytest
from tiny_models import make_bart

from dgr_trainer import FunctionTeacher, Identifiers, Rankings, evaluate_run
from dgr_trainer.cli.main import main
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.evaluation import RetrievalEvaluator, compare_runs, evaluate_per_query
from dgr_trainer.evaluation.retrieval_metric.retrieval_metric import RetrievalMetric
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings
from dgr_trainer.teachers import BM25Teacher
from dgr_trainer.training.collator import DistillationCollator

K = 5


@pytest.fixture(scope="module")
def queries(passages):
    """The first passages ask for themselves; one query is no passage."""
    return {passage.id: f"{passage.title} {passage.text}" for passage in passages[:6]} | {"other": passages[0].title}


@pytest.fixture(scope="module")
def retriever(bpe_tokenizer, corpus):
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    return GenerativeRetriever(
        make_bart(bpe_tokenizer), identifiers, index, corpus=corpus, settings=SearchSettings(beam_size=4)
    )


def without_own(rankings, k):
    """By hand, from longer lists."""
    return {
        query_id: [(id, score) for id, score in zip(ids, scores.tolist(), strict=True) if id != query_id][:k]
        for query_id, (ids, scores) in rankings.items()
    }


def pairs(rankings):
    return {query_id: list(zip(ids, scores.tolist(), strict=True)) for query_id, (ids, scores) in rankings.items()}


def assert_left_out(found, deeper, k=K):
    expected = without_own(deeper, k)
    assert pairs(found) == expected
    assert any(query_id in deeper[query_id].passage_ids for query_id in deeper)
    assert any(query_id in ids for query_id, (ids, _) in deeper.items())
    assert max(map(len, expected.values())) == k


def test_rankings():
    rankings = Rankings({"a": {"b": 2.0, "a": 1.0, "c": 0.5}, "d": {"a": 1.0}, "e": {"e": 1.0}, "f": {}}, name="run")
    left = rankings.without_identical_ids()
    assert pairs(left) == {"a": [("b", 2.0), ("c", 0.5)], "d": [("a", 1.0)], "e": [], "f": []}
    assert left.name == "run" and left.without_identical_ids() is left


def test_a_retriever_ranks_as_many_passages(retriever, queries):
    found = retriever.rank(queries, K, ignore_identical_ids=True)
    assert_left_out(found, retriever.rank(queries, 20))
    assert pairs(retriever.rank(queries, 20)) == pairs(retriever.rank(queries, 20, ignore_identical_ids=False))


def test_teachers_that_search_rank_as_many_passages(corpus, queries):
    pytest.importorskip("bm25s", reason="needs the extra bm25")
    teacher = BM25Teacher(corpus, progress=False)
    assert_left_out(teacher.rank(queries, k=3, ignore_identical_ids=True), teacher.rank(queries, k=20), 3)
    assert all(teacher.rank(queries, k=3)[id].passage_ids[0] == id for id in queries if id != "other")


def test_teachers_do_not_score_what_is_left_out(corpus, queries):
    seen = []

    def score(query, passages):
        seen.append((query, [passage.id for passage in passages]))
        return [float(len(passage.text)) for passage in passages]

    teacher = FunctionTeacher(score, corpus, progress=False)
    candidates = Rankings({id: dict.fromkeys(list(corpus.ids)[:8], 0.0) for id in queries})
    found = teacher.rank(queries, candidates, k=K, ignore_identical_ids=True)
    texts = {text: id for id, text in queries.items()}
    assert seen and all(texts[query] not in ids for query, ids in seen)
    assert_left_out(found, teacher.rank(queries, candidates, k=20))


def test_candidates_leave_it_out_even_if_it_is_relevant(retriever, queries, corpus, tmp_path):
    first, last = list(corpus.ids)[0], list(corpus.ids)[-1]
    relevant = {first: {first: 1, last: 1}}
    deeper = retriever.candidates(queries, 20, relevant).to_rankings()
    found = retriever.candidates(queries, K, relevant, ignore_identical_ids=True)
    expected = without_own(deeper, K)
    tail = [(id, score) for id, score in pairs(deeper)[first] if id == last]
    expected[first] += [hit for hit in tail if hit not in expected[first]]
    assert pairs(found.to_rankings()) == expected
    retriever.save_candidates(tmp_path / "c", queries, K, relevant, ignore_identical_ids=True)
    loaded = type(found).load_from_disk(tmp_path / "c")
    assert pairs(loaded.to_rankings()) == expected


@pytest.mark.parametrize("sampling", ["dgr_paper", "top", "spread", "gap"])
def test_training_lists(sampling, retriever, queries, corpus):
    ids = list(corpus.ids)
    rankings = retriever.rank(queries, 10)
    qrels = {ids[0]: {ids[0]: 2, ids[1]: 1}, ids[1]: {ids[1]: 1}}
    strings = {passage.id: passage.title for passage in corpus}

    def lists(**settings):
        collator = DistillationCollator(
            retriever.identifiers.tokenizer, strings, rankings, qrels, sampling=sampling, list_length=4, **settings
        )
        batches = [collator([{"query_id": id, "query": text} for id, text in queries.items()]) for _ in range(2)]
        assert batches[0].keys() == batches[1].keys()
        return {(id, epoch): collator.sampler.sample(id, epoch) for id in queries for epoch in range(5)}

    kept, left = lists(), lists(ignore_identical_ids=True)
    assert any(id in sampled.passage_ids for (id, _), sampled in kept.items())
    for (id, _), sampled in left.items():
        assert id not in sampled.passage_ids and sampled.relevant != id and len(sampled.passage_ids) == 4
    assert left[ids[0], 0].relevant == ids[1]  # The other relevant passage.
    assert left["other", 0] == kept["other", 0]


RUN = Rankings({"q": {"q": 3.0, "a": 2.0, "b": 1.0}, "r": {"b": 2.0, "r": 1.0}})
QRELS = {"q": {"a": 1}, "r": {"r": 1, "b": 1}}


def test_metrics():
    """As BEIR does: left out of the lists, not of the judgements."""
    plain = evaluate_run(RUN, QRELS, ["hits@1", "recall@10", "mrr"])
    left = evaluate_run(RUN, QRELS, ["hits@1", "recall@10", "mrr"], ignore_identical_ids=True)
    assert plain == {"hits@1": 0.5, "recall@10": 1.0, "mrr": 0.75}
    assert left == {"hits@1": 1.0, "recall@10": 0.75, "mrr": 1.0}
    assert evaluate_per_query(RUN, QRELS, ["recall@10"], ignore_identical_ids=True) == {
        "recall@10": {"q": 1.0, "r": 0.5}
    }
    compared = compare_runs({"run": RUN}, QRELS, ["mrr"], ignore_identical_ids=True)
    assert compared.runs["run"]["mrr"].mean == 1.0
    predictions = [{"query_id": id, "passage_ids": list(p), "scores": s.tolist()} for id, (p, s) in RUN.items()]
    references = [
        {"query_id": id, "passage_ids": list(grades), "relevance": list(grades.values())}
        for id, grades in QRELS.items()
    ]
    computed = RetrievalMetric().compute(
        predictions=predictions, references=references, metrics=["mrr"], ignore_identical_ids=True
    )
    assert computed == {"mrr": 1.0}


def test_the_evaluator(retriever, queries, corpus):
    ids = list(corpus.ids)
    qrels = {id: {id: 1} for id in ids[:3]}
    parts = (retriever.index, retriever.identifiers, queries, qrels)
    settings = {"settings": SearchSettings(beam_size=4), "k": 20, "metrics": ["recall@20"]}
    assert RetrievalEvaluator(*parts, **settings)(retriever.model)["recall@20"] > 0
    evaluator = RetrievalEvaluator(*parts, **settings, ignore_identical_ids=True)
    assert evaluator(retriever.model) == {"recall@20": 0.0}


@pytest.fixture(scope="module")
def files(retriever, queries, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rows = [json.dumps({"id": p.id, "title": p.title, "text": p.text}) for p in corpus]
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "queries.tsv").write_text("".join(f"{id}\t{text}\n" for id, text in queries.items()))
    (folder / "qrels.tsv").write_text("".join(f"{id} 0 {id} 1\n" for id in queries if id != "other"))
    retriever.save_pretrained(folder / "retriever")
    return folder


def dgr(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def test_the_command_line(files, retriever, queries, corpus, tmp_path, capsys):
    pytest.importorskip("bm25s", reason="needs the extra bm25")
    of = ("--queries", files / "queries.tsv", "-k", K)
    flag = "--ignore_identical_ids"
    dgr("search", files / "retriever", *of, "--output", tmp_path / "search.jsonl", flag)
    assert_left_out(Rankings.from_jsonl(tmp_path / "search.jsonl"), retriever.rank(queries, 20))
    capsys.readouterr()
    dgr("search", files / "retriever", *of, "--json", flag)
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["query_id"]: [hit["passage_id"] for hit in row["hits"]] for row in shown} == {
        id: list(ids) for id, (ids, _) in Rankings.from_jsonl(tmp_path / "search.jsonl").items()
    }
    dgr("candidates", files / "retriever", *of, "--output", tmp_path / "c", "--qrels", files / "qrels.tsv", flag)
    ranks = ("rank", "--teacher", "bm25", "--corpus", files / "corpus.jsonl", *of)
    teacher = BM25Teacher(Corpus.read(files / "corpus.jsonl"), progress=False)
    dgr(*ranks, "--output", tmp_path / "bm25.jsonl", flag)
    left = Rankings.from_jsonl(tmp_path / "bm25.jsonl")
    assert pairs(left) == without_own(teacher.rank(queries, k=20), K)
    dgr(*ranks, "--candidates", tmp_path / "c", "--depth", 3, "--output", tmp_path / "again.jsonl", flag)
    again = Rankings.from_jsonl(tmp_path / "again.jsonl")
    assert all(len(ids) == 3 and id not in ids for id, (ids, _) in again.items())
    dgr(*ranks, "--output", tmp_path / "plain.jsonl")
    capsys.readouterr()
    measured = ("evaluate", tmp_path / "plain.jsonl", "--qrels", files / "qrels.tsv", "--metrics", "hits@1", "--json")
    dgr(*measured)
    assert json.loads(capsys.readouterr().out)["runs"]["plain"]["hits@1"]["mean"] == 1.0
    dgr(*measured, flag)
    assert json.loads(capsys.readouterr().out)["runs"]["plain"]["hits@1"]["mean"] == 0.0


def test_a_typed_query_has_no_id(files, capsys):
    assert main(["search", str(files / "retriever"), "sea", "--ignore_identical_ids"]) != 0
    assert "A typed query has no id: --ignore_identical_ids goes with --queries." in capsys.readouterr().err


def test_options_of_training():
    from dgr_trainer.cli.train import make_parser

    parsed = make_parser().parse(
        ["--stage", "distillation", "--model", "m", "--output_dir", "o", "--ignore_identical_ids",
         "--eval_ignore_identical_ids"]
    )  # fmt: skip
    given = [options.given() for options in parsed[:-1] if hasattr(options, "given")]
    assert [options["ignore_identical_ids"] for options in given if "ignore_identical_ids" in options] == [True, True]
