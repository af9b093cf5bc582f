"""Turns a docstring into plain text without signature, doctests and markup. Imports only the standard library."""

import inspect
import re

LONGEST_TEXT = 120
"""Number of words of a docstring that are kept."""
LONGEST_SUMMARY = 24
"""Number of words of a summary that are kept."""

_ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:(?=`)")
_RULE = re.compile(r"^[-=~*#+_\s|]{3,}$")
_INSTANCE_CALL = re.compile(r"^.* = <instance>\.\w+\(.*\)$")
_CALL = re.compile(
    r"(?:[a-z]\w* = )?(?:class\s+|async\s+)?(?:[A-Za-z_]\w*\.)*(?P<name>[A-Za-z_]\w*)(?:\[[\w, ]*\])?\("
)
_NAMELESS_SIGNATURE = re.compile(r"^(?:[a-z\[][\w\[\], ]{0,30})?-> ?")
_RETURNS = re.compile(r"\s*(-{1,2}>|--?(?=\s)|=>|:)\s*")
_GRAMMAR = re.compile(r"^\w+ = [A-Z]\w*(\(|$| *\|)")
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)[.!?](?=\s+[\"'(A-Z0-9_]|$)")
_RESULT = re.compile(r"^(?:[a-z]{1,2}|None|int|bool|str|string|list|integer|float)\s*(?:[,.:;]|--)\s+(?=\S)")


def clean_docstring(docstring: str, name: str) -> str:
    """Return the text of a docstring without signature, with single spaces, cut after `LONGEST_TEXT` words.

    Args:
        docstring (`str`): the value of `__doc__`.
        name (`str`): the last part of the object's name, which tells a leading signature from other calls.

    Returns:
        `str`: the text; empty if the docstring is only a signature or a grammar.
    """
    return _cut(" ".join(_paragraphs(docstring, name)), LONGEST_TEXT)


def summary_line(docstring: str, name: str) -> str:
    """Return the first sentence of a docstring's text without its full stop, cut after `LONGEST_SUMMARY` words.

    Args:
        docstring (`str`): the value of `__doc__`.
        name (`str`): the last part of the object's name, which tells a leading signature from other calls.
    """
    paragraphs = _paragraphs(docstring, name)
    if not paragraphs:
        return ""
    first = paragraphs[0]
    if len(first.split()) < 3 and len(paragraphs) > 1:
        first = f"{first} {paragraphs[1]}"
    end = _SENTENCE_END.search(first)
    sentence = first[: end.start()] if end and len(first[: end.start()].split()) >= 2 else first
    return _cut(sentence, LONGEST_SUMMARY).rstrip(" .:;,")


def _cut(text: str, words: int) -> str:
    return " ".join(text.split()[:words])


def _paragraphs(docstring: str, name: str) -> list[str]:
    text = _without_signatures(inspect.cleandoc(docstring), name)
    paragraphs: list[list[str]] = [[]]
    in_doctest = False
    for line in text.splitlines():
        line = line.strip()
        if not line:
            in_doctest = False
            paragraphs.append([])
        elif line.startswith(">>>") or in_doctest:
            in_doctest = True
        elif not (_RULE.match(line) or _INSTANCE_CALL.match(line)):
            paragraphs[-1].append(line)
    cleaned = [_without_markup(" ".join(lines)) for lines in paragraphs if lines]
    cleaned = [paragraph for paragraph in cleaned if paragraph]
    if cleaned and _GRAMMAR.match(cleaned[0]):
        return []
    return cleaned


def _without_markup(text: str) -> str:
    text = _ROLE.sub("", text).replace("`", "")
    text = re.sub(r"\*\*?(\w[\w.]*)\*\*?", r"\1", text)
    text = _NAMELESS_SIGNATURE.sub("", text)
    return " ".join(text.replace("::", ":").replace("\\ ", " ").split())


def _without_signatures(text: str, name: str) -> str:
    """Remove every leading `name(...) -> result` of a docstring and keep the explanations behind them."""
    explanations: list[str] = []
    while match := _CALL.match(text):
        end = _closing(text, match.end())
        if end is None:
            break
        line, _, rest = text[end:].partition("\n")
        arrow = _RETURNS.match(line)
        if match["name"] != name and not (arrow and arrow[1].endswith("->")):
            break  # A call of something else.
        if line.strip() and not arrow:
            if not explanations and line.lstrip()[:1] not in ".,;":
                break  # A sentence that begins with a call.
            line = ""
        explanation = line[arrow.end() :].strip() if arrow else ""
        stripped = _RESULT.sub("", explanation)
        while rest[:1] in tuple(" \t(") or (rest[:1].islower() and not _CALL.match(rest)):  # A continuation line.
            more, _, rest = rest.partition("\n")
            stripped = f"{stripped} {more.strip()}"
        if len(stripped.split()) >= 4 and not stripped.startswith(("(", "[")):
            explanations.append(stripped)
        text = rest.lstrip("\n")
    if text.strip() and explanations and all(len(line.split()) < 6 for line in explanations):
        explanations = []
    return "\n\n".join([*explanations, text])


def _closing(text: str, start: int) -> int | None:
    """Return the position after the parenthesis that closes the one before `start`, or `None` if there is none."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position + 1
    return None
