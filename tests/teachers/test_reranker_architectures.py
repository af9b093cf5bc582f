"""Rerankers of the architectures that are in use: scores in batches are those that transformers alone gives a pair."""

import pytest
import torch
import transformers
from teachers.reranker_models import word_tokenizer
from tiny_models import plain_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from dgr_trainer import CausalLMTeacher, CrossEncoderTeacher
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.prompts import BGE_RERANKER_GEMMA

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 130,
    "initializer_range": 0.5,
}
DECODER = {**SIZES, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 1024}

# With a model that is one, where a well-known one is.
CROSS_ENCODERS = {
    "xlm-roberta": {"type_vocab_size": 1},  # BAAI/bge-reranker-v2-m3
    "roberta": {"type_vocab_size": 1},  # cross-encoder/stsb-roberta-base
    "electra": {"embedding_size": 16},  # cross-encoder/ms-marco-electra-base, intfloat/simlm-msmarco-reranker
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": "p2c|c2p",
        "type_vocab_size": 0,
    },  # mxbai-rerank-base-v1
    "modernbert": {"local_attention": 16, "pad_token_id": 0},  # Alibaba-NLP/gte-reranker-modernbert-base
    "mistral": {"num_key_value_heads": 1},  # decoders with one label, as RankLLaMA
}


@pytest.fixture(scope="module")
def candidates(queries, corpus):
    ids = list(corpus.ids)
    return Rankings({id: dict.fromkeys(ids[row : row + 4], 0.0) for row, id in enumerate(queries["query_id"])})


def pairs_of(rankings, queries, corpus):
    texts = dict(zip(queries["query_id"], queries["query"], strict=True))
    for query_id in rankings:
        for passage_id, score in zip(*rankings[query_id], strict=True):
            passage = corpus.get(passage_id)
            yield texts[query_id], f"{passage.title}: {passage.text}", score


@pytest.mark.parametrize("family", CROSS_ENCODERS)
def test_cross_encoders(family, corpus, queries, candidates, tmp_path):
    torch.manual_seed(0)
    tokenizer = plain_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if family == "electra":
        tokenizer.model_input_names.insert(1, "token_type_ids")
    sizes = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "num_labels": 1}
    config = transformers.CONFIG_MAPPING[family](**{**sizes, **CROSS_ENCODERS[family]})
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    teacher = CrossEncoderTeacher(tmp_path, corpus, batch_tokens=400, progress=False)
    found = teacher.rank(queries, candidates)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    scores = []
    for query, passage, score in pairs_of(found, queries, corpus):
        with torch.no_grad():
            alone = model(**tokenizer(query, passage, return_tensors="pt")).logits[0, 0].item()
        assert score == pytest.approx(alone, rel=1e-3, abs=1e-3)
        scores.append(score)
    assert torch.tensor(scores).std() > 0.01


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text", "mistral", "phi3"])
def test_causal_models(family, corpus, queries, candidates, tmp_path):
    """bge-reranker-v2-gemma is of the first family, bge-reranker-v2.5 of the second."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(bos=family.startswith("gemma"), eos=False)
    sizes = {**DECODER, "vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if family == "phi3":
        del sizes["head_dim"]
    config = transformers.CONFIG_MAPPING[family](**sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    teacher = CausalLMTeacher(tmp_path, corpus, "bge-reranker-gemma", batch_tokens=2000, progress=False)
    found = teacher.rank(queries, candidates)
    model, yes = AutoModelForCausalLM.from_pretrained(tmp_path).eval(), tokenizer.convert_tokens_to_ids("Yes")
    scores = []
    for query, passage, score in list(pairs_of(found, queries, corpus))[::3]:
        ids = tokenizer(f"A: {query}\nB: {passage}\n{BGE_RERANKER_GEMMA.segments[-1]}", return_tensors="pt")[
            "input_ids"
        ]
        with torch.no_grad():
            assert score == pytest.approx(model(ids).logits[0, -1, yes].item(), rel=1e-3, abs=1e-3)
        scores.append(score)
    assert torch.tensor(scores).std() > 0.01
