import copy
import logging

import datasets
import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from sample_corpus import QRELS, QUERIES
from tiny_models import make_bart, make_t5
from training_examples import (
    CHECKPOINTING,
    TITLES,
    make_arguments,
    make_candidates,
    make_collator,
    make_rankings,
    make_trainer,
    query_dataset,
)
from training_runs import quiet_bart
from transformers import (
    DataCollatorForSeq2Seq,
    EarlyStoppingCallback,
    GPT2Config,
    GPT2Model,
    Seq2SeqTrainingArguments,
)

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.losses import RANKING_LOSSES
from dgr_trainer.training.trainer import DistillationGenerativeRetrievalTrainer

# peft 0.20 asks transformers models for the old name of an attribute.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def pairs(tokenizer) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [
            {"input_ids": tokenizer(query)["input_ids"], "labels": tokenizer(title)["input_ids"]}
            for query, title in zip(QUERIES.values(), TITLES.values(), strict=False)
        ]
    )


@pytest.mark.parametrize("loss", ["kl_divergence", "distilled_ranknet"])
@pytest.mark.parametrize("kind", ["candidates", "strings"])
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_training_teaches_the_teachers_order(name, kind, loss, request, tmp_path):
    model, tokenizer = request.getfixturevalue(name)
    collator = make_collator(tokenizer, kind, sampling="top", list_length=4)
    queries = query_dataset().select(range(5))
    settings = {"max_steps": 40, "per_device_train_batch_size": 5, "generation_weight": 0.1, "train_dataset": queries}
    settings["learning_rate"] = {"bart": 1e-2, "t5": 4e-2}[name]
    settings["ranking_loss"] = loss
    trainer = make_trainer(tmp_path, tokenizer, model=model, collator=collator, logging_steps=30, **settings)
    before = trainer.evaluate(queries)
    trainer.train()
    after = trainer.evaluate(queries)
    assert after["eval_loss_ranking"] < 0.7 * before["eval_loss_ranking"]
    assert after["eval_kendall_tau"] > before["eval_kendall_tau"] + 0.3
    logged = trainer.state.log_history[0]
    assert {"loss", "loss_ranking", "loss_generation", "rank_accuracy", "kendall_tau"} <= logged.keys()
    assert ("violated_margins" in logged) == (loss == "distilled_ranknet")


def test_without_judgements_the_teacher_alone_is_taught(bpe_tokenizer, tmp_path):
    def loss(qrels, **settings):
        collator = make_collator(bpe_tokenizer, qrels=qrels)
        trainer = make_trainer(tmp_path, bpe_tokenizer, collator=collator, **settings)
        return trainer.evaluate(query_dataset())["eval_loss_ranking"]

    assert loss(None) == loss(None, first_share=0.0)
    assert loss(QRELS) > loss(QRELS, first_share=0.0) + 0.1


@pytest.mark.parametrize("loss", RANKING_LOSSES)
def test_every_ranking_loss_trains(loss, bpe_tokenizer, tmp_path):
    trainer = make_trainer(tmp_path, bpe_tokenizer, ranking_loss=loss, max_steps=1)
    parameters = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert all(torch.isfinite(torch.tensor(log["loss"])) for log in trainer.state.log_history[:1])
    frozen = [name for name, p in trainer.model.named_parameters() if torch.equal(p, parameters[name])]
    assert not frozen


def test_the_loss_is_the_weighted_sum_of_its_terms(bpe_tokenizer, tmp_path):
    trainer = make_trainer(tmp_path, bpe_tokenizer, ranking_weight=0.5, generation_weight=3.0)
    trainer.model.eval()
    batch = trainer.data_collator([*query_dataset()])
    loss = trainer.compute_loss(trainer.model, batch).item()
    terms = trainer._eval_terms.averages(trainer.accelerator)
    assert loss == pytest.approx(0.5 * terms["loss_ranking"] + 3.0 * terms["loss_generation"], rel=1e-5)
    assert terms["loss_ranking"] > 1 and terms["loss_generation"] > 1


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_one_forward_pass_a_step(name, request, tmp_path):
    model, tokenizer = request.getfixturevalue(name)
    trainer = make_trainer(tmp_path, tokenizer, model=model, max_steps=2)
    calls = []
    model.register_forward_hook(lambda *_: calls.append("model"))
    model.get_encoder().register_forward_hook(lambda *_: calls.append("encoder"))
    trainer.train()
    assert calls == ["encoder", "model"] * 2


