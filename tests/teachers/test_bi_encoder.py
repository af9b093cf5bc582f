import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from teachers.reranker_models import save_encoder
from transformers import BertModel

from dgr_trainer import BiEncoderTeacher
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers import passage_vectors as storage
from dgr_trainer.teachers.vector_search import nearest

sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra bi-encoder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("model"))


def vector(folder, tokenizer, text):
    """The mean of BERT's token vectors, with transformers alone."""
    with torch.no_grad():
        inputs = tokenizer(text, truncation=True, max_length=128, return_tensors="pt")
        hidden = BertModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[0].mean(0)
    return (hidden / hidden.norm()).numpy()


def scores_of(rankings):
    return {id: dict(zip(*rankings[id], strict=True)) for id in rankings}


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_search_is_exact(passages, k, block, seed):
    generator = np.random.default_rng(seed)
    # Few different vectors: equal ones at every cut.
    vectors = generator.integers(-1, 2, size=(passages, 3)).astype(np.float32)
    queries = generator.integers(-2, 3, size=(4, 3)).astype(np.float32)
    ids = [f"p{number}" for number in generator.permutation(passages)]
    found = nearest(queries, vectors, ids, k, torch.device("cpu"), block)
    for query, hits in zip(queries, found, strict=True):
        everything = [(id, float(score)) for id, score in zip(ids, vectors @ query, strict=True)]
        assert hits == sorted(everything, key=lambda hit: (hit[1], hit[0]), reverse=True)[:k]


def test_scores_are_cosines_of_mean_vectors(folder, plain_tokenizer, corpus):
    teacher = BiEncoderTeacher(folder, corpus, "query: ", "passage: ", "{title} {text}", progress=False)
    found = scores_of(teacher.rank({"q": "long rivers"}, k=24))["q"]
    asked = vector(folder, plain_tokenizer, "query: long rivers")
    assert len(found) == 24
    for passage_id in list(found)[::5]:
        passage = corpus.get(passage_id)
        expected = asked @ vector(folder, plain_tokenizer, f"passage: {passage.title} {passage.text}")
        assert found[passage_id] == pytest.approx(float(expected), abs=1e-4)


def test_candidates_score_as_in_the_search(folder, corpus, queries):
    teacher = BiEncoderTeacher(folder, corpus, progress=False)
    search = scores_of(teacher.rank(queries, k=24))
    candidates = Rankings({id: {"p03": 0.0, "p20": 1.0} for id in queries["query_id"]})
    ranked = scores_of(teacher.rank(queries, candidates))
    for query_id, scores in ranked.items():
        assert scores == pytest.approx({id: search[query_id][id] for id in ("p03", "p20")}, abs=1e-5)
    assert list(ranked) == queries["query_id"]


def test_prompts_of_the_model_are_its_prefixes(folder, corpus, tmp_path):
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    model.prompts = {"query": "ask: ", "document": "tell: "}
    model.save(str(tmp_path))
    teacher = BiEncoderTeacher(tmp_path, corpus, progress=False)
    assert (teacher.query_prefix, teacher.passage_prefix) == ("ask: ", "tell: ")
    given_ones = BiEncoderTeacher(folder, corpus, "ask: ", "tell: ", progress=False)
    assert teacher.rank({"q": "sea"}) == given_ones.rank({"q": "sea"})
    assert BiEncoderTeacher(folder, corpus, progress=False).rank({"q": "sea"}) != teacher.rank({"q": "sea"})


def test_vectors_are_computed_once_and_memory_mapped(folder, corpus, tmp_path, monkeypatch):
    first = BiEncoderTeacher(folder, corpus, vectors=tmp_path / "vectors", progress=False)
    expected = first.rank({"q": "sea"})
    again = BiEncoderTeacher(folder, corpus, vectors=tmp_path / "vectors", progress=False)
    monkeypatch.setattr(again, "_passages", None)
    assert again.rank({"q": "sea"}) == expected and isinstance(again.passage_vectors, np.memmap)
    assert sorted(path.name for path in (tmp_path / "vectors").iterdir()) == ["vectors.json", "vectors.npy"]
    assert BiEncoderTeacher(folder, corpus, progress=False).rank({"q": "sea"}) == expected


