"""A ranking loss of the user's own: what a `RankingLoss` says of it, and that it trains as the library's losses do."""

import copy
import json
import math
from functools import partial

import pytest
import torch
from torch import Tensor
from training_examples import TITLES, make_arguments, make_collator, make_trainer, query_dataset
from training_runs import SGD, assert_same_run, quiet_bart, run

from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.losses import RANKING_LOSSES, RankingLoss
from dgr_trainer.training.objective import RankingObjective


def approximate_ndcg_loss(scores: Tensor, teacher_scores: Tensor, mask: Tensor, *, temperature: float) -> Tensor:
    """1 - NDCG with ranks made of sigmoids; Qin et al., "A General Approximation Framework" (Information Retrieval
    2010). The gain of a passage is the number of passages that the teacher puts below it.
    """
    present = mask.unsqueeze(-1) & mask.unsqueeze(-2)
    others = present & ~torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
    wins = torch.sigmoid((scores.unsqueeze(-2) - scores.unsqueeze(-1)) / temperature)
    ranks = 1 + wins.masked_fill(~others, 0.0).sum(-1)
    below = (present & (teacher_scores.unsqueeze(-1) > teacher_scores.unsqueeze(-2))).sum(-1)
    ideal_ranks = 1 + (present & (teacher_scores.unsqueeze(-1) < teacher_scores.unsqueeze(-2))).sum(-1)
    dcg = (below / torch.log2(1 + ranks)).sum(-1)
    ideal = (below / torch.log2(1 + ideal_ranks)).sum(-1)
    return torch.where(ideal > 0, 1 - dcg / ideal.clamp(min=1e-9), 0.0)


APPROXIMATE_NDCG = RankingLoss(
    approximate_ndcg_loss, scales={"log_odds": {"temperature": 100.0}, "log_likelihood": {"temperature": 1.0}}
)


def test_the_example_computes_what_it_says():
    scores, teacher = torch.tensor([[2.0, 0.0, 9.0]]), torch.tensor([[5.0, 4.0, 0.0]])
    loss = approximate_ndcg_loss(scores, teacher, torch.tensor([[True, True, False]]), temperature=1.0)
    rank = 1 + 1 / (1 + math.exp(2.0))
    assert loss.item() == pytest.approx(1 - 1 / math.log2(1 + rank))


def test_what_is_derived_from_the_function():
    assert APPROXIMATE_NDCG.name == "approximate_ndcg" and APPROXIMATE_NDCG.teaches == "scores"
    assert APPROXIMATE_NDCG.defaults("log_odds") == {"temperature": 100.0}
    assert APPROXIMATE_NDCG.with_settings("log_likelihood", {"temperature": 3.0}) == {"temperature": 3.0}
    assert not APPROXIMATE_NDCG.has_margins({"temperature": 3.0})


@pytest.mark.parametrize("where", ["arguments", "trainer"])
def test_it_trains_and_logs(where, bpe_tokenizer, tmp_path):
    given = {"ranking_loss": APPROXIMATE_NDCG}
    settings = given if where == "arguments" else {"trainer_settings": given}
    queries = query_dataset().select(range(5))
    collator = make_collator(bpe_tokenizer, sampling="top", list_length=4)
    settings |= {"max_steps": 40, "per_device_train_batch_size": 5, "generation_weight": 0.1, "temperature": 50.0}
    trainer = make_trainer(
        tmp_path, bpe_tokenizer, collator=collator, train_dataset=queries, learning_rate=1e-2, **settings
    )
    assert trainer.ranking_objective.settings == {"temperature": 50.0}
    before = trainer.evaluate(queries)
    trainer.train()
    after = trainer.evaluate(queries)
    assert after["eval_loss_ranking"] < 0.7 * before["eval_loss_ranking"]
    assert after["eval_kendall_tau"] > before["eval_kendall_tau"] + 0.3
    assert {"loss_ranking", "loss_generation", "rank_accuracy", "kendall_tau"} <= trainer.state.log_history[1].keys()
    assert "violated_margins" not in trainer.state.log_history[1]


