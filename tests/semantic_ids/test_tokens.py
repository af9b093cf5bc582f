"""Tokens of semantic ids in a tokenizer, in models of four architectures, and under LoRA."""

import copy

import numpy as np
import peft
import pytest
import torch
from tiny_models import TOKENIZERS, bpe_tokenizer, make_bart, make_t5
from tokenizers import AddedToken
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from dgr_trainer import Passage, SemanticIds
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.student.embedding_probe import trained_rows

VECTORS = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
IDS = SemanticIds.fit(VECTORS, [f"p{row}" for row in range(60)], levels=2, size=4, progress=False)


def make_gpt2(tokenizer):
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64)
    return GPT2LMHeadModel(config).eval()


def make_llama(tokenizer):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **sizes)).eval()


_STUDENTS = {
    "bart": (make_bart, "bpe"),
    "t5": (make_t5, "unigram"),
    "gpt2": (make_gpt2, "bpe"),
    "llama": (make_llama, "unigram"),
}
STUDENTS = [f"{tie}{name}" for name in _STUDENTS for tie in ("", "untied ")]


def make_student(name):
    """A random student, with an output projection of its own if that is in its name, and its tokenizer."""
    make, tokenizer_name = _STUDENTS[name.removeprefix("untied ")]
    tokenizer = copy.deepcopy(TOKENIZERS[tokenizer_name]())
    torch.manual_seed(0)
    model = make(tokenizer)
    if name.startswith("untied "):
        model.config.tie_word_embeddings = False
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(torch.randn_like(head.weight) * 0.2)
    return model, tokenizer


def rows_of(model):
    return model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()


@pytest.mark.parametrize("name", STUDENTS)
def test_new_rows_are_the_mean_of_the_old_ones(name):
    model, tokenizer = make_student(name)
    known, before = len(tokenizer), [rows.clone() for rows in rows_of(model)]
    ids = IDS.add_to(tokenizer, model, pad_to_multiple_of=16)
    assert ids == list(range(known, known + 3 * 4)) == tokenizer.convert_tokens_to_ids(IDS.tokens)
    for old, new in zip(before, rows_of(model), strict=True):
        assert len(new) % 16 == 0 and len(new) >= known + len(ids)
        assert torch.equal(new[:known], old)
        torch.testing.assert_close(new[known:], old.mean(0).expand(len(new) - known, -1))
    tied = rows_of(model)[0] is not None and rows_of(model)[0].data_ptr() == rows_of(model)[1].data_ptr()
    assert tied != name.startswith("untied")
    # What the model computes for the other tokens has not changed.
    text = tokenizer("the highest mountain", return_tensors="pt")["input_ids"]
    inputs = {"decoder_input_ids": text} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        logits = model(input_ids=text, **inputs).logits
        fresh, _ = make_student(name)
        torch.testing.assert_close(logits[..., :known], fresh(input_ids=text, **inputs).logits)
    assert logits.shape[-1] == len(rows_of(model)[1])
    # Again: nothing is new, and what was trained stays.
    model.get_input_embeddings().weight.data[known:] += 1.0
    trained = rows_of(model)[0].clone()
    assert IDS.add_to(tokenizer, model) == ids and torch.equal(rows_of(model)[0], trained)
    # The tokens that another model needs are known to the tokenizer already.
    other, _ = make_student(name)
    IDS.add_to(tokenizer, other)
    torch.testing.assert_close(rows_of(other)[0][known:], before[0].mean(0).expand(len(ids), -1))


def test_rows_to_spare_are_used_first():
    tokenizer = copy.deepcopy(TOKENIZERS["unigram"]())
    model = make_t5(tokenizer, vocab_size=len(tokenizer) + 20)
    known, before = len(tokenizer), rows_of(model)[0].clone()
    ids = IDS.add_to(tokenizer, model)
    after = rows_of(model)[0]
    assert len(after) == known + 20
    torch.testing.assert_close(after[ids], before[:known].mean(0).expand(len(ids), -1))
    assert torch.equal(after[ids[-1] + 1 :], before[ids[-1] + 1 :])


@pytest.mark.parametrize("tied", [True, False])
def test_the_tables_of_encoder_and_decoder_stay_what_they_are(tied):
    """transformers would put the plain common table in the place of scaled ones, and of ones with own weights."""
    tokenizer = copy.deepcopy(TOKENIZERS["bpe"]())
    model = make_bart(tokenizer, scale_embedding=True, tie_word_embeddings=tied)
    tables = {name: getattr(model.model, name).embed_tokens for name in ("encoder", "decoder")}
    before = {name: table(torch.arange(len(tokenizer))).detach() for name, table in tables.items()}
    ids = IDS.add_to(tokenizer, model)
    for name, table in tables.items():
        assert getattr(model.model, name).embed_tokens is table and table.num_embeddings == len(tokenizer)
        assert torch.equal(table(torch.arange(len(tokenizer) - len(ids))), before[name])
        torch.testing.assert_close(table(torch.tensor(ids)), before[name].mean(0).expand(len(ids), -1))
        assert (table.weight is model.model.shared.weight) == tied
    assert (model.lm_head.weight is model.model.shared.weight) == tied


