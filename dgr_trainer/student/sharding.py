"""Models whose parameters several processes share between them: FSDP2, DeepSpeed's ZeRO-3."""

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds a part of the parameters only."""
    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in model.parameters())


def most_of_all(count: int, model: nn.Module) -> int:
    """The largest of the processes' numbers of calls of a module, if they share the model; else this process's own.

    A module that is called gathers its parameters from all processes, so each of them has to call it as often.
    """
    if not is_sharded(model):
        return count
    most = torch.tensor(count, device=next(model.parameters()).device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)


def join_embeddings(model: nn.Module) -> None:
    """Make input embeddings that are one parameter one module, too.

    BART and T5 have an embedding module for each side with the same parameter. FSDP2 shards by modules, and PyTorch
    2.13 refuses a parameter of two groups, into which accelerate puts them ("shared with a parameter already managed
    by another FSDP group"). What the model computes and how its parameters are called stays as it is.
    """
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            same = type(child) is type(embedding) and child is not embedding and child.weight is embedding.weight
            if same:
                setattr(parent, name, embedding)
