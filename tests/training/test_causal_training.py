"""The trainer on decoder-only students: packing, accumulation, pairs, LoRA, half precision, resuming."""

import copy

import datasets
import peft
import pytest
import torch
from architectures import make
from tiny_models import make_causal
from training_examples import CHECKPOINTING, make_collator, make_trainer, query_dataset
from training_runs import SGD, assert_same_run, run
from transformers import DataCollatorForSeq2Seq, GPT2Config, GPT2LMHeadModel

from dgr_trainer.student import probing
from dgr_trainer.student.students import load_student_model
from dgr_trainer.training.collator import DistillationCollator


def eight(tmp_path, tokenizer, make_model=make_causal, **settings):
    steps = settings.pop("steps", 1)
    return make_trainer(
        tmp_path,
        tokenizer,
        make_model,
        train_dataset=query_dataset().select(range(8)),
        per_device_train_batch_size=8 // steps,
        gradient_accumulation_steps=steps,
        **{**SGD, **settings},
    )


def same_whatever_way(make, variants, ways, tmp_path, tokenizer, monkeypatch):
    expected = run(eight(tmp_path, tokenizer, make, max_steps=2))
    for settings in variants:
        assert_same_run(run(eight(tmp_path, tokenizer, make, max_steps=2, **settings)), expected)
    for way in ways:
        with monkeypatch.context() as patched:
            patched.setattr(probing, "_try_ways", lambda model, way=way: (way, "for this test"))
            assert_same_run(run(eight(tmp_path, tokenizer, make, max_steps=2)), expected)


def test_packing_and_accumulation_change_nothing(bpe_tokenizer, tmp_path, monkeypatch):
    same_whatever_way(make_causal, [{"steps": 8}], ["rows"], tmp_path, bpe_tokenizer, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text"])
def test_pieces_and_checkpointing_change_nothing(kind, bpe_tokenizer, tmp_path, monkeypatch):
    def make(tokenizer):
        return make_causal(tokenizer, kind)

    variants = [{"decoder_tokens_at_once": 100}, {CHECKPOINTING: True}]
    same_whatever_way(make, variants, ["plain"], tmp_path, bpe_tokenizer, monkeypatch)


def with_adapter(model):
    torch.manual_seed(1)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules="all-linear", lora_dropout=0.0, init_lora_weights=False
    )
    return peft.get_peft_model(model, config)