def test_the_bias_of_bart_follows():
    model, tokenizer = make_student("bart")
    model.final_logits_bias += 2.0
    ids = IDS.add_to(tokenizer, model)
    assert model.final_logits_bias[0, ids].tolist() == [2.0] * len(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_docid_is_one_token_a_code(name, tmp_path):
    tokenizer = copy.deepcopy(TOKENIZERS[name]())
    IDS.add_to(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        IDS.check_tokenizer(one)
        identifiers = Identifiers(one, IdentifierSettings(views=("docid",)))
        for passage_id in IDS:
            tokens = IDS.docid_tokens(passage_id)
            (segments,) = identifiers.encode_segments([Passage(passage_id, docid=IDS[passage_id])])
            assert one.convert_ids_to_tokens(segments.docid) == tokens
            assert [token.rstrip("0123456789>") for token in tokens][:3] in (["<c1_", "<c2_"], ["<c1_", "<c2_", "<c_"])


def test_a_tokenizer_without_the_tokens_is_refused():
    with pytest.raises(
        DGRValueError, match=r"lacks 12 of 12 tokens .* splits '<c1_0>' into \d tokens, \['<', .*Call add_to"
    ):
        IDS.check_tokenizer(bpe_tokenizer())


def test_tokens_that_overlap_are_refused():
    tokenizer = copy.deepcopy(bpe_tokenizer())
    tokenizer.add_tokens([AddedToken("<c1_0><c2", normalized=False)])
    with pytest.raises(DGRValueError, match=r"turns the docid '<c1_0>.*\['<c1_0><c2', .*one token for each of its"):
        IDS.add_to(tokenizer)


def test_models_that_cannot_be_extended_are_refused():
    model, tokenizer = make_student("bart")
    with pytest.raises(DGRTypeError, match="model is a Linear, but tokens can be added to a PreTrainedModel only"):
        IDS.add_to(tokenizer, torch.nn.Linear(2, 2))
    with torch.device("meta"):
        absent = make_bart(tokenizer)
    with pytest.raises(DGRValueError, match="not in the memory of this process"):
        IDS.add_to(tokenizer, absent)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    for wrapped in (adapted, model):
        with pytest.raises(DGRValueError, match=r"with adapters already.*\(12 are missing.*base model"):
            IDS.add_to(tokenizer, wrapped)
    assert len(tokenizer) == len(bpe_tokenizer())  # Nothing was added before the refusal.
    model, tokenizer = make_student("bart")
    ids = IDS.add_to(tokenizer, model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    assert IDS.add_to(tokenizer, adapted) == ids  # It has them already.


_ATTENTION = {"bart": ["q_proj"], "t5": ["q"], "gpt2": ["c_attn"], "llama": ["q_proj"]}


@pytest.mark.parametrize("name", STUDENTS)
def test_lora_trains_the_new_rows_and_no_others(name):
    model, tokenizer = make_student(name)
    ids = IDS.add_to(tokenizer, model)
    settings = IDS.lora_settings(tokenizer, model)
    assert len(settings["trainable_token_indices"]) == 1 + name.startswith("untied")
    targets = _ATTENTION[name.removeprefix("untied ")]
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, **settings))

    def read():
        """What the model embeds for each token, and how it predicts it, by ordinary forward passes."""
        everything = torch.arange(len(tokenizer))
        base = adapted.get_base_model()
        found = {"output": base.get_output_embeddings()(torch.eye(32)).T.clone()}
        if model.config.is_encoder_decoder:
            found |= {
                "encoder": base.get_encoder().embed_tokens(everything),
                "decoder": base.get_decoder().embed_tokens(everything),
            }
        else:
            found["decoder"] = base.get_input_embeddings()(everything)
        return {key: value.detach().clone() for key, value in found.items()}

    before = read()
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # In the first step, an adapter passes no gradient to one of its halves.
        tokens = torch.tensor(
            [[*ids, ids[0]]]
        )  # Nothing follows the last one, so a causal model learns nothing of it.
        batch = {"input_ids": tokens, "labels": tokens}
        adapted(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for place, rows in read().items():
        changed = (rows != before[place]).any(-1).nonzero().flatten().tolist()
        assert set(changed) == set(ids), place
    if model.config.is_encoder_decoder:
        assert all(rows.all() for rows in trained_rows(adapted, ids)[:3])
        plain, tokenizer = make_student(name)
        ids = IDS.add_to(tokenizer, plain)
        untrained = trained_rows(peft.get_peft_model(plain, peft.LoraConfig(target_modules=targets)), ids)
        assert not any(rows.any() for rows in untrained[:3]) and untrained.anything


def test_a_saved_model_has_the_new_rows(tmp_path):
    model, tokenizer = make_student("t5")
    ids = IDS.add_to(tokenizer, model)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert loaded.config.vocab_size == len(tokenizer)
    assert torch.equal(rows_of(loaded)[0][ids], rows_of(model)[0][ids])
