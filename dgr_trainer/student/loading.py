"""Loads models and refuses those of which weights are missing: transformers would leave them at random."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dgr_trainer.errors import DGRValueError

_TASK_HEADS = re.compile(r"For(SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice)$")
_NAMED = 3  # weights in an error


def load_model(
    auto_class: Any, name: str | os.PathLike[str], outputs: Callable[[Any], Tensor], **arguments: Any
) -> Any:
    """Load a model with all its weights.

    Args:
        auto_class (`type`): The class that loads it, such as `AutoModelForSeq2SeqLM`.
        name (`str` or `os.PathLike`): A folder or a name on the hub.
        outputs (`Callable[[PreTrainedModel], torch.Tensor]`): Runs the model on a few tokens and returns what is used
            of its outputs: weights that they do not depend on, such as those of an unused pooling layer, may be
            missing.
        **arguments: Passed on to `from_pretrained`.

    Returns:
        [`~transformers.PreTrainedModel`]: the model.

    Raises:
        ValueError: if weights are missing, have another shape, or are of layers or of a head that it does not use.
    """
    # Weights of another shape are named below; transformers would only log them.
    arguments |= {"ignore_mismatched_sizes": True, "output_loading_info": True}
    model, info = auto_class.from_pretrained(name, **arguments)
    check_weights(model, info, name, outputs)
    return model


def check_weights(
    model: Any, info: Mapping[str, Any], name: str | os.PathLike[str], outputs: Callable[[Any], Tensor]
) -> None:
    """Check which weights of a model came from its files.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model.
        info (`Mapping[str, Any]`): What `from_pretrained` returned with `output_loading_info=True`.
        name (`str` or `os.PathLike`): Name of the model, for errors.
        outputs (`Callable[[PreTrainedModel], torch.Tensor]`): See `load_model`.

    Raises:
        ValueError: see `load_model`.
    """
    kind = type(model).__name__
    if info["error_msgs"]:
        raise DGRValueError(f"The weights of {name} cannot be read: {' '.join(info['error_msgs'])}")
    shapes = {key: (tuple(found), tuple(expected)) for key, found, expected in info["mismatched_keys"]}
    random = _needed(model, {*info["missing_keys"], *shapes}, outputs)
    if random:
        of_other_shape = [key for key in random if key in shapes]
        if of_other_shape:
            found, expected = shapes[of_other_shape[0]]
            what = f"have another shape ({of_other_shape[0]}: {found} in the file, {expected} in the model)"
        else:
            what = "are missing"
        raise DGRValueError(
            f"Weights of {name} {what}: {_listed(random)}. As a {kind} it would compute with random weights there. "
            f"{_advice(model, kind)}"
        )
    unexpected = sorted(info["unexpected_keys"])
    left_out = _of_further_layers(model, unexpected)
    if left_out:
        raise DGRValueError(
            f"The files of {name} have more layers than its configuration: {_listed(left_out)} would not be used. "
            "Correct the number of layers in its config.json, or save the smaller model."
        )
    saved_as = _architecture(model)
    if unexpected and saved_as != kind and _TASK_HEADS.search(saved_as):
        raise DGRValueError(
            f"{name} is a {saved_as}: as a {kind} its head ({_listed(unexpected)}) would not be used, and the rest "
            "was not trained to be used without it. Give a model that was trained for this use."
        )


def seq2seq_logits(model: Any) -> Tensor:
    """The logits of a sequence-to-sequence model for a few tokens: shape `(1, 2, vocabulary)`."""
    ids = torch.tensor([[1, 2, 3]], device=model.device)
    logits: Tensor = model(input_ids=ids, decoder_input_ids=ids[:, :2], use_cache=False).logits
    return logits


def causal_logits(model: Any) -> Tensor:
    """The logits of a causal language model for a few tokens: shape `(1, 3, vocabulary)`."""
    logits: Tensor = model(input_ids=torch.tensor([[1, 2, 3]], device=model.device), use_cache=False).logits
    return logits


def _needed(model: Any, keys: Iterable[str], outputs: Callable[[Any], Tensor]) -> list[str]:
    """Those of the parameters that outputs depend on; buffers are not random if they are missing."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    keys = sorted(key for key in keys if key in parameters)
    # Which experts a layer runs depends on the tokens, so all weights of layers count.
    heads = [key for key in keys if not _in_layer(key) and parameters[key].requires_grad]
    if not heads:
        return keys
    with torch.enable_grad():
        total = outputs(model).float().sum()
        gradients = torch.autograd.grad(total, [parameters[key] for key in heads], allow_unused=True)
    unused = {key for key, gradient in zip(heads, gradients, strict=True) if gradient is None}
    return [key for key in keys if key not in unused]


def _in_layer(key: str) -> bool:
    return any(part.isdigit() for part in key.split("."))


def _of_further_layers(model: Any, keys: Iterable[str]) -> list[str]:
    """Weights that the model has in other layers; a file may lack the prefix of the model's names, or have another."""
    known = {_without_numbers(key) for key in model.state_dict()}
    ends = {pattern.split(".", 1)[-1] for pattern in known} | known
    return [
        key
        for key in keys
        if _in_layer(key) and {_without_numbers(key), _without_numbers(key).split(".", 1)[-1]} & ends
    ]


def _without_numbers(key: str) -> str:
    return ".".join("#" if part.isdigit() else part for part in key.split("."))


def _architecture(model: Any) -> str:
    """Name of the class that wrote the configuration."""
    return next(iter(getattr(model.config, "architectures", None) or []), "")


def _advice(model: Any, kind: str) -> str:
    saved_as = _architecture(model)
    if saved_as and saved_as != kind:
        return f"The files are of a {saved_as}: give a model that was trained as a {kind}."
    return "Copy all its files again, or give another model."


def _listed(keys: list[str]) -> str:
    more = len(keys) - _NAMED
    return ", ".join(keys[:_NAMED]) + (f" and {more} more" if more > 0 else "")