def test_accumulation_and_resuming_are_exact(bpe_tokenizer, tmp_path):
    def trainer(folder, **settings):
        loss = RankingLoss(lambda s, t, m: approximate_ndcg_loss(s, t, m, temperature=50.0), name="mine")
        settings = {**SGD, "trainer_settings": {"ranking_loss": loss}, **settings}
        return make_trainer(
            tmp_path / folder, bpe_tokenizer, quiet_bart, train_dataset=query_dataset().select(range(8)), **settings
        )

    at_once = run(trainer("one", per_device_train_batch_size=8))
    in_steps = run(trainer("eight", per_device_train_batch_size=1, gradient_accumulation_steps=8))
    assert_same_run(at_once, in_steps)
    saving = {"save_strategy": "steps", "save_steps": 1}
    whole = run(trainer("whole", **saving))
    resumed = run(trainer("resumed", **saving), resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    assert whole[0] == resumed[0]
    assert all(torch.equal(value, resumed[1][name]) for name, value in whole[1].items())


def test_a_loss_of_the_order_with_margins_is_checked_and_logged_like_the_published_one(bpe_tokenizer, tmp_path):
    library = RANKING_LOSSES["distilled_ranknet"]
    mine = RankingLoss(library.function, "order", "mine", library.settings, library.scales, library.generation_weights)
    runs = [run(make_trainer(tmp_path, bpe_tokenizer, quiet_bart, ranking_loss=loss)) for loss in (library.name, mine)]
    assert runs[0][0] == runs[1][0]
    trainer = make_trainer(tmp_path, bpe_tokenizer, ranking_loss=mine)
    assert trainer.ranking_objective.has_margins
    assert trainer.ranking_objective.generation_weight == 100 * trainer.args.score_spread / 600
    trainer.train()
    assert "violated_margins" in trainer.state.log_history[0]


def test_one_loss_of_the_batch(bpe_tokenizer, tmp_path):
    of_batch = RankingLoss(lambda scores, mask: scores.square().mean(), teaches="order", name="mean_square")
    trainer = make_trainer(tmp_path, bpe_tokenizer, ranking_loss=of_batch, generation_weight=0.0)
    trainer.model.eval()
    batch = trainer.data_collator([*query_dataset()])
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(trainer._eval_terms.averages(trainer.accelerator)["loss_ranking"])


def test_arguments_record_the_name(tmp_path):
    args = make_arguments(tmp_path, ranking_loss=APPROXIMATE_NDCG)
    assert args.to_dict()["ranking_loss"] == "approximate_ndcg"
    assert json.loads(args.to_json_string())["ranking_loss"] == "approximate_ndcg"
    assert copy.deepcopy(args).ranking_loss is APPROXIMATE_NDCG and copy.copy(args).ranking_loss is APPROXIMATE_NDCG
    torch.save(args, tmp_path / "arguments")
    saved = torch.load(tmp_path / "arguments", weights_only=False)
    assert saved.ranking_loss == "approximate_ndcg" and saved.to_dict()["ranking_loss"] == "approximate_ndcg"
    other = args.with_ranking_loss("listnet")
    assert other.ranking_loss == "listnet" and args.ranking_loss is APPROXIMATE_NDCG


def test_settings_by_name(tmp_path):
    given = make_arguments(tmp_path, ranking_loss="lambda", ranking_loss_kwargs='{"weighting": "none"}')
    objective = RankingObjective.from_arguments(given, "log_odds")
    assert objective.settings == {"temperature": 100.0, "weighting": "none"}
    scores, teacher = torch.randn(2, 3), torch.randn(2, 3)
    mask = torch.ones(2, 3, dtype=torch.bool)
    plain = RankingObjective.from_arguments(make_arguments(tmp_path, ranking_loss="lambda"), "log_odds")
    assert not torch.allclose(
        objective.ranking_losses(scores, teacher, mask), plain.ranking_losses(scores, teacher, mask)
    )


def _no_tensor(scores, teacher_scores, mask):
    return 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"function": 3}, "function is a int, but a ranking loss has to be callable"),
        ({"teaches": "pairs"}, "teaches='pairs' is unknown; use 'order' or 'scores'"),
        ({"settings": {"margin": 1.0}}, "margin is no setting of the ranking loss 'approximate_ndcg', which has temp"),
        ({"scales": {"log_odds": {"gap": 1.0}}}, "gap is no setting of the ranking loss 'approximate_ndcg'"),
        ({"scales": {"odds": {}}}, "odds is no kind of scores; use log_odds and log_likelihood"),
        ({"generation_weights": {"odds": 1.0}}, "odds is no kind of scores"),
        (
            {"function": partial(RANKING_LOSSES["ranknet"].function), "settings": {"reduction": "mean"}, "name": "x"},
            "reduction is no setting of the ranking loss 'x', which has temperature",
        ),
    ],
)
def test_errors_of_a_loss(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        RankingLoss(**{"function": approximate_ndcg_loss, **settings})


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (RankingLoss(_no_tensor), "'_no_tensor' returned a float, not a tensor"),
        (RankingLoss(lambda s, t, m: s, name="mine"), r"'mine' returned a tensor of shape \(4, 6\) for 4 rank lists"),
    ],
)
def test_errors_of_what_a_loss_returns(loss, message, bpe_tokenizer, tmp_path):
    trainer = make_trainer(tmp_path, bpe_tokenizer, ranking_loss=loss)
    with pytest.raises((TypeError, ValueError), match=message):
        trainer.train()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranking_loss": "listnet", "margin": 3.0}, "margin is no setting of the ranking loss 'listnet', which has"),
        ({"ranking_loss": "listnet", "active_pair_mean": True}, "active_pair_mean is no setting of the ranking loss"),
        ({"ranking_loss_kwargs": {"sigma": 2.0}}, "sigma is no setting of the ranking loss 'kl_divergence'"),
        ({"ranking_loss": RankingLoss(approximate_ndcg_loss)}, "'approximate_ndcg' needs a value for temperature"),
    ],
)
def test_errors_before_training(arguments, message, bpe_tokenizer, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, bpe_tokenizer, **arguments)


