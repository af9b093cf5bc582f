"""Retrievers with decoder-only models: built, saved, loaded, used on the command line."""

import json
import logging

import peft
import pytest
import torch
from identifiers.test_prompts import chat_tokenizer
from retrieval.causal_students import FAST, SLOW, causal_identifiers, make_causal
from tiny_models import TOKENIZERS
from transformers import AutoModelForCausalLM

from dgr_trainer.candidates import Candidates
from dgr_trainer.cli.main import main
from dgr_trainer.data.passages import Passage
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings, identifier_lengths
from dgr_trainer.retrieval.identifier_lengths import generated_lengths
from dgr_trainer.student import prompt_check

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore:.is_gradient_checkpointing. is depr")
QUERIES = ["who discovered penicillin", "sea"]
EVERY = [*FAST[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in [*FAST[1:], *SLOW])]


def made(model, corpus, identifiers=None, **options):
    identifiers = identifiers or causal_identifiers()
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    return GenerativeRetriever(
        model, identifiers, index, corpus=corpus, **{"settings": SearchSettings(beam_size=4), **options}
    )


@pytest.mark.parametrize("name", EVERY)
def test_a_retriever_survives_its_folder(name, corpus, tmp_path):
    retriever = made(make_causal(name, 700), corpus)
    expected = retriever.search(QUERIES, k=4)
    assert all(expected)
    retriever.save_pretrained(tmp_path / "saved")
    loaded = GenerativeRetriever.from_pretrained(tmp_path / "saved")
    assert type(loaded.model) is type(retriever.model) and not loaded.model.training
    assert loaded.search(QUERIES, k=4) == expected
    assert loaded.identifiers.settings == retriever.identifiers.settings
    half = GenerativeRetriever.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    assert all(torch.isfinite(torch.tensor(hit.score)) for hits in half.search(QUERIES, k=4) for hit in hits)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_an_adapter_survives_its_folder(name, corpus, tmp_path):
    """With embeddings of a token that the base model does not have."""
    make_causal(name, 700).save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(701)
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    retriever = made(peft.get_peft_model(base, config).eval(), corpus)
    expected = retriever.search(QUERIES, k=4)
    assert expected != made(make_causal(name, 700), corpus).search(QUERIES, k=4)
    retriever.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "model.safetensors").exists()
    loaded = GenerativeRetriever.from_pretrained(tmp_path / "saved")
    assert loaded.search(QUERIES, k=4) == expected
    assert loaded.model.get_input_embeddings().weight.shape[0] == 701


def test_batches_give_what_single_queries_give(corpus):
    retriever = made(make_causal("mistral", 700), corpus)
    together = retriever.search([*QUERIES, ""], k=5)
    assert together[2] == []
    for query, hits in zip(QUERIES, together, strict=False):
        (alone,) = retriever.search(query, k=5)
        assert [hit.passage_id for hit in alone] == [hit.passage_id for hit in hits]
        assert [hit.score for hit in alone] == pytest.approx([hit.score for hit in hits], rel=1e-4)


def test_the_score_of_a_docid_is_its_log_likelihood(corpus):
    identifiers = causal_identifiers(views=("docid",))
    model = make_causal("llama", 700)
    retriever = made(model, corpus, identifiers, scoring=ScoringSettings(kind="log_likelihood"))
    (hits,) = retriever.search(QUERIES[0], k=len(corpus))
    prompt = identifiers.encode_prompts(QUERIES[:1], "docid")[0]
    for hit in hits:
        docid = [*identifiers.encode_segments([Passage(hit.passage_id, "")])[0].docid, identifiers.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *docid[:-1]]]), use_cache=False).logits[0, len(prompt) - 1 :]
        assert hit.score == pytest.approx(logits.log_softmax(-1)[range(len(docid)), docid].sum().item(), rel=1e-4)


