"""The names of the arguments of a model's `forward`, which differ between models and versions."""

from __future__ import annotations

import inspect
from typing import Any


def takes(model: Any, name: str) -> bool:
    """Whether a model's `forward` names an argument; what it only takes among `**kwargs` may have no effect."""
    return name in inspect.signature(type(model).forward).parameters


def cache_argument(model: Any) -> str:
    """The name of the cache among a model's arguments and outputs, which transformers 5.24 changed."""
    return "cache" if takes(model, "cache") else "past_key_values"