def test_adapters_alone_learn(model_and_tokenizer, tmp_path):
    base, tokenizer = model_and_tokenizer
    modules = (
        ["q_proj", "v_proj"] if hasattr(base.config, "d_model") and base.config.model_type == "bart" else ["q", "v"]
    )
    model = get_peft_model(base, LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=modules))
    trainer = make_trainer(tmp_path, tokenizer, model=model, max_steps=3, learning_rate=1e-2)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer.train()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, parameters[name])}
    assert changed and all("lora_" in name for name in changed)
    assert changed == {name for name in parameters if "lora_" in name}
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "saved" / "tokenizer.json").is_file(), "the collator's tokenizer comes along"


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("adapter", [False, True])
def test_activation_checkpointing_changes_nothing(adapter, reentrant, bpe_tokenizer, tmp_path):
    losses = []
    for checkpointing in (False, True):
        model = make_bart(bpe_tokenizer)
        if adapter:
            torch.manual_seed(0)
            model = get_peft_model(
                model, LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=["q_proj"], init_lora_weights=False)
            )
        settings = {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": reentrant}}
        trainer = make_trainer(tmp_path, bpe_tokenizer, model=model, **(settings if checkpointing else {}))
        trainer.train()
        losses.append([(log["loss"], log["grad_norm"]) for log in trainer.state.log_history[:3]])
    # Dropout is on: the same numbers mean that the random state is replayed as well.
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=0.0)


def test_bfloat16(bpe_tokenizer, tmp_path):
    trainer = make_trainer(tmp_path, bpe_tokenizer, bf16=True)
    trainer.train()
    plain = make_trainer(tmp_path, bpe_tokenizer)
    plain.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(plain.state.log_history[0]["loss"], rel=0.1)


def test_ordinary_pairs_train_as_with_the_parent(bpe_tokenizer, tmp_path):
    for collator in (None, make_collator(bpe_tokenizer), DataCollatorForSeq2Seq(bpe_tokenizer)):
        trainer = DistillationGenerativeRetrievalTrainer(
            model=make_bart(bpe_tokenizer),
            args=make_arguments(tmp_path, label_smoothing_factor=0.1),
            data_collator=collator,
            train_dataset=pairs(bpe_tokenizer),
            processing_class=bpe_tokenizer,
        )
        trainer.train()
        assert trainer.state.log_history[0].keys() >= {"loss", "loss_generation"}
        assert "loss_ranking" not in trainer.state.log_history[0]
    model = make_bart(bpe_tokenizer)
    batch = DataCollatorForSeq2Seq(bpe_tokenizer)([*pairs(bpe_tokenizer)])
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(model(**batch).loss.item(), rel=1e-5)


def test_labels_are_smoothed_in_training_only(bpe_tokenizer, tmp_path):
    losses = {}
    for smoothing in (0.0, 0.2):
        trainer = make_trainer(
            tmp_path, bpe_tokenizer, model=make_bart(bpe_tokenizer, dropout=0.0), label_smoothing_factor=smoothing
        )
        batch = trainer.data_collator([*query_dataset()])
        losses[smoothing] = [
            trainer.compute_loss(trainer.model.train(mode), dict(batch)).item() for mode in (False, True)
        ]
    assert losses[0.0][0] == losses[0.2][0]
    assert losses[0.0][1] != losses[0.2][1]


def test_evaluation_keeps_no_logits(bpe_tokenizer, tmp_path):
    output = make_trainer(tmp_path, bpe_tokenizer).predict(query_dataset())
    assert output.predictions is None
    assert output.metrics.keys() >= {"test_loss", "test_loss_ranking", "test_kendall_tau"}


