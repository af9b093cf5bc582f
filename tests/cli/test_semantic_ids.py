"""`dgr semantic_ids`, and the commands that use what it writes."""

import json

import numpy as np
import pytest
from sample_corpus import PASSAGES
from teachers.reranker_models import save_encoder
from tiny_models import bpe_tokenizer, make_bart, make_causal, make_t5, unigram_tokenizer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from dgr_trainer import BiEncoderTeacher, Corpus, GenerativeRetriever, SemanticIds

SMALL = ("--levels", 2, "--size", 4)


@pytest.fixture
def vectors(tmp_path):
    made = np.random.default_rng(0).standard_normal((len(PASSAGES), 8)).astype(np.float16)
    np.save(tmp_path / "vectors.npy", made)
    return tmp_path / "vectors.npy"


def test_from_a_file_of_vectors_to_an_index(dgr, files, vectors, tmp_path):
    made = ("semantic_ids", files / "corpus.jsonl", "--vectors", vectors, *SMALL, "--output", tmp_path / "ids")
    found = dgr(*made, "--student", files / "bart", "--pad_to_multiple_of", 8)
    assert found.code == 0, found.err
    ids = SemanticIds.load(tmp_path / "ids")
    assert found.out.strip() == str(ids.statistics(np.load(vectors)))
    expected = SemanticIds.fit(vectors, [p.id for p in PASSAGES], levels=2, size=4, progress=False)
    assert ids.docids() == expected.docids()
    assert json.loads((tmp_path / "ids" / "statistics.json").read_text()) == ids.statistics(vectors).to_dict()
    corpus = Corpus.read(tmp_path / "ids" / "corpus.jsonl")
    assert {passage.id: passage.docid for passage in corpus} == ids.docids()
    assert corpus.get("p01").pseudo_queries == Corpus.read(files / "corpus.jsonl").get("p01").pseudo_queries
    student, tokenizer = (
        auto.from_pretrained(tmp_path / "ids" / "student") for auto in (AutoModelForSeq2SeqLM, AutoTokenizer)
    )
    ids.check_tokenizer(tokenizer)
    assert student.get_input_embeddings().num_embeddings % 8 == 0
    again = dgr(*made)
    assert again.code == 2 and "ids exists already. Add --overwrite" in again.err
    assert dgr(*made, "--overwrite", "--balanced", "--size", 4, 3).code == 0
    assert SemanticIds.load(tmp_path / "ids").sizes == (4, 3)
    assert not (tmp_path / "ids" / "student").exists()


