"""Several threads that use one model: searches beside searches, and searches beside training."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from architectures import as_batch, checkpoint_activations, random_identifiers, score_tokens, without_dropout
from peft import LoraConfig, get_peft_model
from retrieval.causal_students import make_causal
from tiny_models import TOKENIZERS, make_bart, make_t5

from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings
from dgr_trainer.student.likelihoods import score_identifiers

QUERIES = [
    "who discovered penicillin", "how do bees find flowers", "Johannes Gutenberg of Mainz", "the sea",
    "what is a volcano", "why is the sky blue", "steam engines", "mountains",
]  # fmt: skip
MODES = ["eval", "train"]
LLAMA, LLAMA_LORA = (pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "llama-lora"))


def make_student(name):
    if name.startswith("llama"):
        tokenizer = TOKENIZERS["bpe"]()
        model = make_causal("llama", len(tokenizer))
        if name == "llama":
            return model, tokenizer
        config = LoraConfig(
            task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "up_proj", "lm_head"], init_lora_weights=False
        )
        return get_peft_model(model, config), tokenizer
    if name == "t5":
        tokenizer = TOKENIZERS["unigram"]()
        return make_t5(tokenizer), tokenizer
    tokenizer = TOKENIZERS["bpe"]()
    model = make_bart(tokenizer)
    torch.nn.init.normal_(model.final_logits_bias)  # Must take part, and stay as it is.
    if name == "bart":
        return model, tokenizer
    if name == "lora":
        config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    else:  # Peft registers a parametrization of the layer for the time of each call.
        config = LoraConfig(r=2, target_modules=[], target_parameters=["fc1.weight"], init_lora_weights=False)
    return get_peft_model(model, config), tokenizer


def make_retriever(name, corpus, mode):
    model, tokenizer = make_student(name)
    model.train(mode == "train")
    if hasattr(model, "peft_config"):  # A mixture of modes.
        model.base_model.eval()
    else:
        (model.model.layers[0] if name == "llama" else model.get_encoder()).eval()
    identifiers = Identifiers(tokenizer, IdentifierSettings(closed_prompts=not name.startswith("llama")))
    index = FMIndex.from_corpus(corpus, identifiers)
    return GenerativeRetriever(model, identifiers, index, settings=SearchSettings(beam_size=4, batch_size=2))


def everything(model):
    """Weights, modes, hooks and attributes of all modules."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = [
        (
            name,
            type(module),
            module.training,
            [*module._forward_hooks],
            [*module._forward_pre_hooks],
            sorted(vars(module)),
        )
        for name, module in model.named_modules()
    ]
    return weights, modules


def assert_untouched(model, before):
    weights, modules = everything(model)
    assert modules == before[1]
    assert weights.keys() == before[0].keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, before[0][name]), name


def as_values(hits):
    return [(hit.passage_id, hit.score, [(one.view, one.ids, one.score) for one in hit.identifiers]) for hit in hits]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["bart", "t5", "lora", "parameters", LLAMA, LLAMA_LORA])
def test_searches_in_threads_are_those_of_one_thread(name, mode, corpus, tmp_path):
    retriever = make_retriever(name, corpus, mode)
    before = everything(retriever.model)
    serial = [as_values(retriever.search(query, k=5)[0]) for query in QUERIES]
    assert any(serial)
    with ThreadPoolExecutor(4) as pool:
        threaded = [as_values(hits[0]) for hits in pool.map(lambda query: retriever.search(query, k=5), QUERIES * 3)]
    assert threaded == serial * 3
    assert_untouched(retriever.model, before)
    assert [as_values(retriever.search(query, k=5)[0]) for query in QUERIES] == serial
    if name in ("bart", "llama"):
        retriever.save_pretrained(tmp_path / "saved")
        loaded = GenerativeRetriever.from_pretrained(tmp_path / "saved")
        assert [as_values(loaded.search(query, k=5)[0]) for query in QUERIES] == serial