@pytest.mark.slow
def test_prompts_of_a_chat_model_are_saved_with_it(corpus, tmp_path):
    tokenizer = chat_tokenizer("turns")
    identifiers = Identifiers(tokenizer, IdentifierSettings(chat=True, max_query_length=120))
    retriever = made(make_causal("llama", len(tokenizer), max_position_embeddings=256), corpus, identifiers)
    expected = retriever.search(QUERIES, k=4)
    retriever.save_pretrained(tmp_path / "saved")
    loaded = GenerativeRetriever.from_pretrained(tmp_path / "saved")
    assert loaded.identifiers.prompt("sea", "title") == identifiers.prompt("sea", "title")
    assert "<|im_start|>assistant" in loaded.identifiers.prompt("sea", "title")
    assert loaded.search(QUERIES, k=4) == expected


@pytest.mark.slow
def test_search_and_candidates_on_the_command_line(corpus, qrels, tmp_path, capsys):
    retriever = made(make_causal("llama", 700), corpus)
    retriever.save_pretrained(tmp_path / "saved")
    expected = retriever.search(QUERIES[0], k=3)[0]
    assert main(["search", str(tmp_path / "saved"), QUERIES[0], "-k", "3", "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [hit["passage_id"] for hit in found["hits"]] == [hit.passage_id for hit in expected]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in expected])
    (tmp_path / "queries.tsv").write_text(f"q1\t{QUERIES[0]}\n")
    (tmp_path / "qrels.txt").write_text("q1 0 p01 1\n")
    files = ["--queries", str(tmp_path / "queries.tsv"), "--qrels", str(tmp_path / "qrels.txt")]
    arguments = [str(tmp_path / "saved"), *files, "--output", str(tmp_path / "candidates"), "-k", "3"]
    assert main(["candidates", *arguments, "--device", "cpu"]) == 0
    candidates = Candidates.load_from_disk(tmp_path / "candidates")
    expected = retriever.search(QUERIES[0], k=3, leave_out_own_text=True)[0]
    assert {hit.passage_id for hit in expected} <= set(candidates.passage_ids("q1"))


# Prompts and lengths that do not fit


def test_prompts_that_end_are_told_of_once(corpus, caplog, monkeypatch):
    monkeypatch.setattr(prompt_check, "_warned", set())
    for _ in range(2):
        made(make_causal("llama", 700), corpus, Identifiers(TOKENIZERS["bpe"]()))
    assert caplog.text.count("ends each prompt with '</s>', behind which") == 1
    assert "such as LlamaForCausalLM" in caplog.text and "closed_prompts=False" in caplog.text
    caplog.clear()
    made(make_causal("qwen3", 700), corpus)
    assert "ends each prompt" not in caplog.text


def test_prompts_that_fill_all_positions_are_refused(corpus):
    with pytest.raises(ValueError, match="max_query_length=65 tokens fill all positions of GPT2LMHeadModel"):
        made(make_causal("gpt2", 700, n_positions=64), corpus, causal_identifiers(max_query_length=65))


def test_identifiers_are_bounded_by_the_positions_that_prompts_leave(corpus, caplog):
    identifiers = causal_identifiers(views=("docid",), max_query_length=60)
    model = make_causal("gpt2", 700, n_positions=64)
    # The last token is written, but not read.
    assert generated_lengths(model, identifiers, SearchSettings()) == {"docid": 5}
    assert generated_lengths(make_causal("llama", 700), identifiers, SearchSettings())["docid"] > 10**9
    long = corpus.from_passages([Passage("a", "x", docid="river mountain town island volcano painter " * 3)])
    identifier_lengths._say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "dgr_trainer"):
        retriever = made(model, long, identifiers)
    assert "Behind a prompt of max_query_length=60, the model has room for 5 tokens" in caplog.text
    assert "lower max_query_length" in caplog.text
    retriever.search("painter " * 90, k=1)  # The longest prompt, and as much as there is room for.
