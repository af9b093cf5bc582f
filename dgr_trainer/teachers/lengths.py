"""How many tokens a model of transformers reads at most, and the check of a given maximum."""

from __future__ import annotations

from typing import Any

from dgr_trainer.errors import DGRValueError

_UNLIMITED = 1_000_000  # Tokenizers without a limit name a huge one.


def position_limit(model: Any) -> int | None:
    """The longest input, in tokens, that a model of transformers has positions for; `None` if it names none."""
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if positions is None or positions < 1:  # XLNet's is -1.
        return None
    return int(positions) - position_offset(model)


def position_offset(model: Any) -> int:
    """The first position of a model: that after the padding's for RoBERTa, MPNet and the like, 0 for others."""
    for module in model.modules():
        padding = getattr(module, "padding_idx", None)
        table = getattr(module, "position_embeddings", None)
        # Only models that number their positions so give the padding a row in the table of positions.
        if isinstance(padding, int) and getattr(table, "padding_idx", None) == padding:
            return padding + 1
    return 0


def checked_max_length(
    max_length: int | None, positions: int | None, tokenizer: Any, special: int, name: str
) -> int | None:
    """Check a maximum length, or find one.

    Args:
        max_length (`int`, *optional*): The length that was asked for.
        positions (`int`, *optional*): Result of `position_limit`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Tokenizer of the model.
        special (`int`): Number of special tokens of an input.
        name (`str`): Name of the model, for errors.

    Returns:
        `int`, *optional*: `max_length`; by default the smallest limit of model and tokenizer, `None` if they have
        none.

    Raises:
        ValueError: if the model takes fewer tokens, or special tokens alone are as many.
    """
    if max_length is None:
        limits = (positions, tokenizer.model_max_length)
        return min((limit for limit in limits if limit is not None and limit < _UNLIMITED), default=None)
    if positions is not None and max_length > positions:
        raise DGRValueError(
            f"max_length is {max_length}, but {name} has positions for {positions} tokens. Give a smaller max_length."
        )
    # Tokenizers cut nothing at all if special tokens leave no room.
    if max_length <= special:
        raise DGRValueError(
            f"max_length is {max_length}, but an input of {name} has {special} special tokens, which leave no room "
            "for its text. Give a larger max_length."
        )
    return max_length