def test_searches_of_several_retrievers_and_scores_share_one_model(corpus):
    model, tokenizer = make_student("bart")
    retrievers = []
    for views, kind in ((("docid",), "log_likelihood"), (("title", "substring"), "log_odds")):
        identifiers = Identifiers(tokenizer, IdentifierSettings(views=views))
        retrievers.append(
            GenerativeRetriever(
                model,
                identifiers,
                FMIndex.from_corpus(corpus, identifiers),
                settings=SearchSettings(beam_size=3),
                scoring=ScoringSettings(kind=kind),
            )  # fmt: skip
        )
    ids, _, texts = random_identifiers()
    prompts = [text[0] for text in texts]
    jobs = [lambda r=r, q=q: as_values(r.search(q, k=4)[0]) for r in retrievers for q in QUERIES[:4]]
    jobs += [lambda: score_identifiers(model, prompts, ids)] * 4
    serial = [job() for job in jobs]
    before = everything(model)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda job: job(), jobs)) == serial
    assert_untouched(model, before)

    async def in_a_server():
        return await asyncio.gather(*(asyncio.to_thread(job) for job in jobs))

    assert asyncio.run(in_a_server()) == serial


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["bart", "t5", "lora", LLAMA, LLAMA_LORA])
def test_training_beside_searching(name, checkpointing, corpus):
    retriever = make_retriever(name, corpus, "eval")
    model = retriever.model
    if checkpointing:
        checkpoint_activations(model, use_reentrant=False)
    without_dropout(model)
    batch = as_batch(*random_identifiers())

    def step():
        loss = score_tokens(model, *batch, tokens_at_once=60).log_probabilities.sum()
        loss.backward()
        gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return loss.item(), gradients

    serial_hits = as_values(retriever.search(QUERIES[0], k=5)[0])
    serial_loss, serial_gradients = step()
    before = everything(model)
    stop, found = threading.Event(), []

    def search():
        while not stop.is_set():
            found.append(as_values(retriever.search(QUERIES[0], k=5)[0]))

    thread = threading.Thread(target=search)
    thread.start()
    try:
        while len(found) < 3 and thread.is_alive():
            loss, gradients = step()
            assert loss == serial_loss and all(module.training for module in model.modules())
            assert all(torch.equal(gradients[key], value) for key, value in serial_gradients.items())
    finally:
        stop.set()
        thread.join()
    assert len(found) >= 3 and all(hits == serial_hits for hits in found)
    assert_untouched(model, before)


def test_a_model_that_cannot_be_copied_is_used_by_one_thread_at_a_time(corpus):
    retriever = make_retriever("bart", corpus, "train")
    model = retriever.model
    inner = model.forward
    model.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    before = everything(model)
    serial = [as_values(retriever.search(query, k=5)[0]) for query in QUERIES]
    with ThreadPoolExecutor(4) as pool:
        assert [as_values(hits[0]) for hits in pool.map(lambda query: retriever.search(query, k=5), QUERIES)] == serial
    assert_untouched(model, before)


def test_the_tokenizer_may_be_used_meanwhile(monkeypatch):
    """A fast tokenizer keeps truncation and padding as a state, which all threads share."""
    tokenizer = TOKENIZERS["bpe"]()
    identifiers = Identifiers(tokenizer)
    serial = identifiers.encode_prompts(QUERIES, "title")
    set_state = tokenizer.set_truncation_and_padding

    def interrupted(*args, **kwargs):
        set_state(*args, **kwargs)
        tokenizer.backend_tokenizer.enable_truncation(2)  # By another thread, before this one uses the tokenizer.

    monkeypatch.setattr(tokenizer, "set_truncation_and_padding", interrupted)
    assert len(tokenizer(QUERIES[0], truncation=False)["input_ids"]) == 2
    assert identifiers.encode_prompts(QUERIES, "title") == serial