def test_a_loss_for_the_trainer_is_checked(bpe_tokenizer, tmp_path):
    with pytest.raises(ValueError, match="ranking_loss='best' is unknown"):
        make_trainer(tmp_path, bpe_tokenizer, trainer_settings={"ranking_loss": "best"})
    with pytest.raises(TypeError, match=r"ranking_loss is a function. Give the name of a loss, or .*RankingLoss\("):
        make_trainer(tmp_path, bpe_tokenizer, trainer_settings={"ranking_loss": approximate_ndcg_loss})


def test_collators_of_strings_use_the_other_scale(bpe_tokenizer, tmp_path):
    trainer = make_trainer(
        tmp_path, bpe_tokenizer, collator=make_collator(bpe_tokenizer, "strings"), ranking_loss=APPROXIMATE_NDCG
    )
    assert trainer.ranking_objective.settings == {"temperature": 1.0}


def test_which_losses_know_of_places_that_passages_share():
    def of_scores(scores, teacher_scores, mask, *, taught_ranks):
        return scores.sum(-1)

    assert RankingLoss(of_scores).knows_ties() and not APPROXIMATE_NDCG.knows_ties()
    assert [name for name, loss in RANKING_LOSSES.items() if loss.knows_ties()] == ["distilled_ranknet", "margin_rank"]


def test_a_loss_of_the_order_is_given_the_ties_if_it_asks_for_them(bpe_tokenizer, tmp_path):
    seen = []

    def tied_hinge_loss(scores, mask, *, taught_ranks, margin):
        seen.append(taught_ranks)
        hinges = torch.relu(margin - scores[:, :1] + scores[:, 1:])
        return (hinges * (taught_ranks[:, 1:] > 0) * mask[:, 1:]).sum(-1)

    scales = {"log_likelihood": {"margin": 2.0}}
    loss = RankingLoss(tied_hinge_loss, teaches="order", scales=scales)
    assert loss.with_settings("log_likelihood", {}) == {"margin": 2.0}
    with pytest.raises(
        ValueError, match="taught_ranks is no setting of the ranking loss 'tied_hinge', which has margin"
    ):
        loss.with_settings("log_likelihood", {"taught_ranks": 3})
    rankings = Rankings({"q01": {"p01": 2.0, "p02": 2.0, "p03": 1.0, "p04": 0.0, "p05": 0.0}})
    collator = DistillationCollator(bpe_tokenizer, TITLES, rankings, sampling="top")
    queries = query_dataset().select([0])
    trainer = make_trainer(tmp_path, bpe_tokenizer, collator=collator, train_dataset=queries, ranking_loss=loss)
    metrics = trainer.evaluate(queries)
    assert seen[0].tolist() == [[0, 0, 1, 2, 2]]
    assert metrics["eval_loss_ranking"] >= 0
    trainer.train()