def test_evaluation_counts_every_query_once(bpe_tokenizer, tmp_path):
    losses = [
        make_trainer(tmp_path, bpe_tokenizer, per_device_eval_batch_size=size).evaluate(query_dataset())["eval_loss"]
        for size in (12, 5)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5), "the last batch is smaller and counts for less"


def test_evaluation_draws_the_same_lists_in_every_epoch(bpe_tokenizer, tmp_path):
    trainer = make_trainer(tmp_path, bpe_tokenizer, collator=make_collator(bpe_tokenizer, list_length=4))
    first = trainer.evaluate(query_dataset())["eval_loss"]
    trainer.data_collator.set_epoch(5)
    assert trainer.evaluate(query_dataset())["eval_loss"] == first


class Evaluator:
    """A retrieval that gets worse every time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model, accelerator=None) -> dict[str, float]:
        assert not model.training and accelerator is not None
        self.calls += 1
        return {"hits@10": 1.0 / self.calls}


@pytest.mark.parametrize("with_dataset", [False, True])
def test_retrieval_metrics_choose_the_best_model_and_stop_early(with_dataset, bpe_tokenizer, tmp_path):
    evaluator = Evaluator()
    trainer = make_trainer(
        tmp_path,
        bpe_tokenizer,
        trainer_settings={
            "retrieval_evaluator": evaluator,
            "eval_dataset": query_dataset() if with_dataset else None,
            "callbacks": [EarlyStoppingCallback(early_stopping_patience=2)],
        },
        max_steps=10,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_hits@10",
        greater_is_better=True,
    )
    trainer.train()
    assert trainer.state.global_step == 3 == evaluator.calls
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    logged = [log for log in trainer.state.log_history if "eval_hits@10" in log]
    assert [log["eval_hits@10"] for log in logged] == [1.0, 0.5, 1 / 3]
    assert all(("eval_loss_ranking" in log) == with_dataset for log in logged)
    metrics = trainer.evaluate(metric_key_prefix="test")
    assert metrics["test_hits@10"] == 0.25


def test_several_evaluation_datasets_retrieve_once(bpe_tokenizer, tmp_path):
    evaluator = Evaluator()
    trainer = make_trainer(
        tmp_path,
        bpe_tokenizer,
        trainer_settings={
            "retrieval_evaluator": evaluator,
            "eval_dataset": {"a": query_dataset(), "b": query_dataset().select(range(4))},
        },
    )
    metrics = trainer.evaluate()
    assert evaluator.calls == 1 and metrics["eval_hits@10"] == 1.0
    assert metrics.keys() >= {"eval_a_loss", "eval_b_loss", "eval_a_loss_ranking", "eval_b_kendall_tau"}


def test_gaps_in_the_data_are_reported_before_training(bpe_tokenizer, tmp_path, caplog):
    rankings = Rankings({"q01": {"p01": 1.0, "p02": 2.0}, "q02": {"p02": 1.0}})
    collator = DistillationCollator(bpe_tokenizer, TITLES, rankings)
    with caplog.at_level(logging.WARNING):
        make_trainer(tmp_path, bpe_tokenizer, collator=collator, max_steps=1).train()
    assert caplog.text.count("Training queries are incomplete") == 1
    assert "10 of 12 queries have no rank list" in caplog.text


def test_evaluated_queries_that_the_collator_does_not_know_are_refused(bpe_tokenizer, tmp_path, caplog):
    others = datasets.Dataset.from_dict({"query_id": ["x1", "x2"], "query": ["highest peak", "longest river"]})
    unknown = {"trainer_settings": {"eval_dataset": {"dev": others}}, "max_steps": 1}
    message = "None of the 2 queries of {} has a rank list or a passage to generate, so its loss would be 0"
    with pytest.raises(ValueError, match=message.format(r"eval_dataset\['dev'\]")):
        make_trainer(tmp_path, bpe_tokenizer, eval_strategy="steps", eval_steps=1, **unknown).train()
    trainer = make_trainer(tmp_path, bpe_tokenizer, **unknown)
    trainer.train()  # It does not evaluate.
    with pytest.raises(ValueError, match=message.format("eval_dataset")):
        trainer.evaluate(others)
    with pytest.raises(ValueError, match=message.format("test_dataset")):
        trainer.predict(others)
    with caplog.at_level(logging.WARNING):
        trainer.retrieval_evaluator = lambda model, accelerator: {"hits@10": 1.0}
        assert trainer.evaluate(others)["eval_hits@10"] == 1.0
        trainer.evaluate(datasets.concatenate_datasets([query_dataset(), others]))
    assert "leave the dataset out: the retrieval metrics need none" in caplog.text
    assert "Queries of eval_dataset are incomplete: 2 of 14 queries have no rank list" in caplog.text


def test_a_finished_run_that_is_resumed_stays_as_it_is(bpe_tokenizer, tmp_path):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    finished = make_trainer(tmp_path, bpe_tokenizer, **settings)  # Of three steps of the first epoch.
    finished.train()
    resumed = make_trainer(tmp_path, bpe_tokenizer, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 2
    for one, other in zip(finished.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    longer = make_trainer(tmp_path, bpe_tokenizer, **{**settings, "max_steps": 3})
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 3


def test_after_training_a_batch_has_its_own_divisor(bpe_tokenizer, tmp_path):
    trainer = make_trainer(tmp_path, bpe_tokenizer, quiet_bart, max_steps=1)
    trainer.train()
    batch = trainer.data_collator([query_dataset()[number] for number in range(3)])
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    trainer.model.eval()
    torch.testing.assert_close(loss, trainer.compute_loss(trainer.model, batch))


def test_margins_beyond_the_scores_are_reported_before_training(bpe_tokenizer, tmp_path, caplog):
    def warned(**settings):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            settings = {"ranking_loss": "distilled_ranknet", "max_steps": 1, **settings}
            make_trainer(tmp_path, bpe_tokenizer, **settings).train()
        return [record.getMessage() for record in caplog.records if "margin" in record.getMessage()]

    # Ten candidates with scores 100, 99, ..., 91: the best one is 4.5 above the middle.
    for given in ({"margin": 300}, {"preset": "dgr_paper"}):
        (message,) = warned(**given)
        assert "margin=300 is larger than 4.5, by which" in message
        assert message.endswith("fit this corpus: margin=2.2, margin_gap=0.75, generation_weight=0.75.")
    assert not warned() and not warned(margin=300, ranking_loss_kwargs={"normalization": "list"})
    assert len(warned(margin=4.6, ranking_loss="margin_rank")) == 1
    assert not warned(margin=4.4) and not warned(ranking_loss="ranknet") and not warned(ranking_weight=0.0)


def test_the_trainer_can_train_again(bpe_tokenizer, tmp_path):
    trainer = make_trainer(tmp_path, bpe_tokenizer)
    trainer.train()
    trainer.train()
    assert trainer.state.global_step == 3


def refused(tmp_path, tokenizer, message, error=ValueError, **settings):
    with pytest.raises(error, match=message):
        make_trainer(tmp_path, tokenizer, **settings)


def test_half_precision_that_a_cpu_would_ignore_is_refused(bpe_tokenizer, tmp_path):
    with pytest.raises(ValueError, match="fp16=True changes nothing on a CPU.*Use bf16=True"):
        make_trainer(tmp_path, bpe_tokenizer, fp16=True)


def test_refused_arguments(bpe_tokenizer, tmp_path):
    for name in ("compute_metrics", "preprocess_logits_for_metrics"):
        refused(
            tmp_path, bpe_tokenizer, "retrieval_evaluator=RetrievalEvaluator", trainer_settings={name: lambda *_: {}}
        )
    refused(
        tmp_path,
        bpe_tokenizer,
        "compute_loss_func would replace the whole distillation loss.*ranking_loss=RankingLoss",
        trainer_settings={"compute_loss_func": lambda *_: 0},
    )
    with pytest.raises(TypeError, match="args are Seq2SeqTrainingArguments.*Use DistillationTrainingArguments"):
        DistillationGenerativeRetrievalTrainer(
            model=make_bart(bpe_tokenizer), args=Seq2SeqTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        )
    args = make_arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="2 GPUs are visible to this process.*torchrun --nproc_per_node 2"):
        DistillationGenerativeRetrievalTrainer(model=make_bart(bpe_tokenizer), args=args)


def test_refused_data(bpe_tokenizer, tmp_path):
    wrong = query_dataset().rename_column("query", "question")
    refused(
        tmp_path,
        bpe_tokenizer,
        r"train_dataset has the columns \['query_id', 'question'\].*needs 'query_id' and 'query'",
        train_dataset=wrong,
    )
    refused(
        tmp_path,
        bpe_tokenizer,
        r"eval_dataset\['dev'\] has the columns",
        trainer_settings={"eval_dataset": {"dev": wrong}},
    )
    for collator, found in (
        (None, "there is no data_collator"),
        (DataCollatorForSeq2Seq(bpe_tokenizer), "data_collator is a DataCollatorForSeq2Seq"),
    ):
        with pytest.raises(ValueError, match=f"train_dataset holds queries, but {found}.*DistillationCollator"):
            DistillationGenerativeRetrievalTrainer(
                model=make_bart(bpe_tokenizer),
                args=make_arguments(tmp_path),
                data_collator=collator,
                train_dataset=query_dataset(),
            )
    without = DistillationCollator(bpe_tokenizer, TITLES, None)
    refused(tmp_path, bpe_tokenizer, "The collator has no rankings.*set ranking_weight=0", collator=without)
    make_trainer(tmp_path, bpe_tokenizer, collator=without, ranking_weight=0.0)
    trainer = make_trainer(
        tmp_path, bpe_tokenizer, collator=DistillationCollator(bpe_tokenizer, TITLES, Rankings({"q": {"p01": 1.0}}))
    )
    with pytest.raises(ValueError, match="None of the 12 training queries has two ranked passages.*have no rank list"):
        trainer.train()
    with pytest.raises(ValueError, match=r"A batch has the keys \['input_ids'\], which is neither"):
        trainer.compute_loss(trainer.model, {"input_ids": torch.ones(1, 2)})


def test_a_tie_margin_needs_a_loss_of_places(bpe_tokenizer, tmp_path):
    collator = make_collator(bpe_tokenizer, tie_margin=5.0)
    for loss in ("ranknet", "kl_divergence"):
        trainer = make_trainer(tmp_path, bpe_tokenizer, collator=collator, ranking_loss=loss)
        with pytest.raises(ValueError, match=f"tie_margin=5 has no effect with ranking_loss='{loss}', which"):
            trainer.train()
    unranked = make_trainer(tmp_path, bpe_tokenizer, collator=collator, ranking_weight=0.0, max_steps=1)
    unranked.train()
    make_trainer(tmp_path, bpe_tokenizer, collator=collator, ranking_loss="margin_rank", max_steps=1).train()


def test_refused_models(bpe_tokenizer, unigram_tokenizer, tmp_path):
    gpt = GPT2Model(GPT2Config(vocab_size=700, n_embd=16, n_layer=1, n_head=2))
    refused(tmp_path, bpe_tokenizer, "GPT2Model is not an encoder-decoder model that can generate", model=gpt)
    prefix = get_peft_model(
        make_t5(unigram_tokenizer), PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2)
    )
    collator = make_collator(unigram_tokenizer)
    refused(tmp_path, unigram_tokenizer, "Prompt and prefix tuning.*such as LoRA", model=prefix, collator=collator)
    small = make_bart(bpe_tokenizer, vocab_size=600)
    refused(
        tmp_path, bpe_tokenizer, "700 tokens, but the model only 600 embeddings.*resize_token_embeddings", model=small
    )
    flash = make_bart(bpe_tokenizer)
    flash.get_decoder().config._attn_implementation = "flash_attention_2"
    refused(tmp_path, bpe_tokenizer, "attn_implementation='flash_attention_2'", model=flash)
    nameless = make_bart(bpe_tokenizer)
    nameless.config.decoder_start_token_id = nameless.generation_config.decoder_start_token_id = None
    refused(tmp_path, bpe_tokenizer, "has no decoder_start_token_id", model=nameless)
    long = DistillationCollator(bpe_tokenizer, {**TITLES, "p01": "Everest " * 60}, make_rankings())
    short = make_bart(bpe_tokenizer, max_position_embeddings=32)
    refused(
        tmp_path,
        bpe_tokenizer,
        r"longest identifier has \d+ tokens, but the decoder has 32",
        model=short,
        collator=long,
    )


def test_candidates_and_pairs_may_take_turns(bpe_tokenizer, tmp_path):
    collator = DistillationCollator(
        Identifiers(bpe_tokenizer), make_candidates(Identifiers(bpe_tokenizer)), make_rankings()
    )
    trainer = make_trainer(tmp_path, bpe_tokenizer, collator=collator)
    trainer.train()
    trainer.train_dataset = pairs(bpe_tokenizer)
    trainer.train()
    assert trainer.state.global_step == 3


@pytest.mark.slow
def test_compilation_changes_nothing(bpe_tokenizer, tmp_path):
    losses = []
    for settings in ({}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}):
        trainer = make_trainer(
            tmp_path,
            bpe_tokenizer,
            lambda tokenizer: make_bart(tokenizer, dropout=0.0, encoder_layers=1, decoder_layers=1),
            learning_rate=1e-5,
            **settings,
        )
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert len(losses[0]) == 3 and losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("trained", [False, True])
def test_added_tokens_that_an_adapter_leaves_at_random_are_reported(trained, bpe_tokenizer, tmp_path, caplog):
    tokenizer = copy.deepcopy(bpe_tokenizer)
    tokenizer.add_tokens(["[docid-1]", "[docid-2]"])
    model = make_bart(tokenizer)
    settings = {}
    if trained:
        settings["trainable_token_indices"] = tokenizer.convert_tokens_to_ids(["[docid-1]", "[docid-2]"])
        settings["ensure_weight_tying"] = True
    model = get_peft_model(model, LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=["q_proj"], **settings))
    trainer = make_trainer(tmp_path, tokenizer, model=model)
    told = [record.getMessage() for record in caplog.records if "tokens were added" in record.getMessage()]
    assert len(told) == (0 if trained else 1)
    if trained:
        trainer.train()  # The advice works.
    else:
        assert "2 tokens were added to the tokenizer, such as '[docid-1]'" in told[0]
        assert "trainable_token_indices" in told[0]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_batches_of_other_shapes_need_no_other_code(architecture, bpe_tokenizer, unigram_tokenizer, tmp_path):
    """Ten batches, no two of one shape: compiled a few times, while the compiler learns what may change."""
    if architecture == "bart":
        tokenizer, model = bpe_tokenizer, make_bart(bpe_tokenizer, encoder_layers=1, decoder_layers=1)
    else:
        tokenizer, model = unigram_tokenizer, make_t5(unigram_tokenizer, num_layers=1)
    trainer = make_trainer(tmp_path, tokenizer, model=model)
    queries = [*query_dataset()]
    batches = [trainer.data_collator(queries[start : start + 2 + start % 2]) for start in range(10)]
    assert len({tuple(map(tuple, (batch[name].shape for name in batch))) for batch in batches}) == 10
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(trainer.model.eval(), backend="eager")
    for batch in batches:
        expected = trainer.compute_loss(trainer.model, batch)
        assert trainer.compute_loss(compiled, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4
    assert not torch._dynamo.utils.counters["graph_break"]
