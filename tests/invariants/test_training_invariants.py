"""What must not change a training run: accumulation, packing, padding, processes, workers, interruption."""

import pytest
import torch
from sample_corpus import QUERIES
from training_examples import TITLES, make_collator, make_rankings, make_trainer, query_dataset
from training_runs import SGD, assert_same_run, quiet_bart, run

from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.student.encoder_decoder import EncoderDecoderStudent
from dgr_trainer.training.collator import DistillationCollator


@pytest.mark.parametrize("ranking_loss", ["distilled_ranknet", "kl_divergence"])
@pytest.mark.parametrize("clipped", [False, True])
def test_eight_steps_of_accumulation_are_one_batch(clipped, ranking_loss, bpe_tokenizer, tmp_path):
    settings = {**SGD, "max_grad_norm": 1.0, "learning_rate": 1e-3} if clipped else SGD
    runs = [
        run(
            make_trainer(
                tmp_path,
                bpe_tokenizer,
                quiet_bart,
                per_device_train_batch_size=8 // steps,
                gradient_accumulation_steps=steps,
                train_dataset=query_dataset().select(range(8)),
                ranking_loss=ranking_loss,
                **settings,
            )
        )
        for steps in (1, 8)
    ]
    assert_same_run(*runs)


def test_accumulation_of_ragged_batches_is_one_batch(bpe_tokenizer, tmp_path):
    # 12 queries in steps of 5, 5 and 2 queries; some without a rank list.
    rankings = {q: ranks for q, ranks in make_collator(bpe_tokenizer).rankings.items() if q not in ("q02", "q07")}
    runs = [
        run(
            make_trainer(
                tmp_path,
                bpe_tokenizer,
                quiet_bart,
                collator=make_collator(bpe_tokenizer, rankings=rankings),
                per_device_train_batch_size=size,
                gradient_accumulation_steps=steps,
                max_steps=2,
                **SGD,
            )
        )
        for size, steps in ((12, 1), (5, 3))
    ]
    assert_same_run(*runs)


def tied_rankings() -> Rankings:
    """A teacher that gives many passages the same score, as BM25 does with those that lack the words of a query."""
    ranked = make_rankings()
    return Rankings(
        {q: dict(zip(ranked[q].passage_ids, (ranked[q].scores * 3).astype(int), strict=True)) for q in ranked}
    )


@pytest.mark.parametrize("ranking_loss", ["distilled_ranknet", "margin_rank", "listmle", "kl_divergence"])
def test_ties_change_neither_accumulation_nor_packing(ranking_loss, bpe_tokenizer, tmp_path, monkeypatch):
    settings = {"train_dataset": query_dataset().select(range(8)), "ranking_loss": ranking_loss, **SGD}

    def trained(steps):
        collator = make_collator(bpe_tokenizer, rankings=tied_rankings(), relevant_first=False, list_length=8)
        trainer = make_trainer(
            tmp_path,
            bpe_tokenizer,
            quiet_bart,
            collator=collator,
            per_device_train_batch_size=8 // steps,
            gradient_accumulation_steps=steps,
            **settings,
        )
        return run(trainer)

    at_once, in_steps = trained(1), trained(8)
    monkeypatch.setattr(EncoderDecoderStudent, "packing_obstacle", lambda student: "A test does not want it")
    flat = trained(1)
    assert_same_run(at_once, in_steps)
    assert_same_run(at_once, flat)


def test_the_ids_of_tied_passages_do_not_change_the_loss(bpe_tokenizer, tmp_path):
    """Ids decide the order of a list among equal scores. Other ids give another order, and the same loss."""
    titles = list(TITLES.values())[:6]
    losses = []
    for ids in ("abcdef", "fedcba", "cafebd"):
        strings = dict(zip(ids, titles, strict=True))
        scores = dict(zip(ids, (3.0, 1.0, 1.0, 1.0, 0.0, 0.0), strict=True))
        collator = DistillationCollator(bpe_tokenizer, strings, Rankings({"q01": scores}), sampling="top")
        trainer = make_trainer(tmp_path, bpe_tokenizer, quiet_bart, collator=collator)
        losses.append(trainer.evaluate(query_dataset().select([0]))["eval_loss_ranking"])
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)


def test_packed_and_flat_rows_train_alike(bpe_tokenizer, tmp_path, monkeypatch):
    packed = run(make_trainer(tmp_path, bpe_tokenizer, quiet_bart, **SGD))
    monkeypatch.setattr(EncoderDecoderStudent, "packing_obstacle", lambda student: "A test does not want it")
    flat = run(make_trainer(tmp_path, bpe_tokenizer, quiet_bart, **SGD))
    assert_same_run(packed, flat)


