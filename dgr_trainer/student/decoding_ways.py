"""The ways in which a student is run step by step in a search, and which of them was found to work for a model.

- `"shared"`: beams share the keys and values of their prompt, in one row of the batch (causal models).
- `"copied"`: each beam has a row of the model's cache, with a copy of its prompt's keys and values (causal models).
- `"cached"`: each beam has a row of the decoder's cache (encoder-decoder models).
- `"reread"`: without a cache, each step reads all tokens again.
"""

from __future__ import annotations

from typing import Any, Literal

DecodingWay = Literal["shared", "copied", "cached", "reread"]

_FOUND = "_dgr_decoding_way"


def known_way(model: Any) -> DecodingWay | None:
    """The way that was found for a model, without wrappers, with its attention; `None` if it was not tried."""
    attention, way = vars(model).get(_FOUND, (None, None))
    return way if attention == _attention(model) else None


def remember_way(model: Any, way: DecodingWay) -> None:
    """Remember what was found for a model, without wrappers."""
    vars(model)[_FOUND] = _attention(model), way


def _attention(model: Any) -> str | None:
    return getattr(model.config, "_attn_implementation", None)
