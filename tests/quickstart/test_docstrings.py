"""Docstrings become plain text, without signatures."""

import pytest

from dgr_trainer.quickstart.docstrings import LONGEST_SUMMARY, LONGEST_TEXT, clean_docstring, summary_line


@pytest.mark.parametrize(
    ("docstring", "name", "text"),
    [
        ("Return  the\n    length.", "len", "Return the length."),
        ("max(a, b) -> value\nmax(*args) -> value\n\nReturn the biggest item.", "max", "Return the biggest item."),
        ("pop(k[,d]) -> v, remove the key and return it.\n\nElse d.", "pop", "remove the key and return it. Else d."),
        ("D.get(k (a, b)) -> D[k] if k in D, else d.", "get", "D[k] if k in D, else d."),
        ("zip(*iterables) --> Yield tuples until one ends.", "zip", "Yield tuples until one ends."),
        (
            "part(f, *args) - new function with some\nof the arguments.",
            "part",
            "new function with some of the arguments.",
        ),
        ("async nxt(it[, default])\n\nReturn the next item.", "nxt", "Return the next item."),
        ("string, format -> new date parsed from a string.", "parse", "new date parsed from a string."),
        ("sin(x) is a function of x.", "sin", "sin(x) is a function of x."),
        ("other(x)\n\nReturn something else.", "sin", "other(x) Return something else."),
        ("Make a :class:`Path` of ``parts``, *all* of them::\n\n    x", "p", "Make a Path of parts, all of them: x"),
        ("Square it.\n\n>>> square(2)\n4\n\nThat is all.", "square", "Square it. That is all."),
        ("Title here\n----------\n\nText.", "m", "Title here Text."),
        ("Search for it.\n\n(typ, [data]) = <instance>.search(a)", "search", "Search for it."),
        ("Load = Name(expr_context ctx)", "Load", ""),
        ("Point(x: int, y: int)", "Point", ""),
    ],
)
def test_clean_docstring(docstring: str, name: str, text: str) -> None:
    assert clean_docstring(docstring, name) == text


def test_long_texts_are_cut() -> None:
    docstring = "word " * 500
    assert len(clean_docstring(docstring, "x").split()) == LONGEST_TEXT
    assert len(summary_line(docstring, "x").split()) == LONGEST_SUMMARY


@pytest.mark.parametrize(
    ("docstring", "summary"),
    [
        ("Return the length. It counts.", "Return the length"),
        ("Return it, e.g. the Sum, as a number.  More.", "Return it, e.g. the Sum, as a number"),
        ("Round x.y values\n\nMore text.", "Round x.y values"),
        ("", ""),
        ("f(x)\n\nReturn y.", "Return y"),
    ],
)
def test_summary_line(docstring: str, summary: str) -> None:
    assert summary_line(docstring, "f") == summary
