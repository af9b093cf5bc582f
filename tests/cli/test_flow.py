"""The whole flow through the command line, on the sample corpus."""

import json
import os
from pathlib import Path

import datasets
import pytest
import yaml
from teachers.reranker_models import save_causal_lm, save_cross_encoder, save_encoder, save_seq2seq
from tiny_models import make_causal
from transformers import AutoTokenizer

from dgr_trainer import (
    Candidates,
    CausalLMTeacher,
    Corpus,
    CrossEncoderTeacher,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    Rankings,
    Seq2SeqTeacher,
    generation_pairs,
    read_queries,
)
from dgr_trainer.files.job_lock import JobLock

TRAINING = ("--use_cpu", "--per_device_train_batch_size", 4, "--report_to", "none", "--logging_steps", 1)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def test_flow(dgr, files, work):
    """index -> pairs -> generation -> candidates -> teacher -> distillation -> search -> evaluation."""
    queries = ("--queries", files / "queries.tsv")
    judged = (*queries, "--qrels", files / "qrels.txt")

    assert dgr("index", files / "corpus.jsonl", "--model", files / "bart", "--output", work / "index").code == 0
    assert FMIndex.load(work / "index").num_passages == 24
    assert json.loads((work / "index" / "identifiers.json").read_text())["identifiers"]["title_end"] == "@@"

    made = dgr("pairs", work / "index", "--model", files / "bart", *judged, "--output", work / "pairs")
    assert made.code == 0 and "pairs" in made.err and made.out == ""
    pairs = datasets.load_from_disk(str(work / "pairs"))
    assert pairs.column_names == ["input_ids", "labels"] and len(pairs) > 100

    generation = work / "generation"
    student = ("--model", files / "bart", "--index", work / "index", "--pairs", work / "pairs")
    evaluated = ("--eval_queries", files / "queries.tsv", "--eval_qrels", files / "qrels.txt", "--eval_beam_size", 2)
    trained = dgr(
        "train", "--stage", "generation", *student, *evaluated, *TRAINING, "--output_dir", generation,
        "--max_steps", 4, "--save_steps", 2, "--learning_rate", "1e-3", "--eval_metrics", "hits@5", "mrr@10",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert set(json.loads(trained.out)) == {"eval_hits@5", "eval_mrr@10"}  # What it logs is on standard error.
    assert "loss_generation" in trained.err
    retriever = GenerativeRetriever.from_pretrained(generation / "retriever")
    assert len(retriever.corpus) == 24

    found = dgr(
        "candidates", generation / "retriever", *judged, "-k", 8, "--output", work / "candidates", "--beam_size", 2
    )
    assert found.code == 0, found.err
    candidates = Candidates.load_from_disk(work / "candidates")
    assert len(candidates) == 12
    assert {"p07", "p08"} <= {one.passage_id for one in candidates["q03"]}

    ranked = dgr(
        "rank", "--teacher", "bm25", "--corpus", work / "index", *queries, "--candidates", work / "candidates",
        "--output", work / "teacher.trec", "--k1", 1.2,
    )  # fmt: skip
    assert ranked.code == 0, ranked.err
    teacher = Rankings.from_trec(work / "teacher.trec")
    assert {query: set(of.passage_ids) for query, of in teacher.items()} == {
        query: {one.passage_id for one in of} for query, of in candidates.items()
    }

    distilled = work / "distilled"
    stage = ("--stage", "distillation", "--candidates", work / "candidates", "--run", work / "teacher.trec")
    trained = dgr(
        "train", *stage, "--model", generation / "retriever", *judged, *TRAINING,
        "--output_dir", distilled, "--max_steps", 2, "--list_length", 4, "--scoring_smoothing", 6,
        "--sampling", "spread", "--false_negative_margin", 0.5,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert "loss_ranking" in trained.err and trained.out == ""
    assert "training data:\nqueries " in trained.err and "first relevant passage " in trained.err
    final = GenerativeRetriever.from_pretrained(distilled / "retriever")
    assert final.scoring.smoothing == 6
    assert any((a != b).any() for a, b in zip(final.model.parameters(), retriever.model.parameters(), strict=True))
    used = yaml.safe_load((distilled / "train.yaml").read_text())
    assert used["list_length"] == 4 and used["max_steps"] == 2 and "learning_rate" not in used

    shown = dgr("search", distilled / "retriever", "-k", 3, "who discovered penicillin", "--beam_size", 3)
    assert shown.code == 0, shown.err
    assert shown.out.startswith("who discovered penicillin\n\n  1. ")
    assert "substring" in shown.out and max(map(len, shown.out.splitlines())) <= 80
    lines = dgr("search", distilled / "retriever", "--json", "who discovered penicillin", "").out.splitlines()
    first, empty = map(json.loads, lines)
    assert empty == {"query": "", "hits": []}
    hits = final.search("who discovered penicillin", k=5)[0]
    assert [hit["passage_id"] for hit in first["hits"]] == [hit.passage_id for hit in hits]
    assert first["hits"][0]["identifiers"][0]["text"] == final.identifier_text(hits[0].identifiers[0])
    assert first["hits"][0]["title"] == final.corpus.get(hits[0].passage_id).title

    written = dgr("search", distilled / "retriever", *queries, "-k", 20, "--output", work / "dgr.trec")
    assert written.code == 0 and written.out == ""
    run = Rankings.from_trec(work / "dgr.trec")
    again = final.rank(read_queries(files / "queries.tsv"), k=20)
    assert {query: of.passage_ids for query, of in run.items()} == {
        query: of.passage_ids for query, of in again.items() if of.passage_ids
    }

    measured = (files / "best.trec", work / "dgr.trec", "--qrels", files / "qrels.txt", "--metrics", "hits@1", "ndcg")
    table = dgr("evaluate", *measured)
    assert table.code == 0, table.err
    head, best, *_ = table.out.splitlines()
    assert head.split() == ["metric", "run", "mean", "95%", "interval", "differs", "p"]
    t_tested = dgr("evaluate", *measured, "--t_test").out.splitlines()
    assert t_tested[0].split()[-2:] == ["p", "p(t)"] and t_tested[-1].endswith("; p(t): paired t-test.")
    assert max(map(len, t_tested)) <= 80
    assert best.split() == ["hits@1", "best", "1.000", "1.000", "-", "1.000"]
    assert max(map(len, table.out.splitlines())) <= 80
    found = json.loads(dgr("evaluate", *measured, "--json").out)
    assert found["baseline"] == "best" and found["runs"]["best"]["hits@1"]["mean"] == 1.0
    assert found["runs"]["dgr"]["hits@1"]["test"]["difference"] < 0
    assert dgr("evaluate", *measured, "--markdown").out.startswith("| run ")


def test_resume_gives_the_same_student(dgr, files, tmp_path):
    def train(output, *others):
        stage = ("train", "--stage", "generation", "--model", files / "bart", "--corpus", files / "corpus.jsonl")
        return dgr(*stage, *TRAINING, "--output_dir", output, "--max_steps", 4, "--save_steps", 2, *others)

    assert train(tmp_path / "a").code == 0
    assert train(tmp_path / "b").code == 0
    whole = (tmp_path / "a" / "model" / "model.safetensors").read_bytes()
    assert whole == (tmp_path / "b" / "model" / "model.safetensors").read_bytes()

    refused = train(tmp_path / "b")
    assert refused.code == 2 and "--resume_from_checkpoint last" in refused.err
    for path in (tmp_path / "b" / "checkpoint-4").iterdir():
        path.unlink()  # As if the last checkpoint had been interrupted.
    resumed = train(tmp_path / "b", "--resume_from_checkpoint", "last")
    assert resumed.code == 0, resumed.err
    assert whole == (tmp_path / "b" / "model" / "model.safetensors").read_bytes()

    optimizer = tmp_path / "b" / "checkpoint-4" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:1000])
    named = train(tmp_path / "b", "--resume_from_checkpoint", tmp_path / "b" / "checkpoint-4")
    assert named.code == 0 and whole == (tmp_path / "b" / "model" / "model.safetensors").read_bytes()
    assert "checkpoint-4 (optimizer.pt is damaged or cut off" in named.err
    assert "Training is resumed from checkpoint-2" in named.err
    cut = tmp_path / "b" / "checkpoint-2" / "scheduler.pt"
    cut.write_bytes(b"")
    refused = train(tmp_path / "b", "--resume_from_checkpoint", cut.parent)
    assert refused.code == 2 and "--resume_from_checkpoint: " in refused.err and "scheduler.pt is empty" in refused.err

    assert train(tmp_path / "b", "--overwrite", "--save_strategy", "no").code == 0
    again = yaml.safe_load((tmp_path / "b" / "train.yaml").read_text())
    assert again["save_strategy"] == "no" and not {"overwrite", "resume_from_checkpoint"} & set(again)
    assert not list((tmp_path / "b").glob("checkpoint-*"))


