"""What every loss must do, whatever its formula."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from dgr_trainer.training.losses import (
    count_rank_lists,
    distilled_ranknet_loss,
    kl_divergence_loss,
    lambda_loss,
    listmle_loss,
    listnet_loss,
    margin_mse_loss,
    margin_rank_loss,
    ranknet_loss,
)


def order_only(loss):
    """Gives a loss of the list order the signature of the others."""
    return lambda scores, teacher_scores, mask, **kwargs: loss(scores, mask, **kwargs)


# Margins of 3.3 and 1.1 leave some pairs of the random scores below satisfied and some violated.
distilled = order_only(partial(distilled_ranknet_loss, margin=3.3, margin_gap=1.1))
PER_LIST = {
    "distilled_ranknet": distilled,
    "margin_rank": order_only(partial(margin_rank_loss, margin=3.3, margin_gap=1.1)),
    "margin_rank_all": order_only(partial(margin_rank_loss, margin=3.3, margin_gap=1.1, num_candidates=None)),
    "ranknet": partial(ranknet_loss, temperature=2.0),
    "margin_mse": margin_mse_loss,
    "margin_mse_all": partial(margin_mse_loss, pairs="all", temperature=3.0),
    "lambda": lambda_loss,
    "lambda_unweighted": partial(lambda_loss, weighting="none"),
    "listnet": partial(listnet_loss, temperature=2.0),
    "kl_divergence": partial(kl_divergence_loss, teacher_temperature=2.0),
    "listmle": listmle_loss,
}
ALL = PER_LIST | {
    "distilled_ranknet_active": partial(distilled, reduction="active"),
    "distilled_ranknet_sum": partial(distilled, reduction="sum"),
}
NEED_TEACHER = {name: loss for name, loss in PER_LIST.items() if not name.startswith(("distilled", "margin_rank"))}

each_loss = pytest.mark.parametrize("loss", ALL.values(), ids=ALL.keys())
each_per_list_loss = pytest.mark.parametrize("loss", PER_LIST.values(), ids=PER_LIST.keys())


def random_lists(batch=4, size=6, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch, size, generator=generator, dtype=dtype) * 4
    teacher_scores = torch.randn(batch, size, generator=generator, dtype=dtype) * 2
    mask = torch.rand(batch, size, generator=generator) < 0.7
    mask[0] = True
    return scores, teacher_scores, mask


def value_and_gradient(loss, scores, teacher_scores, mask, **kwargs):
    scores = scores.clone().requires_grad_()
    value = loss(scores, teacher_scores, mask, **kwargs)
    (gradient,) = torch.autograd.grad(value.sum(), scores)
    return value.detach(), gradient


@pytest.mark.parametrize("name", PER_LIST)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    garbage=st.sampled_from([0.0, 7.0, -1e30, float("inf"), float("-inf"), float("nan")]),
    ties=st.booleans(),
)
def test_masked_equals_removed(name, seed, lengths, garbage, ties):
    loss = PER_LIST[name]
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) + 2
    scores = torch.full((len(lengths), width), garbage)
    teacher_scores = torch.full((len(lengths), width), garbage)
    mask = torch.zeros(len(lengths), width, dtype=torch.bool)
    alone = []
    for row, length in enumerate(lengths):
        places = torch.randperm(width, generator=generator)[:length].sort().values
        mask[row, places] = True
        short = torch.randn(2, 1, length, generator=generator) * 4
        if ties:
            short = short.round()
        scores[row, places], teacher_scores[row, places] = short[0, 0], short[1, 0]
        everything = torch.ones(1, length, dtype=torch.bool)
        alone.append((places, *value_and_gradient(loss, short[0], short[1], everything, reduction="none")))

    values, gradients = value_and_gradient(loss, scores, teacher_scores, mask, reduction="none")

    assert torch.equal(gradients[~mask], torch.zeros_like(gradients[~mask]))
    for row, (places, value, gradient) in enumerate(alone):
        torch.testing.assert_close(values[row], value[0])
        torch.testing.assert_close(gradients[row, places], gradient[0])


@each_loss
def test_garbage_in_masked_entries_changes_nothing(loss):
    scores, teacher_scores, mask = random_lists()
    expected = value_and_gradient(loss, scores, teacher_scores, mask)
    for garbage in (1e30, float("inf"), float("nan")):
        actual = value_and_gradient(
            loss, scores.masked_fill(~mask, garbage), teacher_scores.masked_fill(~mask, -garbage), mask
        )
        assert torch.equal(actual[0], expected[0])
        assert torch.equal(actual[1], expected[1])


@each_loss
def test_gradient_is_that_of_the_value(loss):
    scores, teacher_scores, mask = random_lists(batch=3, size=5, dtype=torch.float64)
    scores.requires_grad_()
    value = loss(scores, teacher_scores, mask)
    assert value.dtype == torch.float64
    assert value > 0.1
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher_scores, mask), (scores,))


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_extreme_scores_in_low_precision_stay_finite(loss, dtype):
    scores = torch.tensor([[-5000.0, 5000.0, 0.0, 4992.0], [5000.0, -5000.0, 5000.0, 1.0]], dtype=dtype)
    teacher_scores = torch.tensor([[12.0, -7.0, 0.5, -5000.0], [5000.0, -5000.0, 1.0, 1.0]], dtype=dtype)
    mask = torch.tensor([[True, True, True, True], [True, True, False, True]])

    value, gradient = value_and_gradient(loss, scores, teacher_scores, mask)

    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()
    assert gradient[0].abs().max() > 0  # a list in utterly wrong order still has a gradient
    exact = loss(scores.double(), teacher_scores.double(), mask)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)


@each_loss
def test_autocast_does_not_lower_the_precision(loss):
    scores, teacher_scores, mask = random_lists()
    expected = loss(scores, teacher_scores, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = loss(scores, teacher_scores, mask)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)


@each_loss
@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(2, 3, dtype=torch.bool),
        torch.tensor([[True, False, False], [False, False, True]]),
        torch.zeros(0, 3, dtype=torch.bool),
        torch.zeros(2, 0, dtype=torch.bool),
    ],
    ids=["empty lists", "one passage", "no list", "no width"],
)
def test_nothing_to_compare_is_zero_with_zero_gradient(loss, mask):
    scores = torch.full(mask.shape, 2.5, requires_grad=True)
    value = loss(scores, torch.full(mask.shape, 1.5), mask)
    assert value.item() == 0.0
    value.backward()
    assert torch.equal(scores.grad, torch.zeros(mask.shape))


@each_loss
def test_works_without_reading_values(loss):
    """Fake tensors have no values: any `.item()`, boolean indexing or branch on a value raises."""
    with FakeTensorMode():
        scores = torch.empty(4, 6, requires_grad=True)
        value = loss(scores, torch.empty(4, 6), torch.empty(4, 6, dtype=torch.bool))
        value.backward()
        assert value.shape == ()
        assert scores.grad.shape == (4, 6)


@each_per_list_loss
def test_none_returns_the_loss_of_each_list_and_mean_their_mean(loss):
    scores, teacher_scores, mask = random_lists()
    mask[1] = False
    mask[2] = torch.tensor([False, True, False, False, False, False])
    per_list = loss(scores, teacher_scores, mask, reduction="none")
    assert per_list.shape == (4,)
    assert per_list[1] == per_list[2] == 0
    assert count_rank_lists(mask).item() == 2
    torch.testing.assert_close(loss(scores, teacher_scores, mask), (per_list[0] + per_list[3]) / 2)


@pytest.mark.parametrize("as_tensor", [True, False])
@pytest.mark.parametrize("name", [*PER_LIST, "distilled_ranknet_sum"])
def test_micro_batches_add_up_to_the_whole_batch(name, as_tensor):
    scores, teacher_scores, mask = random_lists(batch=5, seed=3)
    mask[3] = False  # ragged: micro-batches of 1 and 2 lists
    whole = value_and_gradient(ALL[name], scores, teacher_scores, mask)
    num_lists = count_rank_lists(mask)
    if not as_tensor:
        num_lists = num_lists.item()
    value, gradients = 0.0, []
    for part in (slice(0, 1), slice(1, 3), slice(3, 5)):
        step = value_and_gradient(ALL[name], scores[part], teacher_scores[part], mask[part], num_lists=num_lists)
        value = value + step[0]
        gradients.append(step[1])
    torch.testing.assert_close(value, whole[0])
    torch.testing.assert_close(torch.cat(gradients), whole[1])


@each_per_list_loss
def test_zero_lists_in_all_are_not_divided_by(loss):
    scores, teacher_scores, mask = random_lists()
    assert loss(scores, teacher_scores, torch.zeros_like(mask), num_lists=0) == 0
    assert loss(scores, teacher_scores, torch.zeros_like(mask), num_lists=torch.tensor(0)) == 0


@each_loss
def test_order_of_the_lists_does_not_matter(loss):
    scores, teacher_scores, mask = random_lists()
    order = torch.tensor([2, 0, 3, 1])
    value, gradient = value_and_gradient(loss, scores, teacher_scores, mask)
    shuffled = value_and_gradient(loss, scores[order], teacher_scores[order], mask[order])
    torch.testing.assert_close(shuffled[0], value)
    torch.testing.assert_close(shuffled[1], gradient[order])


@pytest.mark.parametrize("name", [name for name in NEED_TEACHER if name != "margin_mse"])
def test_order_of_the_passages_does_not_matter_where_teacher_scores_tell_it(name):
    scores, teacher_scores, mask = random_lists()
    order = torch.tensor([5, 2, 0, 3, 1, 4])
    value, gradient = value_and_gradient(ALL[name], scores, teacher_scores, mask)
    shuffled = value_and_gradient(ALL[name], scores[:, order], teacher_scores[:, order], mask[:, order])
    torch.testing.assert_close(shuffled[0], value)
    torch.testing.assert_close(shuffled[1], gradient[:, order])


@pytest.mark.parametrize("name", ["distilled_ranknet", "margin_rank", "margin_mse"])
def test_order_of_the_passages_matters_where_it_is_what_is_taught(name):
    scores, teacher_scores, mask = random_lists()
    value = ALL[name](scores, teacher_scores, mask)
    backwards = ALL[name](scores.flip(1), teacher_scores.flip(1), mask.flip(1))
    assert not torch.isclose(value, backwards)


@each_loss
def test_a_step_down_the_gradient_lowers_the_loss(loss):
    scores, teacher_scores, mask = random_lists()
    value, gradient = value_and_gradient(loss, scores, teacher_scores, mask)
    assert loss(scores - 1e-2 * gradient, teacher_scores, mask) < value


@each_loss
def test_only_differences_of_scores_count(loss):
    scores, teacher_scores, mask = random_lists(dtype=torch.float64)
    shifted = loss(scores + 1000.0, teacher_scores, mask)
    torch.testing.assert_close(shifted, loss(scores, teacher_scores, mask))


@pytest.mark.parametrize("name", ["ranknet", "lambda", "lambda_unweighted", "listmle"])
def test_only_the_order_of_teacher_scores_counts(name):
    scores, teacher_scores, mask = random_lists()
    value = ALL[name](scores, teacher_scores, mask)
    assert value.isfinite()
    assert torch.equal(ALL[name](scores, teacher_scores**3 * 1e9 - 5e3, mask), value)
    ranks = teacher_scores.argsort(1, descending=True).argsort(1)
    assert torch.equal(ALL[name](scores, -ranks, mask), value)  # integers will do


@pytest.mark.parametrize("loss", NEED_TEACHER.values(), ids=NEED_TEACHER.keys())
class TestTeacherScores:
    def test_get_no_gradient(self, loss):
        scores, teacher_scores, mask = random_lists()
        teacher_scores.requires_grad_()
        loss(scores.requires_grad_(), teacher_scores, mask).backward()
        assert teacher_scores.grad is None

    def test_missing(self, loss):
        scores, _, mask = random_lists()
        with pytest.raises(ValueError, match="teacher_scores are missing.*distilled_ranknet_loss"):
            loss(scores, None, mask)

    def test_wrong_shape(self, loss):
        scores, teacher_scores, mask = random_lists()
        with pytest.raises(
            ValueError, match=r"teacher_scores must have the shape of scores, \(4, 6\), but it is \(4, 5"
        ):
            loss(scores, teacher_scores[:, :5], mask)

    def test_wrong_dtype(self, loss):
        scores, teacher_scores, mask = random_lists()
        with pytest.raises(TypeError, match="teacher_scores must be floating point or integers.*torch.bool"):
            loss(scores, teacher_scores > 0, mask)


@each_loss
class TestBadInput:
    def test_integer_scores(self, loss):
        scores, teacher_scores, mask = random_lists()
        with pytest.raises(TypeError, match="scores must be floating point.*torch.int64"):
            loss(scores.long(), teacher_scores, mask)

    def test_one_list_without_batch_dimension(self, loss):
        scores, teacher_scores, mask = random_lists()
        with pytest.raises(ValueError, match=r"\(lists, passages\), but it is \(6,\).*scores\[None\]"):
            loss(scores[0], teacher_scores[0], mask[0])

    def test_mask_of_another_shape(self, loss):
        scores, teacher_scores, mask = random_lists()
        with pytest.raises(ValueError, match=r"mask must have the shape of scores, \(4, 6\), but it is \(3, 6\)"):
            loss(scores, teacher_scores, mask[:3])

    @pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
    def test_mask_that_is_not_bool(self, loss, dtype):
        scores, teacher_scores, mask = random_lists()
        with pytest.raises(TypeError, match=r"mask must be a bool tensor.*call mask.bool\(\)"):
            loss(scores, teacher_scores, mask.to(dtype))

    def test_unknown_reduction(self, loss):
        scores, teacher_scores, mask = random_lists()
        with pytest.raises(ValueError, match="reduction must be one of .*'none', but it is 'average'"):
            loss(scores, teacher_scores, mask, reduction="average")

    def test_number_of_lists_without_a_mean(self, loss):
        scores, teacher_scores, mask = random_lists()
        with pytest.raises(ValueError, match="num_lists is what a mean over lists divides by, and reduction='none'"):
            loss(scores, teacher_scores, mask, reduction="none", num_lists=3)


@each_per_list_loss
def test_bad_number_of_lists(loss):
    scores, teacher_scores, mask = random_lists()
    with pytest.raises(ValueError, match="num_lists must be a finite number >= 0, but it is -1"):
        loss(scores, teacher_scores, mask, num_lists=-1)
    with pytest.raises(ValueError, match=r"num_lists must be a single number, but its shape is \(2,\)"):
        loss(scores, teacher_scores, mask, num_lists=torch.tensor([1, 2]))


@pytest.mark.parametrize(
    "loss", [ranknet_loss, margin_mse_loss, lambda_loss, listnet_loss, kl_divergence_loss, listmle_loss]
)
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_temperature(loss, temperature):
    scores, teacher_scores, mask = random_lists()
    with pytest.raises(ValueError, match="temperature must be a finite number > 0"):
        loss(scores, teacher_scores, mask, temperature=temperature)


@pytest.mark.parametrize("loss", [listnet_loss, kl_divergence_loss])
def test_bad_teacher_temperature(loss):
    scores, teacher_scores, mask = random_lists()
    with pytest.raises(ValueError, match="teacher_temperature must be a finite number > 0, but it is 0"):
        loss(scores, teacher_scores, mask, teacher_temperature=0)


def test_count_rank_lists():
    mask = torch.tensor([[True, True, False], [False, False, True], [False, False, False], [True, False, True]])
    assert count_rank_lists(mask).item() == 2
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        count_rank_lists(mask.long())
