import math

import pytest
import torch

from dgr_trainer.training.losses import lambda_loss, margin_mse_loss, ranknet_loss


def softplus(x):
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


class TestRankNet:
    def test_by_hand(self):
        scores = torch.tensor([[2.0, 1.0, 4.0]])
        teacher_scores = torch.tensor([[0.3, -5.0, 0.1]])  # order: first, third, second
        mask = torch.ones(1, 3, dtype=torch.bool)
        expected = (softplus(-(2 - 4)) + softplus(-(2 - 1)) + softplus(-(4 - 1))) / 3
        torch.testing.assert_close(ranknet_loss(scores, teacher_scores, mask), torch.tensor(expected))

    def test_temperature_divides_the_scores(self):
        scores = torch.tensor([[200.0, 100.0]])
        loss = ranknet_loss(scores, torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool), temperature=100.0)
        torch.testing.assert_close(loss, torch.tensor(softplus(-1.0)))

    def test_equal_teacher_scores_make_no_pair(self):
        scores = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
        mask = torch.ones(1, 3, dtype=torch.bool)
        loss = ranknet_loss(scores, torch.zeros(1, 3), mask)
        assert loss.item() == 0.0
        loss.backward()
        assert torch.equal(scores.grad, torch.zeros(1, 3))
        one_pair = ranknet_loss(scores, torch.tensor([[1.0, 1.0, 0.0]]), mask)
        torch.testing.assert_close(one_pair, torch.tensor((softplus(2.0) + softplus(1.0)) / 2))

    def test_gradient_does_not_vanish_however_wrong_the_pair(self):
        scores = torch.tensor([[-5000.0, 5000.0]], requires_grad=True)
        ranknet_loss(scores, torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool)).backward()
        torch.testing.assert_close(scores.grad, torch.tensor([[-1.0, 1.0]]))

    def test_teacher_scores_that_differ_only_in_float64(self):
        teacher_scores = torch.tensor([[1.0 + 1e-12, 1.0]], dtype=torch.float64)
        loss = ranknet_loss(torch.zeros(1, 2), teacher_scores, torch.ones(1, 2, dtype=torch.bool))
        torch.testing.assert_close(loss, torch.tensor(math.log(2.0)))


