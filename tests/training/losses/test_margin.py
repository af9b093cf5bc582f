import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.training.losses import distilled_ranknet_loss, margin_rank_loss


def reference_active_mean(scores, margin, margin_gap, first_weight):
    """The published form, pair by pair: the mean of the weighted hinges that are not zero, over the whole batch."""
    active = []
    for row in scores.tolist():
        for i in range(len(row)):
            weight = first_weight if i == 0 else 1 / (i + 1)
            for j in range(i + 1, len(row)):
                hinge = weight * max(0.0, row[j] - row[i] + margin + (j - i - 1) * margin_gap)
                if hinge != 0:
                    active.append(hinge)
    return sum(active) / len(active) if active else 0.0


class TestDistilledRankNet:
    # Pairs of (10, 8, 9.5) with margin 3, gap 1: (1,2) 8-10+3 = 1, (1,3) 9.5-10+4 = 3.5, (2,3) 9.5-8+3 = 4.5.
    # Weights 3, 3, 1/2: 3 + 10.5 + 2.25 = 15.75, divided by 6.5.
    scores = torch.tensor([[10.0, 8.0, 9.5]])
    mask = torch.ones(1, 3, dtype=torch.bool)

    @pytest.mark.parametrize(
        "reduction, expected",
        [("weights", 15.75 / 6.5), ("active", 15.75 / 3), ("sum", 15.75), ("none", [15.75 / 6.5])],
    )
    def test_by_hand(self, reduction, expected):
        loss = distilled_ranknet_loss(self.scores, self.mask, margin=3.0, margin_gap=1.0, reduction=reduction)
        torch.testing.assert_close(loss, torch.tensor(expected))

    def test_default_reduction_is_by_weights(self):
        loss = distilled_ranknet_loss(self.scores, self.mask, margin=3.0, margin_gap=1.0)
        torch.testing.assert_close(loss, torch.tensor(15.75 / 6.5))

    def test_first_weight(self):
        loss = distilled_ranknet_loss(
            self.scores, self.mask, margin=3.0, margin_gap=1.0, first_weight=1.0, reduction="sum"
        )
        torch.testing.assert_close(loss, torch.tensor(1 + 3.5 + 2.25))

    def test_satisfied_pairs_are_left_alone(self):
        # (1,2): 8-20+3 < 0. (1,3): 19-20+4 = 3, weight 3. (2,3): 19-8+3 = 14, weight 1/2.
        scores = torch.tensor([[20.0, 8.0, 19.0]], requires_grad=True)
        loss = distilled_ranknet_loss(scores, self.mask, margin=3.0, margin_gap=1.0, reduction="active")
        torch.testing.assert_close(loss, torch.tensor((9.0 + 7.0) / 2))
        loss.backward()
        torch.testing.assert_close(scores.grad, torch.tensor([[-3.0, -0.5, 3.5]]) / 2)

    def test_masked_passage_widens_no_gap(self):
        scores = torch.tensor([[10.0, float("nan"), 8.0, 9.5, 3.0]])
        mask = torch.tensor([[True, False, True, True, False]])
        loss = distilled_ranknet_loss(scores, mask, margin=3.0, margin_gap=1.0, reduction="sum")
        torch.testing.assert_close(loss, torch.tensor(15.75))

    def test_masked_first_passage_gives_its_weight_to_the_next(self):
        scores = torch.tensor([[99.0, 10.0, 8.0, 9.5]])
        mask = torch.tensor([[False, True, True, True]])
        loss = distilled_ranknet_loss(scores, mask, margin=3.0, margin_gap=1.0, reduction="sum")
        torch.testing.assert_close(loss, torch.tensor(15.75))

    @pytest.mark.parametrize("seed", range(5))
    def test_active_is_the_published_mean(self, seed):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(4, 5, generator=generator, dtype=torch.float64) * 400
        loss = distilled_ranknet_loss(
            scores, torch.ones(4, 5, dtype=torch.bool), margin=300.0, margin_gap=100.0, reduction="active"
        )
        expected = reference_active_mean(scores, 300.0, 100.0, 3.0)
        assert expected > 0
        assert loss.item() == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("reduction", ["weights", "active", "sum", "none"])
    def test_all_margins_satisfied(self, reduction):
        scores = torch.tensor([[3000.0, 2000.0, 1000.0]], requires_grad=True)
        loss = distilled_ranknet_loss(scores, self.mask, margin=300.0, margin_gap=100.0, reduction=reduction).sum()
        assert loss.item() == 0.0
        loss.backward()
        assert torch.equal(scores.grad, torch.zeros(1, 3))

    def test_lists_count_alike_whatever_their_length(self):
        scores = torch.zeros(2, 5)
        mask = torch.tensor([[True, True, False, False, False], [True] * 5])
        losses = distilled_ranknet_loss(scores, mask, margin=2.0, margin_gap=0.0, reduction="none")
        torch.testing.assert_close(losses, torch.tensor([2.0, 2.0]))

    def test_active_takes_no_number_of_lists(self):
        with pytest.raises(ValueError, match="num_lists is what a mean over lists divides by, and reduction='active'"):
            distilled_ranknet_loss(self.scores, self.mask, margin=3.0, margin_gap=1.0, reduction="active", num_lists=2)

    @pytest.mark.parametrize("name", ["margin", "margin_gap"])
    @pytest.mark.parametrize("value", [-1.0, float("nan"), "300"])
    def test_bad_margin(self, name, value):
        settings = {"margin": 3.0, "margin_gap": 1.0, name: value}
        with pytest.raises(ValueError, match=f"{name} must be a finite number >= 0, but it is "):
            distilled_ranknet_loss(self.scores, self.mask, **settings)

    @pytest.mark.parametrize("value", [0.0, -3.0])
    def test_bad_first_weight(self, value):
        with pytest.raises(ValueError, match="first_weight must be a finite number > 0"):
            distilled_ranknet_loss(self.scores, self.mask, margin=3.0, margin_gap=1.0, first_weight=value)


