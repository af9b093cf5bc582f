import torch
from accelerate import Accelerator

from dgr_trainer.training.logged_terms import LoggedTerms


def test_averages_leave_out_what_is_not_a_number():
    terms = LoggedTerms(["a", "b", "c"])
    terms.add("a", torch.tensor([1.0, float("nan"), 3.0]))
    terms.add("a", torch.tensor(8.0))
    terms.add("b", torch.tensor([float("nan")]))
    accelerator = Accelerator(cpu=True)
    assert terms.averages(accelerator) == {"a": 4.0}
    assert terms.averages(accelerator) == {}, "reading begins anew"


def test_infinite_losses_show():
    terms = LoggedTerms(["a"])
    terms.add("a", torch.tensor([1.0, float("inf")]))
    assert terms.averages(Accelerator(cpu=True)) == {"a": float("inf")}


def test_nothing_is_read_until_it_is_asked_for():
    terms = LoggedTerms(["a"])
    terms.add("a", torch.tensor([1.0, 2.0], requires_grad=True) * 2)
    assert not terms._sums["a"].requires_grad and isinstance(terms._sums["a"], torch.Tensor)
