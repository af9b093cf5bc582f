import copy
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from teachers.reranker_models import save_encoder
from transformers import BertModel, MPNetConfig, MPNetModel

from dgr_trainer import BiEncoderTeacher
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRError
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


def save_modules(folder, modules, **settings):
    """Save a model of sentence-transformers that consists of these modules."""
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu", **settings).save(str(folder))
    return folder


def scores_of_sentence_transformers(folder, corpus, query):
    """The cosines of `encode_query` and `encode_document`."""
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    texts = [f"{passage.title}: {passage.text}" for passage in corpus]
    passages = model.encode_document(texts, normalize_embeddings=True)
    return dict(
        zip(corpus.ids, (passages @ model.encode_query(query, normalize_embeddings=True)).tolist(), strict=True)
    )


@pytest.fixture(scope="module")
def router(folder, tmp_path_factory):
    """Queries and passages are read by different encoders."""
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    other = save_encoder(tmp_path_factory.mktemp("other"))
    torch.manual_seed(7)
    model = BertModel.from_pretrained(other)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.5
    model.save_pretrained(other)
    routes = [[Transformer(str(one)), Pooling(16, "mean")] for one in (folder, other)]
    routed = Router.for_query_document(query_modules=routes[0], document_modules=routes[1])
    return save_modules(tmp_path_factory.mktemp("router"), [routed])


def test_queries_and_passages_take_the_routes_of_their_tasks(router, corpus):
    found = scores_of(BiEncoderTeacher(router, corpus, progress=False).rank({"q": "long rivers"}, k=24))["q"]
    assert found == pytest.approx(scores_of_sentence_transformers(router, corpus, "long rivers"), abs=1e-4)


def test_a_prompt_that_is_left_out_of_the_mean(folder, corpus, tmp_path):
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    prompts = {"query": "a question about rivers: ", "document": "a text: "}
    modules = [Transformer(str(folder)), Pooling(16, "mean", include_prompt=False)]
    save_modules(tmp_path, modules, prompts=prompts)
    found = scores_of(BiEncoderTeacher(tmp_path, corpus, progress=False).rank({"q": "long rivers"}, k=24))["q"]
    assert found == pytest.approx(scores_of_sentence_transformers(tmp_path, corpus, "long rivers"), abs=1e-4)


def test_routes_of_other_names_are_refused(folder, corpus, tmp_path):
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    routed = Router({"question": [Transformer(str(folder)), Pooling(16, "mean")]}, default_route="question")
    with pytest.raises(ValueError, match="cannot encode texts for the task 'query': No route found for task type"):
        BiEncoderTeacher(save_modules(tmp_path, [routed]), corpus)


def test_batches_count_the_tokens_of_the_prefix(folder, corpus, plain_tokenizer):
    prefix = "river " * 20
    teacher, batches = BiEncoderTeacher(folder, corpus, passage_prefix=prefix, batch_tokens=200, progress=False), []
    encode = teacher.model.encode
    teacher.model.encode = lambda texts, **how: batches.append(texts) or encode(texts, **how)
    teacher.rank({"q": "sea"})
    *passages, _ = batches
    lengths = [
        [len(ids) for ids in plain_tokenizer([prefix + text for text in texts])["input_ids"]] for texts in passages
    ]
    assert all(len(some) == 1 or len(some) * max(some) <= 200 for some in lengths)


