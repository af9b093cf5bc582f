"""The check of one text: of a query, a passage, an answer or a pseudo-query."""

from __future__ import annotations

import datetime

import numpy as np

from dgr_trainer.errors import DGRTypeError, DGRValueError


def as_text(value: object, what: str, location: str = "") -> str:
    """Check that a value is a text that can be encoded.

    Args:
        value (`object`): The value.
        what (`str`): What it is, for the error, such as `"query '7'"`.
        location (`str`, *optional*): Where the value was found, for the error.

    Returns:
        `str`: The value.

    Raises:
        TypeError: if the value is no string.
        ValueError: if it holds half of a surrogate pair, which is no character.
    """
    if not isinstance(value, str):
        where = f"{location}: the {what}" if location else f"The {what}"
        raise DGRTypeError(f"{where} is {value!r:.60} ({type(value).__name__}), not a string. {_advice(value)}")
    if not value.isascii():
        check_encodable(value, what, location)
    return value


def as_query(value: object, query_id: str, location: str = "") -> str:
    """Check the text of a query, wherever it comes from.

    Args:
        value (`object`): The text.
        query_id (`str`): Its query id.
        location (`str`, *optional*): Where the text was found, such as `"row 3 of train_dataset"`, for the error.

    Returns:
        `str`: The text, unchanged.

    Raises:
        TypeError: if it is no string: missing, or a number.
        ValueError: if it is blank or not Unicode.
    """
    what = f"query {query_id!r}"
    text = as_text(value, what, location)
    if not text.strip():
        where = f"{location}: the {what}" if location else f"The {what}"
        raise DGRValueError(f"{where} is blank. Leave it out, or give it its text.")
    return text


def check_encodable(value: str, what: str, location: str = "") -> None:
    """Raise a `ValueError` if a string holds half of a surrogate pair."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        where = f"{location}: the {what}" if location else f"The {what}"
        raise DGRValueError(
            f"{where} is a text that is not Unicode: {value[error.start]!r} (at {error.start}) is half of a surrogate "
            "pair, as if a character was cut in two. Correct the text."
        ) from None


def is_missing(value: object) -> bool:
    """Whether a value stands for a missing one: `None`, NaN or what pandas has in their place."""
    return (
        value is None
        or (isinstance(value, (float, np.floating)) and bool(value != value))
        or type(value).__name__ in ("NAType", "NaTType")
    )


def _advice(value: object) -> str:
    if is_missing(value):
        return "It is missing: give it a text, or leave the row out."
    if isinstance(value, datetime.date):
        return (
            "A text that looks like a date was read as one: keep the column as strings, or give the path of the file."
        )
    return "Write it as a string."