STUDENTS = {
    "bart": (make_bart, bpe_tokenizer, "q_proj"),
    "t5": (make_t5, unigram_tokenizer, "q"),
    "qwen3": (make_causal, bpe_tokenizer, "q_proj"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_the_flow_to_a_retriever(name, dgr, files, vectors, tmp_path):
    make, load_tokenizer, target = STUDENTS[name]
    make(load_tokenizer()).save_pretrained(tmp_path / name)
    load_tokenizer().save_pretrained(tmp_path / name)
    made = ("semantic_ids", files / "corpus.jsonl", "--vectors", vectors, *SMALL, "--output", tmp_path / "ids")
    assert dgr(*made, "--student", tmp_path / name).code == 0
    student = tmp_path / "ids" / "student"
    indexed = dgr("index", tmp_path / "ids" / "corpus.jsonl", "--model", student, "--views", "docid",
                  "--output", tmp_path / "index")  # fmt: skip
    assert indexed.code == 0, indexed.err
    data = ("--queries", files / "queries.tsv", "--qrels", files / "qrels.txt", "--report_to", "none")
    steps = ("--max_steps", 2, "--use_cpu", "--index", tmp_path / "index")
    generation = dgr("train", "--stage", "generation", "--model", student, *steps, *data,
                     "--output_dir", tmp_path / "generation")  # fmt: skip
    assert generation.code == 0, generation.err
    first = GenerativeRetriever.from_pretrained(tmp_path / "generation" / "retriever")
    assert first.semantic_ids.docids() == SemanticIds.load(tmp_path / "ids").docids()
    lora = ("--lora_r", 2, "--lora_target_modules", target, "--lora_added_tokens")
    distilled = dgr("train", "--stage", "distillation", "--model", student, *steps, *data, *lora, "--prefix_ranking",
                    "--identifiers", tmp_path / "ids" / "identifiers.jsonl", "--run", files / "best.trec",
                    "--output_dir", tmp_path / "distilled")  # fmt: skip
    assert distilled.code == 0, distilled.err
    assert "were added to the tokenizer" not in distilled.err
    second = GenerativeRetriever.from_pretrained(tmp_path / "distilled" / "retriever")
    trained = second.model.peft_config["default"].trainable_token_indices
    tokens = second.identifiers.tokenizer.convert_tokens_to_ids(second.semantic_ids.tokens)
    assert list(trained.values()) == [sorted(tokens)]
    found = dgr("search", tmp_path / "distilled" / "retriever", "the highest mountain", "--k", 3, "--json")
    assert found.code == 0 and "<c1_" in found.out, found.err


@pytest.mark.slow
def test_from_a_bi_encoder(dgr, files, tmp_path):
    model = save_encoder(tmp_path / "encoder")
    kept = tmp_path / "kept"
    made = ("semantic_ids", files / "corpus.jsonl", *SMALL)
    encoded = dgr(*made, "--bi_encoder", model, "--passage_prefix", "passage: ", "--vectors", kept, "--device", "cpu",
                  "--output", tmp_path / "encoded")  # fmt: skip
    assert encoded.code == 0, encoded.err
    corpus = Corpus.read(files / "corpus.jsonl")
    teacher = BiEncoderTeacher(model, corpus, passage_prefix="passage: ", progress=False)
    expected = SemanticIds.fit(teacher, levels=2, size=4, progress=False).docids()
    # From what was kept, without the model; and refused for another corpus.
    stored = dgr(*made, "--vectors", kept, "--output", tmp_path / "stored")
    assert stored.code == 0, stored.err
    for folder in ("encoded", "stored"):
        assert SemanticIds.load(tmp_path / folder).docids() == expected
    (tmp_path / "other.jsonl").write_text("".join((files / "corpus.jsonl").read_text().splitlines(True)[:20]))
    other = dgr("semantic_ids", tmp_path / "other.jsonl", *SMALL, "--vectors", kept, "--output", tmp_path / "none")
    assert other.code == 2 and "were made with corpus=" in other.err
    (kept / "vectors.json").unlink()
    (kept / "partial.npy").touch()
    cut = dgr(*made, "--vectors", kept, "--output", tmp_path / "none")
    assert cut.code == 2 and "has no vectors.json. Their computation was interrupted: run it again" in cut.err


def test_atomic_ids_need_no_vectors(dgr, files, vectors, tmp_path):
    made = ("semantic_ids", files / "corpus.jsonl", "--kind", "atomic", "--output", tmp_path / "ids")
    found = dgr(*made, "--vectors", vectors)
    assert found.code == 2 and "--kind atomic gives each passage a token" in found.err
    found = dgr(*made, "--name", "item")
    assert found.code == 0 and found.out.startswith("atomic ids of 24 passages"), found.err
    assert SemanticIds.load(tmp_path / "ids")["p01"] == "<item1_0>"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--kind residual needs the vectors of the passages. Give --vectors, or a --bi_encoder"),
        (("--vectors", "none.npy"), "--vectors: none.npy does not exist"),
        (("--vectors", "{vectors}", "--dtype", "float16"), "--dtype is a setting of the bi-encoder, but there is no"),
        (("--vectors", "{vectors}", "--pad_to_multiple_of", 8), "is a number of embeddings of --student, at least 1"),
        (("--vectors", "{vectors}", "--levels", 0), "levels=0, but a docid needs at least 1 code"),
        (("--vectors", "{vectors}", "--size", 4, 4), "levels. Give one number for all levels, or one for each"),
        (("--vectors", "{vectors}"), "There are 24 vectors, but a level has 256 codes"),
        (("--vectors", "{vectors}", "--student", "none/of/these"), "--student: there is no model at 'none/of/these'"),
        (("--bi_encoder", "none/of/these", "--size", 4), "--bi_encoder: there is no model at 'none/of/these'"),
        (("--bi_encoder", "x", "--device", "nothing", "--size", 4), "--device nothing cannot be used"),
        (("--kind", "flat"), "invalid choice: 'flat'"),
    ],
)
def test_errors_come_before_the_work(options, message, dgr, files, vectors, tmp_path):
    options = [str(option).format(vectors=vectors) for option in options]
    found = dgr("semantic_ids", files / "corpus.jsonl", *options, "--output", tmp_path / "ids")
    assert found.code == 2 and message in found.err
    assert not (tmp_path / "ids").exists()


def test_lora_needs_tokens_that_were_added(dgr, files, tmp_path):
    trained = ("train", "--stage", "distillation", "--model", files / "bart", "--identifiers",
               files / "identifiers.tsv", "--run", files / "best.trec", "--queries", files / "queries.tsv",
               "--report_to", "none", "--output_dir", tmp_path / "out", "--lora_added_tokens")  # fmt: skip
    found = dgr(*trained)
    assert found.code == 2 and "--lora_added_tokens is a setting of a LoRA adapter, but --lora_r is 0" in found.err
    found = dgr(*trained, "--lora_r", 2)
    assert found.code == 2 and "--lora_added_tokens: no token was added to the tokenizer of" in found.err