class TestMarginRank:
    # (p, n1, n2, n3) = (10, 9, 8, 12) with margin 3, gap 1: 9-10+3 = 2, 8-10+4 = 2 and 12-10+5 = 7.
    scores = torch.tensor([[10.0, 9.0, 8.5, 12.0]])
    mask = torch.ones(1, 4, dtype=torch.bool)

    @pytest.mark.parametrize(
        "num_candidates, expected", [(1, 2.0), (2, (2 + 2.5) / 2), (3, 11.5 / 3), (None, 11.5 / 3)]
    )
    def test_by_hand(self, num_candidates, expected):
        loss = margin_rank_loss(self.scores, self.mask, margin=3.0, margin_gap=1.0, num_candidates=num_candidates)
        torch.testing.assert_close(loss, torch.tensor(expected))

    def test_default_is_the_rank_loss_of_ltrgr(self):
        scores = torch.tensor([[900.0, 700.0, 650.0], [100.0, 300.0, 0.0]])
        mask = torch.ones(2, 3, dtype=torch.bool)
        r1 = (max(0, 700 - 900 + 300) + max(0, 300 - 100 + 300)) / 2
        r2 = (max(0, 650 - 900 + 400) + max(0, 0 - 100 + 400)) / 2
        loss = margin_rank_loss(scores, mask, margin=300.0, margin_gap=100.0)
        torch.testing.assert_close(loss, torch.tensor(0.5 * r1 + 0.5 * r2))

    def test_masked_candidate_moves_the_next_up(self):
        scores = torch.tensor([[10.0, float("inf"), 9.0, 8.5]])
        mask = torch.tensor([[True, False, True, True]])
        loss = margin_rank_loss(scores, mask, margin=3.0, margin_gap=1.0)
        torch.testing.assert_close(loss, torch.tensor((2 + 2.5) / 2))

    def test_list_with_fewer_candidates_takes_the_mean_of_those(self):
        mask = torch.tensor([[True, True, False, False]])
        loss = margin_rank_loss(self.scores, mask, margin=3.0, margin_gap=1.0)
        torch.testing.assert_close(loss, torch.tensor(2.0))

    def test_candidates_are_not_compared_with_each_other(self):
        scores = torch.tensor([[1000.0, 0.0, 500.0]], requires_grad=True)
        mask = torch.ones(1, 3, dtype=torch.bool)
        loss = margin_rank_loss(scores, mask, margin=300.0, margin_gap=100.0, num_candidates=None)
        assert loss.item() == 0.0
        loss.backward()
        assert torch.equal(scores.grad, torch.zeros(1, 3))

    @pytest.mark.parametrize("name", ["margin", "margin_gap"])
    def test_bad_margin(self, name):
        settings = {"margin": 3.0, "margin_gap": 1.0, name: -1.0}
        with pytest.raises(ValueError, match=f"{name} must be a finite number >= 0, but it is -1.0"):
            margin_rank_loss(self.scores, self.mask, **settings)

    def test_bad_number_of_candidates(self):
        with pytest.raises(ValueError, match="num_candidates must be at least 1, or None for all candidates"):
            margin_rank_loss(self.scores, self.mask, margin=3.0, margin_gap=1.0, num_candidates=0)