@pytest.mark.parametrize("fails_at", [1, 3])
def test_vectors_go_on_after_an_interruption(folder, corpus, tmp_path, monkeypatch, fails_at):
    monkeypatch.setattr(storage, "_PASSAGES_PER_BLOCK", 5)
    expected = BiEncoderTeacher(folder, corpus, progress=False).passage_vectors
    teacher = BiEncoderTeacher(folder, corpus, vectors=tmp_path, progress=False)
    passages, blocks = teacher._passages, []

    def failing(positions):
        blocks.append(positions[0])
        if len(blocks) == fails_at:
            raise KeyboardInterrupt
        return passages(positions)

    monkeypatch.setattr(teacher, "_passages", failing)
    with pytest.raises(KeyboardInterrupt):
        teacher.rank({"q": "sea"})
    assert np.array_equal(teacher.passage_vectors, expected)
    assert blocks == sorted([0, 5, 10, 15, 20, 5 * (fails_at - 1)])


def test_an_interruption_at_the_very_end_costs_nothing(folder, corpus, tmp_path, monkeypatch):
    teacher = BiEncoderTeacher(folder, corpus, vectors=tmp_path, progress=False)
    write = storage._write

    def failing(path, content):
        if path.name == "vectors.json":
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(storage, "_write", failing)
        teacher.rank({"q": "sea"})
    assert (tmp_path / "vectors.npy").is_file()
    monkeypatch.setattr(teacher, "_passages", None)  # Nothing is left to encode.
    found = teacher.rank({"q": "sea"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vectors.json", "vectors.npy"]
    assert found == BiEncoderTeacher(folder, corpus, progress=False).rank({"q": "sea"})


def test_a_folder_that_not_all_processes_see_is_refused(folder, corpus, tmp_path):
    class Second:
        process_index, num_processes = 1, 2

        def wait_for_everyone(self):
            """The first one has written its part where this one does not look."""

    teacher = BiEncoderTeacher(folder, corpus, vectors=tmp_path, progress=False)
    teacher.processes = Second()
    with pytest.raises(FileNotFoundError, match="Process 1 of 2 does not see .*Give a folder on a disk that all"):
        teacher.rank({"q": "sea"})


def test_vectors_of_another_corpus_or_model_are_refused(folder, corpus, tmp_path):
    BiEncoderTeacher(folder, corpus, vectors=tmp_path, progress=False).rank({"q": "sea"})
    other = Corpus.from_passages([Passage("p", text="x")])
    with pytest.raises(ValueError, match="were made with corpus='.*Give another folder, or delete this one"):
        BiEncoderTeacher(folder, other, vectors=tmp_path, progress=False).rank({"q": "sea"})
    with pytest.raises(ValueError, match="were made with passage_prefix='', but now it is 'p: '"):
        BiEncoderTeacher(folder, corpus, passage_prefix="p: ", vectors=tmp_path, progress=False).rank({"q": "sea"})
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file, but vectors are kept in a folder"):
        BiEncoderTeacher(folder, corpus, vectors=tmp_path / "file", progress=False).rank({"q": "sea"})


def test_vectors_that_are_no_numbers_are_refused(folder, corpus):
    teacher = BiEncoderTeacher(folder, corpus, progress=False)
    with torch.no_grad():
        next(teacher.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="The vector of passage 'p01' contains numbers that are not finite"):
        teacher.rank({"q": "sea"})


def test_a_batch_has_a_budget_of_tokens_and_changes_no_score(folder, plain_tokenizer, corpus, queries):
    wanted = scores_of(BiEncoderTeacher(folder, corpus, progress=False).rank(queries, k=24))
    for settings in ({"batch_tokens": 60}, {"batch_tokens": 200, "batch_size": 3}, {"batch_tokens": 1}):
        teacher, batches = BiEncoderTeacher(folder, corpus, progress=False, **settings), []
        encode = teacher.model.encode
        teacher.model.encode = lambda texts, encode=encode, batches=batches, **how: (
            batches.append(texts) or encode(texts, **how)
        )
        found = scores_of(teacher.rank(queries, k=24))
        assert found == {query_id: pytest.approx(scores, abs=1e-5) for query_id, scores in wanted.items()}
        lengths = [[len(ids) for ids in plain_tokenizer(texts)["input_ids"]] for texts in batches]
        assert all(len(some) == 1 or len(some) * max(some) <= settings["batch_tokens"] for some in lengths)
        assert max(map(len, batches)) <= settings.get("batch_size", len(corpus))
    assert {len(texts) for texts in batches} == {1}


@pytest.mark.parametrize("how", ["exact", "faiss", "candidates"])
def test_vectors_of_half_precision_rank_alike(folder, corpus, queries, tmp_path, how):
    if how == "faiss":
        pytest.importorskip("faiss", reason="needs the extra faiss")
    settings = {"progress": False, "faiss": "Flat" if how == "faiss" else None}
    candidates = None
    if how == "candidates":
        candidates = Rankings({id: dict.fromkeys(corpus.ids, 0.0) for id in queries["query_id"]})
    whole = BiEncoderTeacher(folder, corpus, vectors=tmp_path / "whole", **settings)
    half = BiEncoderTeacher(folder, corpus, vectors=tmp_path / "half", vectors_dtype="float16", **settings)
    wanted, found = (scores_of(teacher.rank(queries, candidates, k=24)) for teacher in (whole, half))
    assert found == {query_id: pytest.approx(scores, abs=2e-3) for query_id, scores in wanted.items()}
    assert half.passage_vectors.dtype == np.float16 and whole.passage_vectors.dtype == np.float32
    assert np.array_equal(half.passage_vectors, whole.passage_vectors.astype(np.float16))
    sizes = {name: (tmp_path / name / "vectors.npy").stat().st_size - 128 for name in ("whole", "half")}
    assert sizes["whole"] == 2 * sizes["half"] > 0
    in_memory = BiEncoderTeacher(folder, corpus, vectors_dtype="float16", **settings)
    assert np.array_equal(in_memory.passage_vectors, half.passage_vectors)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("first", "second"), [("float32", "float16"), ("float16", "float32"), (None, "float16")])
def test_vectors_of_another_precision_are_refused(corpus, tmp_path, monkeypatch, first, second, finished):
    monkeypatch.setattr(storage, "_PASSAGES_PER_BLOCK", 10)

    def compute(dtype, fails_at=None):
        def encode(positions, _):
            if fails_at in positions:
                raise KeyboardInterrupt
            return np.ones((len(positions), 2), np.float32)

        return storage.compute_passage_vectors(corpus, encode, 2, {}, tmp_path, False, dtype=dtype)

    if finished:
        compute(first or "float32")
    else:
        with pytest.raises(KeyboardInterrupt):
            compute(first or "float32", fails_at=15)
    for file in tmp_path.glob("*.json"):
        if first is None:  # A folder of an earlier version.
            content = json.loads(file.read_text())
            assert content.pop("vectors_dtype") == "float32"
            file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"made with vectors_dtype='{first or 'float32'}', but now it is '{second}'"):
        compute(second)
    assert compute(first or "float32").dtype == (first or "float32")