def test_vectors_of_another_pooling_or_tokenizer_are_refused(folder, corpus, tmp_path):
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    def rank(model):
        return BiEncoderTeacher(model, corpus, vectors=tmp_path / "vectors", progress=False).rank({"q": "sea"})

    mean = save_modules(tmp_path / "mean", [Transformer(str(folder)), Pooling(16, "mean")])
    found = rank(mean)
    first_token = save_modules(tmp_path / "cls", [Transformer(str(folder)), Pooling(16, "cls")])
    with pytest.raises(ValueError, match="were made with modules='.*Give another folder, or delete this one"):
        rank(first_token)
    other_words = shutil.copytree(mean, tmp_path / "words")
    tokenizer = json.loads((other_words / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (other_words / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"were made with tokenizers=\['.*Give another folder, or delete this one"):
        rank(other_words)
    # Where the model lies is no part of it.
    assert rank(shutil.copytree(mean, tmp_path / "copy")) == found


def test_vectors_of_an_earlier_version_are_refused(folder, corpus, tmp_path):
    BiEncoderTeacher(folder, corpus, vectors=tmp_path, progress=False).rank({"q": "sea"})
    content = json.loads((tmp_path / "vectors.json").read_text())
    assert content.pop("modules") and content.pop("tokenizers")
    (tmp_path / "vectors.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="were made with modules=None, but now it is"):
        BiEncoderTeacher(folder, corpus, vectors=tmp_path, progress=False).rank({"q": "sea"})


def test_vectors_of_a_router_are_kept(router, corpus, tmp_path):
    found = [BiEncoderTeacher(router, corpus, vectors=tmp_path, progress=False).rank({"q": "sea"}) for _ in range(2)]
    assert found[0] == found[1]
    assert len(json.loads((tmp_path / "vectors.json").read_text())["tokenizers"]) == 2


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
        ({"max_length": 0}, "max_length is 0, but an input has at least 1 token"),
        ({"max_length": -5}, "max_length is -5"),
        ({"vectors_dtype": "bfloat16"}, "vectors_dtype is 'bfloat16', but vectors are kept as one of"),
        ({"passage_template": "{body}"}, "passage_template .* has the field {body}"),
    ],
)
def test_bad_settings_are_refused_before_the_model_is_loaded(corpus, settings, message):
    with pytest.raises(ValueError, match=message):
        BiEncoderTeacher("no/such-model", corpus, **settings)


LONG = Corpus.from_passages([Passage("p", text="river " * 300)])


def test_max_length_is_checked_against_the_positions_of_the_model(folder):
    for max_length in (129, 1024):
        with pytest.raises(ValueError, match=f"max_length is {max_length}, but .* has positions for 128 tokens"):
            BiEncoderTeacher(folder, LONG, max_length=max_length)
    for max_length in (1, 2):
        with pytest.raises(ValueError, match=f"max_length is {max_length}, but an input of .* has 2 special tokens"):
            BiEncoderTeacher(folder, LONG, max_length=max_length)
    for max_length in (3, 128):
        teacher = BiEncoderTeacher(folder, LONG, max_length=max_length, progress=False)
        assert len(teacher.rank({"q": "sea"})["q"].scores) == 1 and teacher.model.max_seq_length == max_length


def test_max_length_is_checked_for_every_route(router):
    with pytest.raises(ValueError, match="max_length is 129, but .* has positions for 128 tokens"):
        BiEncoderTeacher(router, LONG, max_length=129)
    assert BiEncoderTeacher(router, LONG, max_length=20, progress=False).model.max_seq_length == 20


def test_texts_are_cut_at_the_positions_after_the_paddings(plain_tokenizer, tmp_path):
    tokenizer = copy.deepcopy(plain_tokenizer)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = MPNetConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    MPNetModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    teacher = BiEncoderTeacher(tmp_path, LONG, progress=False)
    assert teacher.model.max_seq_length == 62 and len(teacher.rank({"q": "sea"})["q"].scores) == 1


def test_a_model_without_a_transformer_has_no_max_length(plain_tokenizer, tmp_path):
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    static = save_modules(
        tmp_path, [StaticEmbedding(copy.deepcopy(plain_tokenizer).backend_tokenizer, embedding_dim=8)]
    )
    with pytest.raises(ValueError, match="max_length is 64, but .* has no transformer, and reads texts of any length"):
        BiEncoderTeacher(static, LONG, max_length=64)
    assert len(BiEncoderTeacher(static, LONG, progress=False).rank({"q": "sea"})["q"].scores) == 1


def test_a_damaged_configuration_is_an_error_of_the_input(folder, corpus, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "model")
    (damaged / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(DGRError, match="is not a model that sentence-transformers loads, or its files are damaged: "):
        BiEncoderTeacher(damaged, corpus)


def test_missing_packages_name_their_extras(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'pip install "dgr-trainer\[faiss\]"'):
        BiEncoderTeacher("any/model", corpus, faiss="Flat")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r'pip install "dgr-trainer\[bi-encoder\]"'):
        BiEncoderTeacher("any/model", corpus)
