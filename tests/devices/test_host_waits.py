"""The counter finds what makes a host wait, and nothing else."""

import pytest
import torch
from devices.host_waits import HostWaits

WAITS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "int": lambda x: int(x.sum()),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.detach().cpu().numpy(),
    "tolist": lambda x: x.tolist(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "mask written": lambda x: x.clone().__setitem__(x > 0, 0),
    "unique": lambda x: x.unique(),
    "one argument of where": lambda x: torch.where(x > 0),
    "repeats": lambda x: torch.repeat_interleave(x.long()),
}
NONE = {
    "where": lambda x: torch.where(x > 0, x, 0),
    "indices": lambda x: x[torch.arange(2)],
    "slices": lambda x: x[1:3] + x.masked_fill(x > 0, 1.0)[:2],
    "topk": lambda x: x.topk(2).values.sum(),
    "known repeats": lambda x: torch.repeat_interleave(x.long(), output_size=10),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_is_found(name):
    with HostWaits().watching() as waits:
        WAITS[name](torch.arange(5.0))
    assert waits.places


@pytest.mark.parametrize("name", NONE)
def test_what_does_not_wait_is_not(name):
    with HostWaits().watching() as waits:
        NONE[name](torch.arange(5.0))
    assert not waits.places


def test_waits_in_a_backward_pass_are_found():
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * gradient.sum().item()

    x = torch.ones(3, requires_grad=True)
    with HostWaits().watching() as waits:
        Reads.apply(x).sum().backward()
    assert len(waits.places) == 1
