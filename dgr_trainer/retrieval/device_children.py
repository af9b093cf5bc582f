"""The best children of beams, chosen on the model's device with an index that is there, too.

Nothing here waits for the device but `fetched`. A step of a search proposes the children of all its views, and fetches
them together: one copy to the host, after which the host knows what the beams of the next step are.

A row with few occurrences has all its continuations looked at. Of a row with many, the model's best tokens are: so the
children of a query are known to be its best if they all score above every token that was not looked at. If that is
not so, the search asks the host's index, which lists all continuations. Of equal totals, the child of the better beam
is the better, then the smaller token, as on the host.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from dgr_trainer.index import FMIndex
from dgr_trainer.index.edited_index import EditedIndex
from dgr_trainer.index.tensor_index import TensorIndex, fitting_layout
from dgr_trainer.retrieval import legal_tokens
from dgr_trainer.retrieval.legal_tokens import LegalTokens

# What was chosen for an index stays: its searches do not depend on what else fills the device.
_chosen: WeakKeyDictionary[FMIndex, dict[tuple[str, str], TensorIndex | None]] = WeakKeyDictionary()
_choosing = threading.Lock()
_NEVER = torch.iinfo(torch.int64).min
# A key holds a total, and in its lower half which child it is.
_HALF = 32


class Children(NamedTuple):
    """The best legal children of each query, query by query, best first.

    Attributes:
        rows (`np.ndarray` of int64, shape `(n,)`): The row that each extends.
        tokens (`np.ndarray` of int64, shape `(n,)`): The token that it is extended by.
        totals (`np.ndarray` of float32, shape `(n,)`): Log-likelihoods.
        queries (`np.ndarray` of int64, shape `(n,)`): The query of each.
        counts (`np.ndarray` of int64, shape `(n,)`): How often each occurs.
        ranges (`np.ndarray` or `torch.Tensor` of int64, shape `(n, segments, 2)`): Ranges, on the host or the device.
    """

    rows: np.ndarray
    tokens: np.ndarray
    totals: np.ndarray
    queries: np.ndarray
    counts: np.ndarray
    ranges: Any


class Proposal(NamedTuple):
    """Children that the device is still choosing.

    Attributes:
        packed (`torch.Tensor` of int64): What the host needs: keys and counts, and whether the children of each query
            are known to be its best.
        ranges (`torch.Tensor` of int64, shape `(queries * number, segments, 2)`): The ranges of all children.
        first_rows (`np.ndarray` of int64, shape `(queries,)`): The first row of each query.
        token_bits (`int`): Bits of a token in a key.
    """

    packed: Tensor
    ranges: Tensor
    first_rows: np.ndarray
    token_bits: int


def index_on_device(index: FMIndex, device: torch.device, choice: str, num_beams: int) -> TensorIndex | None:
    """The index on the device of the model, or `None` if the search is to ask the host's.

    Args:
        index ([`FMIndex`]): The index. One that several readers see differently is only on the host.
        device (`torch.device`): The device of the model.
        choice (`str`): `"auto"` takes the device if it is a GPU and the index fits (`tensor_index.MEMORY_SHARE`),
            `"model"` takes it in any case, `"host"` never.
        num_beams (`int`): Beams of the search: beam and token have to fit into half a key.
    """
    if choice == "host" or (choice == "auto" and device.type != "cuda") or isinstance(index, EditedIndex):
        return None
    if index.vocab_size.bit_length() + num_beams.bit_length() > _HALF:
        return None
    with _choosing:
        chosen = _chosen.setdefault(index, {})
        if (str(device), choice) not in chosen:
            layout = fitting_layout(index.segments, device)
            fits = layout is not None or choice == "model"
            made = TensorIndex(index.segments, device, layout or "wavelet") if fits else None
            chosen[str(device), choice] = made
        return chosen[str(device), choice]


class DeviceChildren:
    """Proposes the children of the beams of one view.

    Args:
        legal ([`LegalTokens`]): The tokens of the view; its `best` is the number of children of a query.
        index ([`TensorIndex`]): The same index on the device.
        num_queries (`int`): Queries of the batch.
        num_beams (`int`): Most rows of a query.
    """

    def __init__(self, legal: LegalTokens, index: TensorIndex, num_queries: int, num_beams: int) -> None:
        assert legal.best is not None
        self.index = index
        self._number, self._num_tried, self._end = legal.best, legal.num_tried, legal.end
        self._num_queries, self._num_beams = num_queries, num_beams
        self._token_bits = index.vocab_size.bit_length()
        self._never = self._sent(~legal.allowed)
        self._all_tried = self._num_tried == int(legal.allowed.sum())

    def _sent(self, values: np.ndarray) -> Tensor:
        return sent(values, self.index.device)

    def first(self, scores: Tensor, tokens: Tensor, ranges: Tensor) -> Proposal:
        """The best first tokens of each query, given the scores `(queries, vocabulary)` of some tokens `(n,)`."""
        best, positions = scores.topk(min(self._number, len(tokens)), dim=-1)
        queries = np.arange(len(scores))
        return self._propose(best, tokens[positions], best.new_full((len(best),), -torch.inf), ranges, queries)

    def next(
        self, scores: Tensor, parents: np.ndarray, ids: np.ndarray, queries: np.ndarray, ranges: Tensor
    ) -> Proposal:
        """The best children of each query.

        Args:
            scores (`torch.Tensor` of shape `(rows, vocabulary)`): Log-probabilities of the tokens.
            parents (`np.ndarray` of float32, shape `(rows,)`): Log-likelihoods of the rows.
            ids (`np.ndarray` of int64, shape `(rows, length)`): Tokens of the rows, at least one each.
            queries (`np.ndarray` of int64, shape `(rows,)`): The query of each row, ascending.
            ranges (`torch.Tensor` of int64, shape `(rows, segments, 2)`): Ranges of the rows, none empty.
        """
        vocab_size = self.index.vocab_size
        usable = scores[:, :vocab_size].masked_fill(self._never, -torch.inf)
        if len(self._end) > 1 and ids.shape[1] == len(self._end) - 1:
            # The closing marker is not legal where it would close an empty identifier.
            is_end = torch.arange(vocab_size, device=usable.device) == int(self._end[-1])
            empty = self._sent((ids == self._end[:-1]).all(axis=1))
            usable = usable.masked_fill(empty[:, None] & is_end, -torch.inf)
        totals_so_far = self._sent(parents)[:, None]

        tried_scores, tried = usable.topk(self._num_tried, dim=-1)
        occurs = self.index.counts(self.index.extend(ranges[:, None], tried)) > 0
        tried = torch.where(occurs, tried, vocab_size)

        listed = self._listed(ranges)
        is_listed = (ranges[..., 1] - ranges[..., 0]).sum(-1) <= legal_tokens.LISTED
        width = max(tried.shape[1], listed.shape[1])
        tokens = torch.where(is_listed[:, None], _padded(listed, width, vocab_size), _padded(tried, width, vocab_size))
        exists = tokens < vocab_size
        totals = totals_so_far + usable.gather(1, torch.where(exists, tokens, 0))
        totals = torch.where(exists, totals, -torch.inf)
        # The most that a child can have whose token was not looked at.
        bounds = torch.where(is_listed | self._all_tried, -torch.inf, (totals_so_far + tried_scores[:, -1:])[:, 0])
        return self._propose(totals, tokens, bounds, ranges, queries)

    def _listed(self, ranges: Tensor) -> Tensor:
        """The distinct tokens that follow ranges of few rows; `vocab_size` for none."""
        tokens = self.index.following(ranges, legal_tokens.LISTED).sort(dim=-1).values
        repeated = torch.zeros_like(tokens, dtype=torch.bool)
        repeated[:, 1:] = tokens[:, 1:] == tokens[:, :-1]
        tokens = torch.where(repeated, self.index.vocab_size, tokens)
        if not self.index.has_removed:
            return tokens
        occurs = self.index.counts(self.index.extend(ranges[:, None], tokens)) > 0
        return torch.where(occurs, tokens, self.index.vocab_size)

    def _propose(
        self, totals: Tensor, tokens: Tensor, bounds: Tensor, ranges: Tensor, queries: np.ndarray
    ) -> Proposal:
        """Choose the best of the children `(rows, n)`, of which those with a total of -inf are none."""
        first_rows = np.searchsorted(queries, np.arange(self._num_queries))
        beams = np.arange(len(queries)) - first_rows[queries]
        children = self._sent(beams << self._token_bits)[:, None] | tokens
        keys = torch.where(totals > -torch.inf, (_ordered(totals) << _HALF) | ((1 << _HALF) - 1 - children), _NEVER)

        # A place for each beam that a query may have; those that it lacks read a row with nothing.
        places = np.full((self._num_queries, self._num_beams), len(queries))
        places[queries, beams] = np.arange(len(queries))
        on_device = self._sent(places)
        keys = torch.cat([keys, keys.new_full((1, keys.shape[1]), _NEVER)])[on_device].flatten(1)
        keys = keys.topk(min(self._number, keys.shape[1]), dim=-1).values
        bound = torch.cat([bounds, bounds.new_full((1,), -torch.inf)])[on_device].amax(-1)
        exists = keys > _NEVER
        last = torch.where(exists[:, -1], _totals(keys[:, -1]), -torch.inf)
        # Where there are fewer children than asked for, none may be missing.
        full = self._number == keys.shape[1]
        certain = (bound == -torch.inf) | ((last > bound) & full)

        chosen = (1 << _HALF) - 1 - (keys & ((1 << _HALF) - 1))
        token = torch.where(exists, chosen & ((1 << self._token_bits) - 1), self.index.vocab_size)
        row = torch.where(exists, self._sent(first_rows)[:, None] + (chosen >> self._token_bits), 0)
        extended = self.index.extend(ranges[row], token)
        packed = torch.cat([keys.flatten(), self.index.counts(extended).flatten(), certain.long()])
        return Proposal(packed, extended.flatten(0, 1), first_rows, self._token_bits)


def fetched(proposals: Sequence[Proposal | None]) -> list[Children | None]:
    """Wait once for the children of all views; `None` for those that are not proposed or not known to be the best."""
    asked = [proposal for proposal in proposals if proposal is not None]
    if not asked:
        return [None] * len(proposals)
    packed = torch.cat([proposal.packed for proposal in asked]).cpu().numpy()
    parts = iter(np.split(packed, np.cumsum([len(proposal.packed) for proposal in asked])[:-1]))
    return [None if proposal is None else _unpacked(proposal, next(parts)) for proposal in proposals]


def _unpacked(proposal: Proposal, packed: np.ndarray) -> Children | None:
    num_queries = len(proposal.first_rows)
    values, certain = packed[:-num_queries], packed[-num_queries:]
    if not certain.all():
        return None
    keys, counts = values.reshape(2, num_queries, -1)
    queries, numbers = np.nonzero(keys > _NEVER)
    keys, counts = keys[queries, numbers], counts[queries, numbers]
    children = (1 << _HALF) - 1 - (keys & ((1 << _HALF) - 1))
    rows = proposal.first_rows[queries] + (children >> proposal.token_bits)
    bits = (keys >> _HALF).astype(np.int32)
    totals = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).view(np.float32)
    per_query = (len(packed) - num_queries) // 2 // num_queries
    ranges = taken(proposal.ranges, queries * per_query + numbers)
    return Children(rows, children & ((1 << proposal.token_bits) - 1), totals, queries, counts, ranges)


def sent(values: np.ndarray, device: torch.device) -> Tensor:
    """Send values to a device without waiting for what it is doing."""
    # The copy has left pageable memory when the call returns.
    return torch.from_numpy(values).to(device, non_blocking=True)


def taken(ranges: Any, rows: np.ndarray) -> Any:
    """Some rows of ranges, on the host or a device."""
    return ranges[sent(rows, ranges.device)] if isinstance(ranges, Tensor) else ranges[rows]


def _padded(tokens: Tensor, width: int, value: int) -> Tensor:
    return torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]), value=value)


def _ordered(totals: Tensor) -> Tensor:
    """Whole numbers (int64) in the order of float32 values."""
    bits = (totals + 0.0).view(torch.int32)  # Minus zero is zero.
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()


def _totals(keys: Tensor) -> Tensor:
    """The float32 values of keys."""
    bits = (keys >> _HALF).int()
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(torch.float32)