def plain_margin_loss(scores, ranks, teacher, margin, margin_gap, first_weight, normalization, growth):
    """Distilled RankNet of one list, pair by pair, with places, the teacher's scores and standardised scores."""
    size = len(scores)
    if normalization == "list":
        mean = sum(scores) / size
        deviation = (sum((s - mean) ** 2 for s in scores) / size + 1e-6) ** 0.5
        scores = [(s - mean) / deviation for s in scores]
    places = {rank: place for place, rank in enumerate(sorted(set(ranks)))}
    levels = [places[rank] for rank in ranks]
    unit = (max(teacher) - min(teacher)) / max(1, max(levels))
    total = weights = 0.0
    for i in range(size):
        for j in range(size):
            if levels[i] >= levels[j]:
                continue
            steps = levels[j] - levels[i]
            if growth == "teacher_scores" and unit > 0:
                steps = max(0.0, teacher[i] - teacher[j]) / unit
            weight = first_weight if levels[i] == 0 else 1 / (levels[i] + 1)
            wanted = max(0.0, margin + margin_gap * (steps - 1))
            total += weight * max(0.0, wanted - (scores[i] - scores[j]))
            weights += weight
    return total / weights if weights else 0.0


NUMBERS = st.integers(-50, 50)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(NUMBERS, st.integers(0, 4), NUMBERS), min_size=1, max_size=6),
    st.sampled_from(["none", "list"]),
    st.sampled_from(["ranks", "teacher_scores"]),
    st.integers(0, 20),
    st.integers(0, 30),
)
def test_margins_pair_by_pair(rows, normalization, growth, margin, margin_gap):
    scores, ranks, teacher = map(list, zip(*rows, strict=True))
    expected = plain_margin_loss(scores, ranks, teacher, margin, margin_gap, 3.0, normalization, growth)

    def padded(values, dtype):
        return torch.tensor([[7, *values, 5]], dtype=dtype)

    mask = torch.tensor([[False, *[True] * len(rows), False]])
    loss = distilled_ranknet_loss(
        padded(scores, torch.float64), mask, taught_ranks=padded(ranks, torch.int64),
        teacher_scores=padded(teacher, torch.float64), margin=margin, margin_gap=margin_gap,
        normalization=normalization, margin_growth=growth,
    )  # fmt: skip
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("loss", [distilled_ranknet_loss, margin_rank_loss])
def test_evenly_spaced_teacher_scores_are_places(loss):
    scores, mask = torch.randn(4, 6, dtype=torch.float64), torch.ones(4, 6, dtype=torch.bool)
    teacher = torch.arange(6, 0, -1).double().expand(4, 6) * 0.37 + 2.0
    settings = {"margin": 1.0, "margin_gap": 0.4}
    by_score = loss(scores, mask, teacher_scores=teacher, margin_growth="teacher_scores", **settings)
    torch.testing.assert_close(by_score, loss(scores, mask, **settings))


@pytest.mark.parametrize("loss", [distilled_ranknet_loss, margin_rank_loss])
def test_normalised_margins_do_not_depend_on_the_scale(loss):
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])
    settings = {"margin": 0.5, "margin_gap": 0.2, "normalization": "list"}
    one, other = loss(scores, mask, **settings), loss(scores * 700 + 30, mask, **settings)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(one, scores)
    assert torch.isfinite(gradient).all() and gradient[:2].abs().sum() > 0 and gradient[2].abs().sum() == 0


def test_teacher_scores_of_masked_passages_do_not_matter():
    mask = torch.tensor([[True, True, True, False]])
    losses = [
        distilled_ranknet_loss(
            torch.tensor([[1.0, 2.0, 0.5, 9.0]]), mask, teacher_scores=torch.tensor([[3.0, 2.0, 0.0, other]]),
            margin=1.0, margin_gap=1.0, margin_growth="teacher_scores",
        )
        for other in (0.0, 1e6, float("nan"))
    ]  # fmt: skip
    assert losses[0] == losses[1] == losses[2]


def test_wrong_margin_settings():
    scores, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="normalization must be one of 'none', 'list', but it is 'softmax'"):
        distilled_ranknet_loss(scores, mask, margin=1.0, margin_gap=1.0, normalization="softmax")
    with pytest.raises(ValueError, match="margin_growth must be one of 'ranks', 'teacher_scores'"):
        margin_rank_loss(scores, mask, margin=1.0, margin_gap=1.0, margin_growth="scores")
    with pytest.raises(ValueError, match="teacher_scores are missing"):
        margin_rank_loss(scores, mask, margin=1.0, margin_gap=1.0, margin_growth="teacher_scores")