# peft asks models for an attribute that transformers has renamed.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_one_identifier_a_passage_with_lora(dgr, files, tmp_path):
    """The swap: strings and a run, no index; then the same with an index of these strings."""
    trained = dgr(
        "train", "--stage", "distillation", "--model", files / "bart", "--identifiers", files / "identifiers.tsv",
        "--run", files / "best.trec", "--queries", files / "queries.tsv", "--qrels", files / "qrels.txt", *TRAINING,
        "--output_dir", tmp_path / "swap", "--max_steps", 2, "--lora_r", 2,
        "--lora_target_modules", "q_proj", "v_proj",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    adapter = json.loads((tmp_path / "swap" / "model" / "adapter_config.json").read_text())
    assert (
        adapter["r"] == 2 and adapter["lora_alpha"] == 4 and sorted(adapter["target_modules"]) == ["q_proj", "v_proj"]
    )

    rows = [json.loads(line) for line in (files / "corpus.jsonl").read_text().splitlines()]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({**row, "docid": row["title"]}) + "\n" for row in rows))
    made = dgr("index", corpus, "--model", files / "bart", "--output", tmp_path / "index", "--views", "docid")
    assert made.code == 0, made.err
    trained = dgr(
        "train", "--stage", "distillation", "--model", tmp_path / "swap" / "model", "--index", tmp_path / "index",
        "--identifiers", files / "identifiers.tsv", "--run", files / "best.trec", "--queries", files / "queries.tsv",
        *TRAINING, "--output_dir", tmp_path / "more", "--max_steps", 2, "--teacher_order",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    retriever = GenerativeRetriever.from_pretrained(tmp_path / "more" / "retriever")
    assert retriever.identifiers.views == ("docid",) and retriever.scoring.kind == "log_likelihood"
    shown = dgr("search", tmp_path / "more" / "retriever", "stripes of a horse", "-k", 2)
    assert shown.code == 0 and "docid" in shown.out


@pytest.mark.slow
def test_a_language_model_with_lora(dgr, files, tmp_path):
    """index -> generation in an adapter -> candidates -> distillation of the adapter, of a decoder-only model."""
    student, tokenizer = tmp_path / "causal", AutoTokenizer.from_pretrained(files / "bart")
    make_causal(tokenizer).save_pretrained(student)
    tokenizer.save_pretrained(student)
    judged = ("--queries", files / "queries.tsv", "--qrels", files / "qrels.txt")
    assert dgr("index", files / "corpus.jsonl", "--model", student, "--output", tmp_path / "index").code == 0
    trained = dgr(
        "train", "--stage", "generation", "--model", student, "--index", tmp_path / "index", *judged, *TRAINING,
        "--output_dir", tmp_path / "generation", "--max_steps", 2, "--lora_r", 2,
        "--lora_target_modules", "q_proj", "v_proj",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    adapter = json.loads((tmp_path / "generation" / "retriever" / "adapter_config.json").read_text())
    assert adapter["task_type"] == "CAUSAL_LM" and adapter["r"] == 2
    folder = tmp_path / "generation" / "retriever"
    found = dgr("candidates", folder, *judged, "-k", 8, "--output", tmp_path / "candidates", "--beam_size", 2)
    assert found.code == 0, found.err
    distilled = dgr(
        "train", "--stage", "distillation", "--model", folder, *judged, "--candidates", tmp_path / "candidates",
        "--run", files / "best.trec", *TRAINING, "--output_dir", tmp_path / "distilled", "--max_steps", 2,
    )  # fmt: skip
    assert distilled.code == 0, distilled.err
    assert "loss_ranking" in distilled.err
    retriever = GenerativeRetriever.from_pretrained(tmp_path / "distilled" / "retriever")
    assert type(retriever.model.get_base_model()).__name__ == "Qwen3ForCausalLM"
    assert len(retriever.search("the highest mountain", k=3)[0]) == 3


def test_pairs_as_json_lines(dgr, files, tmp_path):
    made = dgr("pairs", files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "pairs.jsonl")
    assert made.code == 0, made.err
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    identifiers = Identifiers(AutoTokenizer.from_pretrained(files / "bart"))
    assert rows == list(generation_pairs(Corpus.read(files / "corpus.jsonl"), identifiers, progress=False))
    trained = dgr(
        "train", "--stage", "generation", "--model", files / "bart", "--pairs", tmp_path / "pairs.jsonl", *TRAINING,
        "--output_dir", tmp_path / "out", "--max_steps", 1,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert (tmp_path / "out" / "model" / "tokenizer_config.json").is_file()


def test_rank_a_run_and_search(dgr, files, tmp_path):
    of = ("rank", "--teacher", "bm25", "--corpus", files / "corpus.jsonl", "--queries", files / "queries.tsv")
    assert dgr(*of, "--output", tmp_path / "all.jsonl", "-k", 3).code == 0
    searched = Rankings.from_jsonl(tmp_path / "all.jsonl")
    assert searched["q03"].passage_ids[0] == "p07" and max(len(ids) for ids, _ in searched.values()) <= 3
    assert dgr(*of, "--run", files / "best.trec", "--depth", 2, "--output", tmp_path / "two.trec").code == 0
    assert {len(ids) for ids, _ in Rankings.from_trec(tmp_path / "two.trec").values()} == {2}


def test_rank_by_models(dgr, files, tmp_path):
    """Every family of models, by the command line and by the library."""
    models = {
        "cross-encoder": save_cross_encoder(tmp_path / "bert", labels=2),
        "seq2seq": save_seq2seq(tmp_path / "t5"),
        "causal-lm": save_causal_lm(tmp_path / "llama", "llama"),
    }
    of = ("rank", "--corpus", files / "corpus.jsonl", "--queries", files / "queries.tsv", "--run", files / "best.trec")
    corpus, queries = Corpus.read(files / "corpus.jsonl"), read_queries(files / "queries.tsv")
    candidates = Rankings.from_trec(files / "best.trec")
    options = {"cross-encoder": ("--passage_first",), "seq2seq": (), "causal-lm": ("--prompt", "bge-reranker-gemma")}
    expected = {
        "cross-encoder": CrossEncoderTeacher(models["cross-encoder"], corpus, passage_first=True, progress=False),
        "seq2seq": Seq2SeqTeacher(models["seq2seq"], corpus, progress=False),
        "causal-lm": CausalLMTeacher(models["causal-lm"], corpus, "bge-reranker-gemma", progress=False),
    }
    for family, model in models.items():
        run, given = tmp_path / f"{family}.jsonl", ("--teacher", family, "--model", model, *options[family])
        for _ in range(2):
            ranked = dgr(*of, *given, "--cache", tmp_path / "scores", "--output", run, "--overwrite")
            assert ranked.code == 0, ranked.err
        assert Rankings.from_jsonl(run) == expected[family].rank(queries, candidates)
    assert len(list((tmp_path / "scores").iterdir())) == 3
    pytest.importorskip("sentence_transformers", reason="needs the extra bi-encoder")
    searched = dgr(
        *of[:-2], "--teacher", "bi-encoder", "--model", save_encoder(tmp_path / "encoder"),
        "--vectors", tmp_path / "vectors", "--query_prefix", "query: ", "--output", tmp_path / "bi.trec", "-k", 5,
    )  # fmt: skip
    assert searched.code == 0, searched.err
    assert {len(ids) for ids, _ in Rankings.from_trec(tmp_path / "bi.trec").values()} == {5}
    assert (tmp_path / "vectors" / "vectors.npy").is_file()


def test_beir_folder(dgr, files, tmp_path):
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_bytes((files / "corpus.jsonl").read_bytes())
    queries = [line.split("\t") for line in (files / "queries.tsv").read_text().splitlines()]
    rows = [json.dumps({"_id": id, "text": text}) + "\n" for id, text in queries]
    (folder / "queries.jsonl").write_text("".join(rows))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq03\tp07\t1\n")
    found = dgr(
        "rank", "--teacher", "bm25", "--corpus", folder, "--queries", folder, "--split", "test",
        "--output", tmp_path / "run.trec",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert list(Rankings.from_trec(tmp_path / "run.trec")) == ["q03"]
    measured = dgr("evaluate", tmp_path / "run.trec", "--qrels", folder, "--split", "test", "--metrics", "hits@1")
    assert measured.code == 0 and "1.000" in measured.out


def test_an_index_without_a_corpus(dgr, files, tmp_path):
    made = dgr(
        "index", "--no_save_corpus", files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "index"
    )
    assert made.code == 0 and not Path(tmp_path / "index" / "corpus").exists()
    refused = dgr("pairs", tmp_path / "index", "--model", files / "bart", "--output", tmp_path / "pairs")
    assert refused.code == 2 and "without its corpus" in refused.err


def test_passages_are_added_and_removed(dgr, files, tmp_path):
    made = ("--model", files / "bart", "--output", tmp_path / "index")
    assert dgr("index", files / "corpus.jsonl", *made, "--segment_tokens", 200).code == 0
    index = FMIndex.load(tmp_path / "index")
    assert index.num_passages == 24 and index.num_segments > 1
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    (tmp_path / "gone.txt").write_text("p07\np01\n")
    new = {"id": "new", "title": "Mount Fuji", "text": "Mount Fuji is the highest mountain in Japan."}
    (tmp_path / "more.jsonl").write_text(json.dumps(new) + "\n")
    changed = dgr("index", tmp_path / "more.jsonl", "--output", tmp_path / "index", "--add", "--num_proc", 2,
                  "--remove", tmp_path / "gone.txt")  # fmt: skip
    assert changed.code == 0 and "indexed 23 passages" in changed.err, changed.err
    larger = FMIndex.load(tmp_path / "index")
    assert larger.num_segments == index.num_segments + 1
    ids = [id for id in index.passage_ids if id not in ("p07", "p01")] + ["new"]
    assert list(larger.passage_ids) == ids
    assert dgr("index", "--output", tmp_path / "index", "--compact").code == 0
    compacted = FMIndex.load(tmp_path / "index")
    assert list(compacted.passage_ids) == ids and compacted.num_tokens == larger.num_tokens
    assert list(Corpus.load_from_disk(tmp_path / "index" / "corpus").ids) == ids
    assert json.loads((tmp_path / "index" / "identifiers.json").read_text())["identifiers"]["title_end"] == "@@"

    plain = tmp_path / "plain"
    assert (
        dgr("index", files / "corpus.jsonl", "--model", files / "bart", "--output", plain, "--no_save_corpus").code
        == 0
    )
    assert dgr("index", "--output", plain, "--remove", tmp_path / "gone.txt").code == 0
    assert FMIndex.load(plain).num_passages == 22
    (tmp_path / "gone.txt").write_text("p02\n")
    assert dgr("index", "--output", plain, "--remove", tmp_path / "gone.txt", "--compact").code == 0
    assert FMIndex.load(plain).num_passages == 21 and not FMIndex.load(plain).segments[0].removed.passages.size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gone.txt", "index", "more.jsonl", "plain"]


def test_an_index_knows_its_model_from_any_folder(dgr, files, tmp_path, monkeypatch):
    monkeypatch.chdir(files)
    made = dgr("index", "corpus.jsonl", "--model", "bart", "--output", tmp_path / "index")
    assert made.code == 0, made.err
    monkeypatch.chdir(tmp_path)
    Path("more.jsonl").write_text('{"id": "new", "title": "Mount Fuji", "text": "A mountain in Japan."}\n')
    added = dgr("index", "more.jsonl", "--output", "index", "--add")
    assert added.code == 0 and "indexed 25 passages" in added.err, added.err


def test_an_index_in_the_current_folder(dgr, files, tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    monkeypatch.chdir(tmp_path / "index")
    made = dgr("index", files / "corpus.jsonl", "--model", files / "bart", "--output", ".", "--segment_tokens", 200)
    assert made.code == 0, made.err
    compacted = dgr("index", "--output", ".", "--compact")
    assert compacted.code == 0 and "indexed 24 passages" in compacted.err, compacted.err
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_changes_that_cannot_be_made(dgr, files, tmp_path):
    made = dgr("index", files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "index")
    assert made.code == 0
    (tmp_path / "unknown.txt").write_text("nobody\n")
    corpus, output = files / "corpus.jsonl", ("--output", tmp_path / "index")
    for arguments, message in [
        ((*output, "--add"), "--add takes a CORPUS"),
        ((corpus, *output, "--compact"), "Give --add to add its passages"),
        ((*output, "--compact", "--overwrite"), "are for new indexes"),
        ((*output, "--compact", "--num_proc", 2), "--num_proc is for passages that are tokenised"),
        (
            (corpus, *output, "--model", files / "bart", "--overwrite", "--num_proc", 0),
            "num_proc=0: give the number of processes",
        ),
        (
            (*output, "--compact", "--pseudo_queries", tmp_path / "q.jsonl"),
            "--pseudo_queries is for passages that are tokenised",
        ),
        ((*output, "--compact", "--views", "title"), "--views is for passages that are tokenised and indexed"),
        (
            (*output, "--remove", tmp_path / "unknown.txt", "--model", "m"),
            "--model is for passages that are tokenised",
        ),
        ((*output, "--compact", "--no_save_corpus"), "--save_corpus is for new indexes"),
        ((corpus, *output, "--add", "--no_save_corpus"), "--save_corpus is for new indexes"),
        ((*output, "--remove", tmp_path / "unknown.txt"), "has the id 'nobody'"),
        ((corpus, *output, "--add"), "is in the index already"),
        ((corpus, "--output", tmp_path / "none"), "required: --model"),
        (("--output", tmp_path / "none"), "required: CORPUS"),
        ((corpus, "--output", tmp_path / "none", "--add"), "none does not exist"),
    ]:
        found = dgr("index", *arguments)
        assert found.code == 2 and message in found.err, found.err
    assert list(FMIndex.load(tmp_path / "index").passage_ids) == list(Corpus.read(corpus).ids)


def test_verifying(dgr, files, tmp_path):
    made = dgr("index", files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "index")
    assert made.code == 0, made.err
    verified = dgr("index", "--output", tmp_path / "index", "--verify")
    assert verified.code == 0 and "undamaged: " in verified.err and "and its corpus" in verified.err
    others = (
        ("--compact",), ("--views", "title"), ("--model", "m"), ("--pseudo_queries", "q"), ("--no_save_corpus",)
    )  # fmt: skip
    for other in others:
        refused = dgr("index", "--output", tmp_path / "index", "--verify", *other)
        assert refused.code == 2 and "changes nothing. Give it with --output only" in refused.err, other
    data = next((tmp_path / "index" / "corpus").glob("data-*.arrow"))
    content = data.read_bytes()
    data.write_bytes(content.replace(b"penicillin", b"penicillim", 1))
    assert content != data.read_bytes()
    damaged = dgr("index", "--output", tmp_path / "index", "--verify")
    assert damaged.code == 2 and "The corpus is damaged" in damaged.err
    data.write_bytes(content)
    blocks = next((tmp_path / "index").glob("segment-*/blocks.npy"))
    content = bytearray(blocks.read_bytes())
    content[-1] ^= 1
    blocks.write_bytes(content)
    damaged = dgr("index", "--output", tmp_path / "index", "--verify")
    assert damaged.code == 2 and "The index is damaged" in damaged.err


def test_an_index_in_segments_goes_on_where_it_was_stopped(dgr, files, tmp_path, monkeypatch):
    made = (files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "index", "--segment_tokens", 200)

    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("dgr_trainer.cli.index._write", stopped)
        assert dgr("index", *made).code == 130
    assert not (tmp_path / "index").exists()
    monkeypatch.setattr("dgr_trainer.index.resumable_build.add_segments", stopped)  # Nothing is left to index.
    done = dgr("index", *made)
    assert done.code == 0, done.err
    assert FMIndex.load(tmp_path / "index").num_passages == 24
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_an_index_in_segments_that_another_job_makes_is_refused(dgr, files, tmp_path):
    made = (files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "index", "--segment_tokens", 200)
    lock = JobLock(tmp_path / ".index.segments.lock")
    assert lock.acquire()
    found = dgr("index", *made)
    assert found.code == 2 and f"is being written by process {os.getpid()} on " in found.err
    lock.release()
    assert dgr("index", *made).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
