import pytest
import torch
from transformers.trainer_pt_utils import LabelSmoother

from dgr_trainer.identifier_weights import ScoringSettings, identifier_weights
from dgr_trainer.student.log_probabilities import token_log_probabilities
from dgr_trainer.student.token_scores import TokenScores
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.losses import RANKING_LOSSES, distilled_ranknet_loss, margin_rank_loss
from dgr_trainer.training.objective import RankingObjective, generation_losses, passage_scores

MASK = torch.tensor([[True] * 4, [True] * 2 + [False] * 2, [True] + [False] * 3])


def objective(tmp_path, kind="log_odds", **settings) -> RankingObjective:
    return RankingObjective.from_arguments(DistillationTrainingArguments(output_dir=str(tmp_path), **settings), kind)


def test_defaults_have_the_scale_of_the_scores(tmp_path):
    default = objective(tmp_path)
    assert default.loss is RANKING_LOSSES["kl_divergence"] and default.generation_weight == 1
    assert default.settings == {"temperature": 100, "teacher_temperature": 1, "first_share": 0.75}
    published = {"ranking_loss": "distilled_ranknet"}
    odds, likelihoods = objective(tmp_path, **published), objective(tmp_path, "log_likelihood", **published)
    assert odds.settings == {"margin": 300, "margin_gap": 100, "first_weight": 3, "active_pair_mean": False}
    assert likelihoods.settings == {**odds.settings, "margin": 1, "margin_gap": 0.5}
    assert (odds.generation_weight, likelihoods.generation_weight) == (100, 1)
    listnet = objective(tmp_path, ranking_loss="listnet")
    assert listnet.settings == {"temperature": 100, "teacher_temperature": 1} and listnet.generation_weight == 1
    assert objective(tmp_path, "log_likelihood", ranking_loss="listnet").settings["temperature"] == 1
    chosen = objective(tmp_path, margin=7.0, margin_gap=0.0, generation_weight=0.0, **published)
    assert (chosen.settings["margin"], chosen.settings["margin_gap"], chosen.generation_weight) == (7, 0, 0)


@pytest.mark.parametrize("name", RANKING_LOSSES)
def test_every_loss_gives_a_loss_a_list(name, tmp_path):
    scores = (torch.randn(3, 4) * 200).requires_grad_()
    teacher = torch.randn(3, 4)
    losses = objective(tmp_path, ranking_loss=name).ranking_losses(scores, teacher, MASK)
    assert losses.shape == (3,) and losses[2] == 0 and losses[0] > 0
    losses.sum().backward()
    assert scores.grad[0].abs().sum() > 0 and (scores.grad[~MASK] == 0).all()
    statistics = objective(tmp_path, ranking_loss=name).statistics(scores, teacher, MASK)
    assert ("violated_margins" in statistics) == (name in ("distilled_ranknet", "margin_rank"))
    assert all(values.shape == (3,) and values[2].isnan() for values in statistics.values())


def test_only_pairs_that_the_loss_compares_violate_a_margin(tmp_path):
    scores = torch.tensor([[9000.0, 0.0, 100.0, 200.0]])
    lists = scores, -scores, torch.ones(1, 4, dtype=torch.bool)
    shares = [
        objective(tmp_path, ranking_loss=name).statistics(*lists)["violated_margins"].item()
        for name in ("margin_rank", "distilled_ranknet")
    ]
    assert shares == [0.0, 0.5]


def test_settings_reach_the_losses(tmp_path):
    scores, teacher = torch.randn(3, 4) * 200, torch.randn(3, 4)
    published = {"ranking_loss": "distilled_ranknet"}
    chosen = objective(tmp_path, margin=5.0, margin_gap=2.0, first_weight=9.0, **published)
    got = chosen.ranking_losses(scores, teacher, MASK)
    wanted = distilled_ranknet_loss(scores, MASK, margin=5.0, margin_gap=2.0, first_weight=9.0, reduction="none")
    torch.testing.assert_close(got, wanted)
    got = objective(tmp_path, ranking_loss="margin_rank").ranking_losses(scores, teacher, MASK)
    settings = {"margin": 300.0, "margin_gap": 100.0, "reduction": "none"}
    torch.testing.assert_close(got, margin_rank_loss(scores, MASK, num_candidates=None, **settings))
    got = objective(tmp_path, active_pair_mean=True, **published).ranking_losses(scores, teacher, MASK)
    wanted = distilled_ranknet_loss(scores, MASK, margin=300.0, margin_gap=100.0, reduction="active")
    torch.testing.assert_close(got, wanted)
    judged = torch.tensor([True, False, False])
    got = objective(tmp_path, first_share=1.0).ranking_losses(scores, teacher, MASK, judged=judged)
    torch.testing.assert_close(got[0], torch.nn.functional.cross_entropy(scores[0] / 100, torch.tensor(0)))
    torch.testing.assert_close(got[1], objective(tmp_path, first_share=0.0).ranking_losses(scores, teacher, MASK)[1])


def test_a_passage_is_the_sum_of_its_discounted_identifiers():
    log_likelihoods = torch.tensor([[-1.0, -2.0, -3.0]])
    batch = {
        "identifier_counts": torch.tensor([[2, 5, 1]]),
        "identifier_is_pseudo_query": torch.tensor([[False, False, True]]),
        "identifier_origins": torch.tensor([[0, 2, 0]]),
        "passage_identifiers": torch.tensor([[[0, 2], [1, -1], [-1, -1]]]),
        "passage_factors": torch.tensor([[[1.0, 0.5], [1.0, 0.9], [0.7, 0.7]]]),
    }
    settings = ScoringSettings()
    w = identifier_weights(
        log_likelihoods,
        batch["identifier_counts"],
        1000,
        settings,
        batch["identifier_is_pseudo_query"],
        batch["identifier_origins"],
    )[0]
    scores = passage_scores(log_likelihoods, batch, 1000, settings)
    torch.testing.assert_close(scores, torch.stack([w[0] + 0.5 * w[2], w[1], w.new_zeros(())]).unsqueeze(0))


def test_generation_is_a_mean_over_tokens_then_identifiers():
    log_p = torch.tensor([[[-1.0, -3.0, -7.0, -5.0]], [[-2.0, 0.0, 0.0, 0.0]]])
    batch = {
        "segments": torch.tensor([[[0, 0, 1, 2]], [[0, -1, -1, -1]]]),
        "generation_weights": torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]),
    }
    losses = generation_losses(TokenScores(log_p, torch.zeros_like(log_p)), batch, 0.0)
    assert losses.tolist() == [0.5 * 2.0 + 0.5 * 5.0, 0.0]


def test_label_smoothing_is_that_of_transformers():
    logits, labels = torch.randn(1, 6, 11), torch.randint(0, 11, (1, 6))
    tokens = token_log_probabilities(logits[0], torch.arange(6), labels[0])
    batch = {"segments": torch.zeros(1, 6, dtype=torch.long), "generation_weights": torch.ones(1, 1)}
    got = generation_losses(TokenScores(*(t.unsqueeze(0) for t in tokens)), batch, 0.1)
    torch.testing.assert_close(got[0], LabelSmoother(epsilon=0.1)({"logits": logits}, labels))
