"""One index in the memory of several processes, each of which holds a part of the corpus.

The first process searches: it has the model, and an index that sends each question to all processes and merges their
answers. The others only answer. Counts, continuations and positions are exact over all parts, so weights and scores
are those of one index of the whole corpus.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import torch.distributed as dist

from dgr_trainer.errors import DGRIndexError, DGRValueError
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.distributed_ids import DistributedIds, check_ids

logger = logging.getLogger(__name__)

# The name of a method `_part_NAME` and its arguments.
_Question = tuple[str, tuple[Any, ...]]

# The other processes wait for questions, and a service may get none for a long time.
_TIMEOUT = timedelta(days=365)


class DistributedIndex(FMIndex):
    """An index whose parts are in several processes.

    Experimental: this class may change or go away in any release, without a deprecation period.

    Every process makes one, from the index of its part of the corpus. Passages are numbered across all parts, those of
    the first process first. No passage may be in two parts.

    Use it as a context manager. The other processes wait for questions until the first process leaves the block,
    normally or by an error. If one of the others fails, the first gets an error at its next question.

    Args:
        part ([`FMIndex`]): The index of this process.

    Raises:
        ValueError: in all processes, if no process group was initialised, the parts were built with different
            tokenizers, or a passage id is in two parts.

    Example, in a script that `accelerate launch` starts:

    ```python
    accelerator = Accelerator()
    with DistributedIndex(FMIndex.load(f"part-{accelerator.process_index}")) as index:
        if index.is_first:
            retriever = GenerativeRetriever(model, identifiers, index)
            print(retriever.search("who discovered penicillin"))
        else:
            index.answer()
    ```
    """

    def __init__(self, part: FMIndex) -> None:
        # FMIndex.__init__ is not called: this class has no segments, and replaces every method that reads them.
        self._part = part
        self._awaiting_replies = False
        self._connect()
        self._open = True
        try:
            self._exchange_properties()
            check_ids(part.passage_ids, self._rank, self._size, self._exchange, self._collect)
        except ValueError:  # In all processes.
            self._disconnect()
            raise

    def _exchange_properties(self) -> None:
        part = self._part
        properties = {
            "vocab_size": part.vocab_size,
            "separator": part.separator,
            "tokenizer_fingerprint": part.tokenizer_fingerprint,
            "num_segments": part.num_segments,
            "num_passages": part.num_passages,
            "num_tokens": part.num_tokens,
            "corpus_fingerprint": part.corpus_fingerprint,
            "num_bytes": part.num_bytes,
        }
        parts = self._exchange(properties)
        values: dict[str, list[Any]] = {name: [properties[name] for properties in parts] for name in properties}
        for name in ("vocab_size", "separator", "tokenizer_fingerprint"):
            if any(value != values[name][0] for value in values[name]):
                raise DGRValueError(
                    f"The parts of the index were made with different tokenizers: their {name} is "
                    f"{', '.join(map(str, values[name]))}. Index all parts of the corpus with the same tokenizer."
                )
        self.vocab_size, self.separator = part.vocab_size, part.separator
        self.tokenizer_fingerprint = part.tokenizer_fingerprint
        self.corpus_fingerprint = "+".join(values["corpus_fingerprint"])
        self._segments_before = np.cumsum([0, *values["num_segments"]])
        self.passages_before = np.cumsum([0, *values["num_passages"]])
        self._num_bytes: int = sum(values["num_bytes"])
        self._num_tokens: int = sum(values["num_tokens"])
        self.num_passages = int(self.passages_before[-1])
        self._counts: np.ndarray = np.sum(self._exchange(part.token_counts), axis=0)
        self.passage_ids = DistributedIds(self)  # type: ignore[assignment]

    # Communication

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that searches."""
        return self._rank == 0

    def answer(self) -> None:
        """Answer the questions of the first process until it closes the index; for the other processes.

        Raises:
            ValueError: if this is the first process.
        """
        if self.is_first:
            raise DGRValueError(
                "The first process searches and has nobody to answer. Call answer() in the other processes only."
            )
        while (question := self._question()) is not None:
            self._reply(self._answer(*question))
        self._disconnect()

    def close(self) -> None:
        """Release the other processes from `answer`; for the first process. The index cannot be used afterwards."""
        if not self._open:
            return
        if self._awaiting_replies:  # Interrupted between a question and its replies, so no other can be sent.
            self._abandon()
            return
        self._ask_all(None)
        self._disconnect()

    def __enter__(self) -> DistributedIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            return
        if not self.is_first:
            self._abandon()
            return
        try:
            self.close()
        except RuntimeError:
            if kind is None:
                raise
            logger.warning("The other processes of the index have ended already.")

    def _connect(self) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise DGRValueError(
                "No processes are connected that could hold parts of the index. Start the script with `accelerate "
                "launch` or `torchrun`, and make an Accelerator (or call torch.distributed.init_process_group) first."
            )
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo", timeout=_TIMEOUT)

    def _disconnect(self) -> None:
        """End the connection in all processes together."""
        # A process that ends while threads of the group are still working is aborted.
        dist.barrier(self._group)
        self._abandon()

    def _abandon(self) -> None:
        """End the connection in this process only; processes that wait for it get an error."""
        self._open = False
        dist.destroy_process_group(self._group)

    def _exchange(self, value: Any) -> list[Any]:
        """The values of all processes, in each of them."""
        values = [None] * self._size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def _collect(self, value: Any, rank: int) -> list[Any] | None:
        """The values of all processes, in the process `rank`; `None` in the others."""
        values = [None] * self._size if rank == self._rank else None
        dist.gather_object(value, values, dst=rank, group=self._group)
        return values

    def _question(self) -> _Question | None:
        """Wait for a question of the first process; `None` if it closes the index."""
        received: list[_Question | None] = [None]
        dist.broadcast_object_list(received, src=0, group=self._group)
        return received[0]

    def _reply(self, reply: Any) -> None:
        dist.gather_object(reply, dst=0, group=self._group)

    def _ask_all(self, question: _Question | None) -> list[Any]:
        """Send a question to all processes, this one included; returns their replies."""
        self._awaiting_replies = True
        dist.broadcast_object_list([question], src=0, group=self._group)
        replies: list[Any] = [None] * self._size
        if question is not None:
            dist.gather_object(self._answer(*question), replies, dst=0, group=self._group)
        self._awaiting_replies = False
        return replies

    def ask(self, name: str, *arguments: Any) -> list[Any]:
        """The answer of each process. Raises what one of them raised.

        Args:
            name (`str`): Name of the method `_part_NAME` that answers.
            *arguments: Its arguments.
        """
        replies = self._ask_all((name, arguments))
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return getattr(self, f"_part_{name}")(*arguments)
        except Exception as error:  # The first process raises it; this one continues to answer.
            return error

    # Answers of each process for its part

    def _local_ranges(self, ranges: np.ndarray) -> np.ndarray:
        """The ranges in the segments of this part."""
        first, end = self._segments_before[self._rank : self._rank + 2].tolist()
        return ranges[..., first:end, :]

    def _part_whole(self) -> np.ndarray:
        return self._part.whole

    def _part_find(self, patterns: Any) -> np.ndarray:
        return self._part.find_batch(patterns)

    def _part_counts(self, ranges: np.ndarray) -> np.ndarray:
        return self._part.counts(self._local_ranges(ranges))

    def _part_extend(self, ranges: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        extended = self._part.extend(self._local_ranges(ranges), tokens)
        return extended, self._part.counts(extended) > 0

    def _part_continuations(self, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._part.continuations_batch(self._local_ranges(ranges))

    def _part_locate(self, ranges: np.ndarray, lengths: Any, limit: int | None) -> tuple[np.ndarray, ...]:
        numbers, passages, offsets = self._part.locate_batch(self._local_ranges(ranges), lengths, limit)
        return numbers, passages + self.passages_before[self._rank], offsets

    def _local_positions(self, passages: np.ndarray) -> np.ndarray:
        """Positions in this part of those passages that are in it."""
        first, end = self.passages_before[self._rank : self._rank + 2].tolist()
        local: np.ndarray = passages[(passages >= first) & (passages < end)] - first
        return local

    def _part_extract(self, passages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._part.extract_batch(self._local_positions(passages))

    def _part_lengths(self) -> np.ndarray:
        return self._part.passage_lengths

    def _part_ids(self, passages: np.ndarray) -> list[str]:
        return self._part.passage_ids.take(self._local_positions(passages))

    def _part_positions(self, values: list[str]) -> np.ndarray:
        positions = self._part.passage_ids.positions(values)
        return np.where(positions < 0, -1, positions + self.passages_before[self._rank])

    # The whole index; see FMIndex

    @property
    def num_segments(self) -> int:
        """Number of segments in all processes; see [`FMIndex`]."""
        return int(self._segments_before[-1])

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all passages, one separator per passage included."""
        return self._num_tokens

    @property
    def whole(self) -> np.ndarray:
        """See [`FMIndex`]."""
        return np.concatenate(self.ask("whole"), axis=0)

    @property
    def token_counts(self) -> np.ndarray:
        """See [`FMIndex`]."""
        return self._counts

    @property
    def passage_lengths(self) -> np.ndarray:
        """See [`FMIndex`]."""
        return np.concatenate(self.ask("lengths"))

    @property
    def num_bytes(self) -> int:
        """Size of all parts, in bytes."""
        return self._num_bytes

    def save(self, path: str | os.PathLike[str], *, link: bool = False) -> NoReturn:
        """Not supported: each process can save its part only.

        Raises:
            ValueError: always.
        """
        raise DGRValueError(
            "A distributed index cannot be saved, since its parts are in several processes. Save each part by itself."
        )

    def counts(self, ranges: np.ndarray) -> np.ndarray:
        """See [`FMIndex.counts`]."""
        return np.asarray(np.sum(self.ask("counts", np.asarray(ranges)), axis=0))

    def find_batch(self, patterns: Iterable[Sequence[int]] | np.ndarray) -> np.ndarray:
        """See [`FMIndex.find_batch`]."""
        listed = patterns if isinstance(patterns, np.ndarray) else list(patterns)
        return np.concatenate(self.ask("find", listed), axis=-2)

    def extend(self, ranges: np.ndarray, tokens: Any, enough: int | None = None) -> np.ndarray:
        """See [`FMIndex.extend`]."""
        if enough is not None and enough < 1:
            raise DGRValueError(
                f"enough is {enough}, but at least 1 token has to be looked for. Give a number from 1 on."
            )
        replies = self.ask("extend", np.asarray(ranges), np.asarray(tokens))
        extended = np.concatenate([part for part, _ in replies], axis=-2)
        if enough is not None and extended.ndim == 4:
            occurs = np.any([part for _, part in replies], axis=0)
            extended[occurs.cumsum(axis=1) - occurs >= enough] = 0
        return extended

    def continuations_batch(self, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See [`FMIndex.continuations_batch`]."""
        ranges = np.asarray(ranges)
        codes, counts = [], []
        for offsets, tokens, token_counts in self.ask("continuations", ranges):
            codes.append(np.repeat(np.arange(len(ranges)), np.diff(offsets)) * self.vocab_size + tokens)
            counts.append(token_counts)
        distinct, inverse = np.unique(np.concatenate(codes), return_inverse=True)
        sums = np.zeros(len(distinct), np.int64)
        np.add.at(sums, inverse, np.concatenate(counts))
        offsets = np.searchsorted(distinct, np.arange(len(ranges) + 1) * self.vocab_size)
        return offsets.astype(np.int64), distinct % self.vocab_size, sums

    def locate_batch(
        self, ranges: np.ndarray, lengths: Any, limit: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See [`FMIndex.locate_batch`]."""
        replies = self.ask("locate", np.asarray(ranges), lengths, limit)
        numbers, passages, offsets = (np.concatenate(column) for column in zip(*replies, strict=True))
        order = np.argsort(numbers, kind="stable")
        if limit is not None:
            ordered = numbers[order]
            order = order[np.arange(len(order)) - np.searchsorted(ordered, ordered) < limit]
        return numbers[order], passages[order], offsets[order]

    def extract_batch(self, passages: Any) -> tuple[np.ndarray, np.ndarray]:
        """See [`FMIndex.extract_batch`]."""
        passages = np.asarray(passages, dtype=np.int64)
        self.check_passages(passages)
        replies = self.ask("extract", passages)
        # The reply of a part has its passages in the order of the request: where each of them goes in the result.
        where = np.argsort(np.searchsorted(self.passages_before, passages, side="right"), kind="stable")
        lengths = np.zeros(len(passages), np.int64)
        lengths[where] = np.concatenate([np.diff(indptr) for indptr, _ in replies])
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        shifts = np.repeat(indptr[where] - np.cumsum(lengths[where]) + lengths[where], lengths[where])
        tokens = np.empty(indptr[-1], np.int64)
        tokens[shifts + np.arange(len(shifts))] = np.concatenate([part_tokens for _, part_tokens in replies])
        return indptr, tokens

    def check_passages(self, passages: np.ndarray) -> None:
        """Raise an `IndexError` if one of these positions is not that of a passage."""
        outside = passages[(passages < 0) | (passages >= self.num_passages)]
        if len(outside):
            raise DGRIndexError(
                f"There is no passage {outside[0]}: the index holds passages 0 to {self.num_passages - 1}."
            )