def test_a_vector_that_half_precision_cannot_hold_is_named(corpus):
    def encode(positions, _):
        return np.array([[1.0, 70000.0 if position == 3 else 1.0] for position in positions], np.float32)

    with pytest.raises(FloatingPointError, match="of passage 'p04' contains 7e.04, which float16 cannot hold. Keep"):
        storage.compute_passage_vectors(corpus, encode, 2, {}, None, False, dtype="float16")
    assert storage.compute_passage_vectors(corpus, encode, 2, {}, None, False).max() == 70000


def test_faiss_finds_the_same(folder, corpus, queries):
    pytest.importorskip("faiss", reason="needs the extra faiss")
    exact = BiEncoderTeacher(folder, corpus, progress=False).rank(queries, k=5)
    by_faiss = BiEncoderTeacher(folder, corpus, faiss="Flat", progress=False).rank(queries, k=5)
    for query_id in exact:
        assert by_faiss[query_id].passage_ids == exact[query_id].passage_ids
        assert by_faiss[query_id].scores == pytest.approx(exact[query_id].scores, abs=1e-5)


def test_other_similarities_are_refused(folder, corpus):
    with pytest.raises(ValueError, match="compares vectors by the euclidean distance, but only cosine and dot"):
        BiEncoderTeacher(folder, corpus, model_kwargs={"similarity_fn_name": "euclidean"})
    dot = BiEncoderTeacher(folder, corpus, model_kwargs={"similarity_fn_name": "dot"}, progress=False)
    assert abs(dot.rank({"q": "sea"})["q"].scores).max() > 1.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"vectors_dtype": "bfloat16"}, "vectors_dtype is 'bfloat16', but vectors are kept as one of"),
        ({"passage_template": "{body}"}, "passage_template .* has the field {body}"),
    ],
)
def test_bad_settings_are_refused_before_the_model_is_loaded(corpus, settings, message):
    with pytest.raises(ValueError, match=message):
        BiEncoderTeacher("no/such-model", corpus, **settings)


def test_missing_packages_name_their_extras(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'pip install "dgr-trainer\[faiss\]"'):
        BiEncoderTeacher("any/model", corpus, faiss="Flat")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r'pip install "dgr-trainer\[bi-encoder\]"'):
        BiEncoderTeacher("any/model", corpus)