COMPILED = {
    "qwen3": make_causal,
    "gemma3": lambda tokenizer: make_causal(tokenizer, "gemma3_text"),
    "gpt2": lambda tokenizer: make("gpt2", vocab=len(tokenizer), resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "lora": lambda tokenizer: with_adapter(make_causal(tokenizer)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compilation_changes_neither_gradients_nor_what_is_saved(name, bpe_tokenizer, tmp_path):
    expected = run(eight(tmp_path, bpe_tokenizer, COMPILED[name], max_steps=2))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    settings = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    trainer = eight(tmp_path, bpe_tokenizer, COMPILED[name], max_steps=2, **settings)
    figures, parameters = run(trainer)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    parameters = {key.removeprefix("_orig_mod."): value for key, value in parameters.items()}
    assert_same_run((figures, parameters), expected)
    trainer.save_model(tmp_path / "saved")
    if name == "lora":
        base = make_causal(bpe_tokenizer)
        loaded = peft.PeftModel.from_pretrained(base, tmp_path / "saved")
    else:
        loaded = load_student_model(tmp_path / "saved")
    for key, value in loaded.named_parameters():
        torch.testing.assert_close(value, parameters[key], msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_batches_of_other_shapes_need_no_other_code(name, bpe_tokenizer, tmp_path):
    """Ten batches, no two of one shape: compiled a few times, while the compiler learns what may change."""
    trainer = make_trainer(tmp_path, bpe_tokenizer, COMPILED[name])
    queries = [*query_dataset()]
    batches = [trainer.data_collator(queries[start : start + 2 + start % 2]) for start in range(10)]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(trainer.model.eval(), backend="eager")
    for batch in batches:
        expected = trainer.compute_loss(trainer.model, batch)
        assert trainer.compute_loss(compiled, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4
    assert not torch._dynamo.utils.counters["graph_break"]


def test_it_learns_and_evaluates(bpe_tokenizer, tmp_path):
    trainer = make_trainer(
        tmp_path, bpe_tokenizer, make_causal, max_steps=6, trainer_settings={"eval_dataset": query_dataset()}
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.95 * before


def test_lora_in_half_precision_is_saved_and_resumed(bpe_tokenizer, tmp_path):
    def make(tokenizer):
        torch.manual_seed(1)
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
        return peft.get_peft_model(make_causal(tokenizer), config)

    settings = {"bf16": True, "max_steps": 2, "save_steps": 1, "save_strategy": "steps", CHECKPOINTING: True}
    trainer = make_trainer(tmp_path, bpe_tokenizer, make, **settings)
    trainer.train()
    again = make_trainer(tmp_path, bpe_tokenizer, make, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    trained, base = (dict(one.model.named_parameters()) for one in (trainer, again))
    for name, value in trained.items():
        torch.testing.assert_close(value, base[name], rtol=1e-5, atol=1e-6)
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in trained.items())
    exact = make_trainer(tmp_path, bpe_tokenizer, make, **{**settings, "bf16": False, "save_strategy": "no"})
    exact.train()
    losses = [[log["loss"] for log in one.state.log_history if "loss" in log] for one in (trainer, exact)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05) and losses[0] != losses[1]


def pairs(tokenizer):
    texts = [("what is high", "Mount Everest"), ("which river is long", "the Nile"), ("wheat", "bread and much more")]
    rows = [(tokenizer(query).input_ids, [*tokenizer(answer).input_ids[1:]]) for query, answer in texts]
    return datasets.Dataset.from_dict({"input_ids": [row[0] for row in rows], "labels": [row[1] for row in rows]})


@pytest.mark.parametrize("collated", ["ours", "transformers", "padded left"])
def test_the_loss_of_pairs_is_that_of_the_labels(collated, bpe_tokenizer, tmp_path):
    model, rows = make_causal(bpe_tokenizer), pairs(bpe_tokenizer)
    if collated == "ours":
        collator = make_collator(bpe_tokenizer)
    else:
        collator = DataCollatorForSeq2Seq(bpe_tokenizer, model=model)
    trainer = make_trainer(tmp_path, bpe_tokenizer, model=model, collator=collator, train_dataset=rows, max_steps=1)
    side = bpe_tokenizer.padding_side
    try:
        bpe_tokenizer.padding_side = "left" if collated == "padded left" else "right"
        batch = collator([dict(row) for row in rows])
    finally:
        bpe_tokenizer.padding_side = side
    total = count = 0
    for row in rows:
        joined = torch.tensor([row["input_ids"] + row["labels"]])
        labels = torch.tensor([[-100] * len(row["input_ids"]) + row["labels"]])
        total += model(input_ids=joined, labels=labels).loss.item() * len(row["labels"])
        count += len(row["labels"])
    model.train()
    assert trainer.compute_loss(model, batch).item() == pytest.approx(total / count, rel=1e-5)
    if collated == "ours":
        trainer.train()


def test_labels_that_are_also_inputs_are_refused(bpe_tokenizer, tmp_path):
    joined = [
        {"input_ids": row["input_ids"] + row["labels"], "labels": [-100] * len(row["input_ids"]) + row["labels"]}
        for row in pairs(bpe_tokenizer)
    ]
    rows = datasets.Dataset.from_list(joined)
    with pytest.raises(ValueError, match="The labels of train_dataset are also"):  # With a DistillationCollator, too.
        make_trainer(tmp_path, bpe_tokenizer, make_causal, train_dataset=rows, ranking_weight=0.0)
    trainer = make_trainer(
        tmp_path, bpe_tokenizer, make_causal, train_dataset=pairs(bpe_tokenizer), ranking_weight=0.0
    )
    with pytest.raises(ValueError, match="The labels of eval_dataset are also"):
        trainer.evaluate(rows)
    with pytest.raises(ValueError, match="The labels of train_dataset are also in its input_ids, as SFTTrainer"):
        make_trainer(
            tmp_path, bpe_tokenizer, make_causal, collator=DataCollatorForSeq2Seq(bpe_tokenizer), train_dataset=rows
        )
    with pytest.raises(ValueError, match=r"The labels of eval_dataset\['a'\]"):
        make_trainer(
            tmp_path,
            bpe_tokenizer,
            make_causal,
            collator=DataCollatorForSeq2Seq(bpe_tokenizer),
            train_dataset=pairs(bpe_tokenizer),
            trainer_settings={"eval_dataset": {"a": rows}},
        )


def test_identifiers_that_do_not_fit_after_a_prompt_are_refused(bpe_tokenizer, tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(bpe_tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=70))
    collator = DistillationCollator(bpe_tokenizer, {"p01": "a long title " * 5, "p02": "K2"}, None)
    message = "but the decoder has 7 positions after a prompt of max_query_length=64 tokens"
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, bpe_tokenizer, model=model, collator=collator, ranking_weight=0.0)


def test_added_tokens_that_lora_leaves_are_told_of(bpe_tokenizer, tmp_path, caplog):
    tokenizer = copy.deepcopy(bpe_tokenizer)
    tokenizer.add_tokens(["<<new>>"])
    model = make_causal(tokenizer)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    make_trainer(tmp_path, tokenizer, model=peft.get_peft_model(model, config))
    assert "leaves the rows of 1 of them in the embeddings and the output projection" in caplog.text
    caplog.clear()
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], trainable_token_indices=[len(tokenizer) - 1]
    )
    make_trainer(tmp_path, tokenizer, model=peft.get_peft_model(make_causal(tokenizer), config))
    assert "leaves the rows" not in caplog.text
