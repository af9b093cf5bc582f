"""Prompts: the text that asks a model for the identifiers of a view, as token ids."""

from __future__ import annotations

import datetime
import logging
import re
from collections import Counter
from collections.abc import Sequence

from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.identifiers.settings import VIEWS, IdentifierSettings
from dgr_trainer.identifiers.special_tokens import SpecialTokens
from dgr_trainer.identifiers.text_encoder import TextEncoder

logger = logging.getLogger(__name__)

_QUERY = "{query}"
# Some chat templates state the date. It is always this one, or a model would get other prompts each day.
_DATE = datetime.date(2024, 7, 26)
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


class Prompts:
    """Makes the prompts of queries.

    Args:
        settings ([`IdentifierSettings`]): The prompt of each view, and whether it is a message to a chat model.
        encoder ([`TextEncoder`]): Encodes them.

    Attributes:
        is_closed (`bool`): Whether prompts end with special tokens of the tokenizer.

    Raises:
        ValueError: if prompts are to be messages, and the tokenizer has no chat template that holds them unchanged.
    """

    def __init__(self, settings: IdentifierSettings, encoder: TextEncoder) -> None:
        self.settings = settings
        self.encoder = encoder
        self.special = encoder.special
        self._has_warned = False
        self._messages: dict[str, tuple[str, str]] = {}
        self._num_closing = 0
        if settings.chat:
            self._messages = {view: self._message(view) for view in settings.views}
            around = "".join(text for message in self._messages.values() for text in message)
            self.special = SpecialTokens(encoder.tokenizer, within=around)
        else:
            self._num_closing = encoder.num_closing
        self.is_closed = self._num_closing > 0 and settings.closed_prompts

    def text(self, query: str, view: str) -> str:
        """The prompt as text."""
        return self._text(self.special.as_text(query), view)

    def encode(self, queries: Sequence[str], view: str, warn: bool = True) -> list[list[int]]:
        """Ids of prompts; see [`Identifiers.encode_prompts`]."""
        limit = self.settings.max_query_length
        if not queries:
            return []
        *prompts, empty = self._ids([*queries, ""], view)
        cut = []
        for ids in prompts:
            if len(ids) > limit:
                tail = _common_length(ids[::-1], empty[::-1])
                head = min(_common_length(ids, empty), len(empty) - tail)
                if tail >= limit or head + tail > limit:
                    raise DGRValueError(self._no_room(view, head, tail))
                if warn and not self._has_warned:
                    self._has_warned = True
                    logger.warning(
                        "A query is cut: its prompt has %d tokens, but max_query_length is %d. Other long queries are "
                        "cut, too. Set IdentifierSettings(max_query_length=...) to keep them whole.",
                        len(ids),
                        limit,
                    )
                ids = ids[: limit - tail] + ids[len(ids) - tail :]
            cut.append(ids)
        return cut

    def lengths(self, queries: Sequence[str], view: str) -> list[int]:
        """Number of tokens of prompts, before they are cut."""
        return [len(ids) for ids in self._ids([*queries, ""], view)][:-1]

    def _no_room(self, view: str, head: int, tail: int) -> str:
        limit = self.settings.max_query_length
        advice = "Raise max_query_length or shorten the prompt."
        if self.settings.chat:
            why, advice = f"has {head + tail} tokens around it, with the chat template", "Raise max_query_length."
        elif tail >= limit:
            why = f"ends in a marker of {tail} tokens"
        else:
            why = f"has {head + tail} tokens around it"
        return f"max_query_length={limit} leaves no room for a query: the prompt of view {view!r} {why}. {advice}"

    def _message(self, view: str) -> tuple[str, str]:
        """What stands before and after the query of a view in a message."""
        tokenizer = self.encoder.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise DGRValueError(
                f"chat=True makes prompts messages to a chat model, but this {type(tokenizer).__name__} has no chat "
                "template. Load the tokenizer of a chat model, or leave chat out."
            )
        with input_errors("chat=True: the chat template of the tokenizer cannot hold a single message", Exception):
            text = str(
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": self.settings.prompts[view]}],
                    tokenize=False,
                    add_generation_prompt=True,
                    enable_thinking=False,  # An identifier follows, no reasoning.
                    chat_template=_without_today(tokenizer.get_chat_template()),
                )
            )
        if text.count(_QUERY) != 1:
            raise DGRValueError(
                f"chat=True: the chat template of the tokenizer does not hold a message as it is: it makes {text!r} "
                f"of {self.settings.prompts[view]!r}. Use the tokenizer of another model, or leave chat out."
            )
        before, after = text.split(_QUERY)
        return before, after

    def _text(self, query: str, view: str) -> str:
        prompt = self.settings.prompts[known_view(view)]
        query = " ".join(query.split())
        if self.settings.chat:
            before, after = self._messages.get(view) or self._message(view)
            return before + query + after
        text = prompt.replace(_QUERY, query)
        return text if view == "docid" else self.encoder.space + text

    def _ids(self, queries: Sequence[str], view: str) -> list[list[int]]:
        """Ids of whole prompts; the last query is empty."""
        special = self.special
        prompts = self._raw([self.text(query, view) for query in queries])
        expected = special.count(prompts[-1])
        for number, ids in enumerate(prompts):
            if special.count(ids) <= expected:
                continue
            (prompts[number],) = self._raw([self._text(special.as_text(queries[number], normalised=True), view)])
            if special.count(prompts[number]) > expected:
                surplus = Counter(prompts[number]) - Counter(prompts[-1])
                raise self.encoder.special_token_error(f"The query {queries[number]!r}", list(surplus), special)
        return prompts

    def _raw(self, texts: list[str]) -> list[list[int]]:
        # A chat template writes the special tokens itself.
        prompts = self.encoder.raw(texts, special_tokens=not self.settings.chat)
        if self._num_closing and not self.settings.closed_prompts:
            return [ids[: -self._num_closing] for ids in prompts]
        return prompts


def _without_today(template: str) -> str:
    """A chat template with a fixed date in place of today's."""
    return _TODAY.sub(lambda match: repr(_DATE.strftime(match[2])), template)


def known_view(view: str) -> str:
    """The view. Raises a `ValueError` if there is no such view."""
    if view not in VIEWS:
        raise DGRValueError(f"{view!r} is not a view; the views are {', '.join(VIEWS)}.")
    return view


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many entries are the same from the start."""
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length
