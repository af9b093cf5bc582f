"""The check of a query's text, wherever queries come from."""

from __future__ import annotations

from dgr_trainer.errors import DGRTypeError, DGRValueError


def as_query(value: object, query_id: str, location: str) -> str:
    """Check the text of a query.

    Args:
        value (`object`): The text.
        query_id (`str`): Its query id.
        location (`str`): Where it was found, such as `"row 3 of train_dataset"`, for the error.

    Returns:
        `str`: The text, unchanged.

    Raises:
        TypeError: if it is no string: missing, or a number.
        ValueError: if it is blank.
    """
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, str):
        raise DGRValueError(f"Query {query_id!r} is blank ({location}). Leave it out, or give it its text.")
    missing = value is None or value != value  # NaN is how pandas and numpy say that nothing is there.
    hint = "Leave it out, or give it its text." if missing else "Make it a string, for example with str()."
    raise DGRTypeError(f"Query {query_id!r} is {value!r} ({type(value).__name__}), not a string ({location}). {hint}")