class TestMarginMSE:
    scores = torch.tensor([[3.0, 1.0, 2.5]])
    teacher_scores = torch.tensor([[8.0, 7.0, 4.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)

    def test_first_against_the_others(self):
        expected = ((2.0 - 1.0) ** 2 + (0.5 - 4.0) ** 2) / 2
        loss = margin_mse_loss(self.scores, self.teacher_scores, self.mask)
        torch.testing.assert_close(loss, torch.tensor(expected))

    def test_all_pairs(self):
        expected = ((2.0 - 1.0) ** 2 + (0.5 - 4.0) ** 2 + (-1.5 - 3.0) ** 2) / 3
        loss = margin_mse_loss(self.scores, self.teacher_scores, self.mask, pairs="all")
        torch.testing.assert_close(loss, torch.tensor(expected))

    def test_zero_for_equal_margins_at_the_temperature(self):
        scores = self.teacher_scores * 100 + 30
        assert margin_mse_loss(scores, self.teacher_scores, self.mask, temperature=100.0).item() < 1e-9

    def test_first_is_the_first_that_is_there(self):
        mask = torch.tensor([[False, True, True]])
        loss = margin_mse_loss(self.scores, self.teacher_scores, mask)
        torch.testing.assert_close(loss, torch.tensor((-1.5 - 3.0) ** 2))

    def test_unknown_pairs(self):
        with pytest.raises(ValueError, match="pairs must be one of 'first', 'all', but it is 'neighbours'"):
            margin_mse_loss(self.scores, self.teacher_scores, self.mask, pairs="neighbours")


def lambda_loss_of_a_list(scores, teacher_scores, grades, temperature=1.0):
    """NDCG-Loss2 pair by pair."""

    def discount(rank):
        return math.log2(1 + rank)

    size = len(scores)
    by_score = sorted(range(size), key=lambda i: (-scores[i], i))
    by_teacher = sorted(range(size), key=lambda i: -teacher_scores[i])
    ideal = sum((2 ** grades[i] - 1) / discount(rank) for rank, i in enumerate(by_teacher, 1))
    total = 0.0
    for i in range(size):
        for j in range(size):
            if teacher_scores[i] > teacher_scores[j]:
                distance = abs(by_score.index(i) - by_score.index(j))
                delta = abs(1 / discount(distance) - 1 / discount(distance + 1))
                gain = abs(2 ** grades[i] - 2 ** grades[j]) / ideal
                total += delta * gain * softplus(-(scores[i] - scores[j]) / temperature) / math.log(2)
    return total


class TestLambdaLoss:
    @pytest.mark.parametrize("seed", range(4))
    def test_gains_from_the_teachers_order(self, seed):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(1, 5, generator=generator).round(decimals=1) * 10
        teacher_scores = torch.randn(1, 5, generator=generator) * 1000
        teacher_scores[0, 3] = teacher_scores[0, 1]
        mask = torch.ones(1, 5, dtype=torch.bool)
        values = teacher_scores[0].tolist()
        grades = [sum(value > other for other in values) / 4 for value in values]
        expected = lambda_loss_of_a_list(scores[0].tolist(), values, grades, temperature=3.0)
        loss = lambda_loss(scores, teacher_scores, mask, temperature=3.0)
        torch.testing.assert_close(loss, torch.tensor(expected))

    def test_gains_from_grades(self):
        scores = [0.5, 2.0, 1.0, -1.0]
        grades = [3.0, 0.0, 1.0, 1.0]
        loss = lambda_loss(
            torch.tensor([scores]), torch.tensor([grades]), torch.ones(1, 4, dtype=torch.bool), gains="grades"
        )
        torch.testing.assert_close(loss, torch.tensor(lambda_loss_of_a_list(scores, grades, grades)))

    def test_two_passages_by_hand(self):
        # One pair at distance 1: delta = 1/log2(2) - 1/log2(3); gains 2^1 - 1 and 0 over an ideal DCG of 1.
        loss = lambda_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool))
        torch.testing.assert_close(loss, torch.tensor(1 - 1 / math.log2(3)))

    def test_equal_scores_rank_in_list_order(self):
        # Ranks 1, 2, 3: the pair of the first and the third passage is two places apart.
        grades = [1.0, 0.5, 0.0]
        loss = lambda_loss(torch.zeros(1, 3), torch.tensor([[9.0, 5.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool))
        expected = lambda_loss_of_a_list([0.0, 0.0, 0.0], [9.0, 5.0, 1.0], grades)
        torch.testing.assert_close(loss, torch.tensor(expected))

    def test_unweighted_is_ranknet_in_bits_as_a_sum(self):
        scores = torch.tensor([[2.0, 1.0, 4.0]])
        teacher_scores = torch.tensor([[3.0, 2.0, 1.0]])
        mask = torch.ones(1, 3, dtype=torch.bool)
        expected = ranknet_loss(scores, teacher_scores, mask) * 3 / math.log(2)
        torch.testing.assert_close(lambda_loss(scores, teacher_scores, mask, weighting="none"), expected)

    def test_all_tied_is_zero(self):
        scores = torch.tensor([[2.0, 1.0, 4.0]], requires_grad=True)
        for gains in ("ranks", "grades"):
            loss = lambda_loss(scores, torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool), gains=gains)
            assert loss.item() == 0.0
            (gradient,) = torch.autograd.grad(loss, scores)
            assert torch.equal(gradient, torch.zeros(1, 3))

    @pytest.mark.parametrize("setting, value", [("weighting", "ndcg1"), ("gains", "scores")])
    def test_unknown_setting(self, setting, value):
        with pytest.raises(ValueError, match=f"{setting} must be one of .*, but it is '{value}'"):
            lambda_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), **{setting: value})

    def test_gains_without_weights(self):
        with pytest.raises(ValueError, match="gains='grades' has no effect with weighting='none'"):
            lambda_loss(
                torch.zeros(1, 2),
                torch.zeros(1, 2),
                torch.ones(1, 2, dtype=torch.bool),
                weighting="none",
                gains="grades",
            )
