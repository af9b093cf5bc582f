"""Which embeddings training changes, compared with what two steps of training change."""

import copy

import peft
import pytest
import torch
from tiny_models import make_bart, make_t5
from transformers import MBartConfig, MBartForConditionalGeneration, MT5Config, MT5ForConditionalGeneration

from dgr_trainer.student.embedding_probe import trained_rows
from dgr_trainer.student.model_facts import embedding_rows

TOKENS = [300, 301, 302]
LORA = "q_proj v_proj q v".split()


def make_mbart(tokenizer):
    torch.manual_seed(0)
    sizes = make_bart(tokenizer).config.to_dict()
    names = ("vocab_size", "d_model", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    small = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    small |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}
    return MBartForConditionalGeneration(MBartConfig(**{name: sizes[name] for name in names}, **small)).eval()


def make_mt5(tokenizer):
    torch.manual_seed(0)
    sizes = make_t5(tokenizer).config.to_dict()
    names = "vocab_size d_model d_kv d_ff num_layers num_heads pad_token_id decoder_start_token_id".split()
    return MT5ForConditionalGeneration(MT5Config(**{name: sizes[name] for name in names})).eval()


def untied(make):
    def made(tokenizer):
        model = make(tokenizer)
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.2)
        return model

    return made


MODELS = {
    "bart": make_bart,
    "untied bart": untied(make_bart),
    "mbart": make_mbart,
    "t5": make_t5,
    "untied t5": untied(make_t5),
    "mt5": make_mt5,
}
SETTINGS = {
    "attention": {},
    "lora on shared": {"target_modules": [*LORA, "shared"]},
    "lora on embed_tokens": {"target_modules": [*LORA, "embed_tokens"]},
    "lora on lm_head": {"target_modules": [*LORA, "lm_head"]},
    "dora on embed_tokens": {"target_modules": [*LORA, "embed_tokens"], "use_dora": True},
    "parameter of shared": {"target_parameters": ["shared.weight"]},
    "parameter of embed_tokens": {"target_parameters": ["embed_tokens.weight"]},
    "saved shared": {"modules_to_save": ["shared"]},
    "saved embed_tokens": {"modules_to_save": ["embed_tokens"]},
    "saved lm_head": {"modules_to_save": ["lm_head"]},
    "tokens": {"trainable_token_indices": TOKENS[:2]},
    "tied tokens": {"trainable_token_indices": TOKENS[:2], "ensure_weight_tying": True},
    "tokens of shared": {"trainable_token_indices": {"shared": TOKENS[:2]}},
    "tokens of embed_tokens": {"trainable_token_indices": {"embed_tokens": TOKENS[:2]}},
    "tokens of lm_head": {"trainable_token_indices": {"lm_head": TOKENS[1:]}},
    "tokens of both": {"trainable_token_indices": {"embed_tokens": TOKENS[:2], "lm_head": TOKENS[:2]}},
}


def embeddings(base):
    """What encoder and decoder read for the tokens, and the rows of the output projection."""
    ids = torch.tensor([TOKENS])
    with torch.no_grad():
        logits = base.get_output_embeddings()(torch.eye(base.config.d_model))
        return [
            base.get_encoder().embed_tokens(ids)[0],
            base.get_decoder().embed_tokens(ids)[0],
            logits[:, TOKENS].T.clone(),
        ]


def changed_by_training(model, base):
    before = [copy.deepcopy(rows) for rows in embeddings(base)]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.5, weight_decay=0)
    ids = torch.tensor([[*TOKENS, 7]])
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
        optimizer.step()
    return [(old != new).any(-1).tolist() for old, new in zip(before, embeddings(base), strict=True)]


@pytest.fixture(params=MODELS)
def model(request, bpe_tokenizer, unigram_tokenizer):
    return MODELS[request.param](unigram_tokenizer if "t5" in request.param else bpe_tokenizer)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_probe_finds_what_training_changes(model, settings):
    rows = embedding_rows(model)
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", **{"target_modules": LORA, **SETTINGS[settings]})
    adapted = peft.get_peft_model(model, config).train()
    assert embedding_rows(adapted) == rows == model.config.vocab_size
    weights = {name: weight.clone() for name, weight in adapted.state_dict().items()}
    random_state = torch.get_rng_state()
    found = trained_rows(adapted, TOKENS)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(weight, weights[name]) for name, weight in adapted.state_dict().items())
    assert all(parameter.grad is None for parameter in adapted.parameters())
    assert found.anything
    assert [part.tolist() for part in found[:3]] == changed_by_training(adapted, adapted.get_base_model())


@pytest.mark.parametrize("frozen", ["shared", "lm_head", "encoder", None])
def test_frozen_weights_of_a_model_without_adapter(model, frozen):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen is None or not ({frozen} & set(name.split("."))))
    found = trained_rows(model, TOKENS)
    assert [part.tolist() for part in found[:3]] == changed_by_training(model, model)


def test_an_adapter_that_is_never_run(model):
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["shared"]))
    found = trained_rows(adapted, TOKENS)
    assert not found.anything and not torch.stack(found[:3]).any()