@pytest.mark.parametrize("max_row_tokens", [6, 1000])
def test_the_length_of_rows_does_not_matter(max_row_tokens, bpe_tokenizer, tmp_path):
    normal = run(make_trainer(tmp_path, bpe_tokenizer, quiet_bart, **SGD))
    collator = make_collator(bpe_tokenizer, max_row_tokens=max_row_tokens)
    assert_same_run(normal, run(make_trainer(tmp_path, bpe_tokenizer, quiet_bart, collator=collator, **SGD)))


def test_padding_does_not_change_a_query(model_and_tokenizer, tmp_path):
    model, tokenizer = model_and_tokenizer
    trainer = make_trainer(tmp_path, tokenizer, model=model)
    features = [*query_dataset()]
    features[3] = {**features[3], "query": " ".join([features[3]["query"]] * 5)}
    together = trainer.compute_loss(model.eval(), trainer.data_collator(features)).item()
    alone = [trainer.compute_loss(model, trainer.data_collator([feature])).item() for feature in features]
    assert together == pytest.approx(sum(alone) / len(alone), rel=1e-5)


def test_a_step_computes_its_unique_prefixes_and_no_more_logits_than_that(model_and_tokenizer, tmp_path):
    model, tokenizer = model_and_tokenizer
    collator = make_collator(tokenizer)
    trainer = make_trainer(tmp_path, tokenizer, model=model, collator=collator)
    features = [*query_dataset()]
    distinct = 0
    for feature in features:
        drawn = collator.sampler.sample(feature["query_id"], 0)
        limit = collator.scoring.identifiers_per_passage
        passages = collator.source.matched(feature["query_id"], drawn.passage_ids, limit)
        matched = {(one.view, one.ids) for passage in passages for one in passage}
        distinct += len({(view, ids[:depth]) for view, ids in matched for depth in range(len(ids))})
    seen = {}
    model.get_output_embeddings().register_forward_hook(lambda m, a, output: seen.update(logits=len(output)))
    model.get_encoder().register_forward_hook(lambda m, a, output: seen.update(prompts=len(output[0])))
    trainer.compute_loss(trainer.model, collator(features))
    # A split tree repeats the beginning of its other part, and each query takes as many states as the next one.
    assert distinct <= seen["logits"] < 1.1 * distinct
    assert seen["prompts"] <= 3 * len(features)


@pytest.mark.parametrize(
    ("workers", "steps_before"), [(0, 4), (2, 4), (0, 3)], ids=["mid-epoch", "workers", "epoch-end"]
)
def test_a_resumed_run_is_the_uninterrupted_one(workers, steps_before, bpe_tokenizer, tmp_path):
    """With dropout, sampling by epoch and shuffling: 2 epochs of 3 steps, stopped after some of them."""

    def trainer(name, **settings):
        return make_trainer(
            tmp_path / name,
            bpe_tokenizer,
            collator=make_collator(bpe_tokenizer, list_length=4),
            max_steps=6,
            dataloader_num_workers=workers,
            save_strategy="steps",
            save_steps=steps_before,
            **settings,
        )

    whole = run(trainer("whole"))
    resumed = run(trainer("resumed"), resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{steps_before}"))
    assert len(whole[0]["loss"]) == 6
    # The log before the checkpoint is the checkpoint's own; what follows was computed again.
    assert whole[0] == resumed[0]
    assert all(torch.equal(value, resumed[1][name]) for name, value in whole[1].items())


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_do_not_change_a_run(persistent, bpe_tokenizer, tmp_path):
    runs = [
        run(
            make_trainer(
                tmp_path,
                bpe_tokenizer,
                quiet_bart,
                collator=make_collator(bpe_tokenizer, list_length=4),
                max_steps=6,
                **settings,
            )
        )
        for settings in ({}, {"dataloader_num_workers": 2, "dataloader_persistent_workers": persistent})
    ]
    assert runs[0][0] == runs[1][0]


def test_epochs_draw_different_lists(bpe_tokenizer, tmp_path):
    drawn = []
    collator = make_collator(bpe_tokenizer, list_length=4)
    sample = collator.sampler.sample
    collator.sampler.sample = lambda query_id, epoch: drawn.append((query_id, epoch)) or sample(query_id, epoch)
    make_trainer(tmp_path, bpe_tokenizer, collator=collator, max_steps=6).train()
    # The record of the training looks at the lists of the first epoch, too.
    assert set(drawn) == {(query_id, epoch) for epoch in (0, 1) for query_id in QUERIES}
    assert {drawn.count((query_id, 1)) for query_id in QUERIES} == {1}
