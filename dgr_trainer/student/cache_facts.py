"""Remembers, with the model, whether its cache can be used for decoding step by step."""

from __future__ import annotations

from torch import nn

_FOUND = "_dgr_decodes_with_cache"


def decodes_with_known_cache(model: nn.Module) -> bool:
    """Whether a model decodes with its cache, as far as is known: yes, unless it was found not to."""
    return bool(vars(model).get(_FOUND, True))


def cache_is_known(model: nn.Module) -> bool:
    """Whether it was found out for this model."""
    return _FOUND in vars(model)


def remember_cache(model: nn.Module, works: bool) -> None:
    """Remember what was found for a model, without wrappers."""
    vars(model)[_FOUND] = works
