"""Models whose parameters are sharded over several processes: FSDP2, DeepSpeed's ZeRO-3."""

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds only a part of the parameters."""
    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in model.parameters())


def is_partitioned_by_deepspeed(model: nn.Module) -> bool:
    """Whether DeepSpeed (ZeRO-3) holds parts of the parameters. Its hooks are those of modules that are not copied."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def max_over_processes(num_calls: int, model: nn.Module) -> int:
    """The largest `num_calls` of all processes if the model is sharded; otherwise `num_calls` itself.

    Calling a sharded module gathers its parameters from all processes, so all have to call it equally often.
    """
    if not is_sharded(model):
        return num_calls
    largest = torch.tensor(num_calls, device=next(model.parameters()).device)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return int(largest)


def join_embeddings(model: nn.Module) -> None:
    """Replace embedding modules that share one parameter by one module.

    In BART and T5, encoder and decoder each have an embedding module with the same parameter. FSDP2 shards by modules:
    accelerate puts these into two groups, and PyTorch 2.13 refuses a parameter of two groups ("shared with a parameter
    already managed by another FSDP group"). The model's outputs and parameter names do not change.
    """
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            same = type(child) is type(embedding) and child is not embedding and child.weight is embedding.weight
            if same:
                setattr(parent, name, embedding)
