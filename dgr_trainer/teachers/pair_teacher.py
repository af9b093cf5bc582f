"""What all teachers have in common that score a query with a passage: `rank`, and how their models are loaded."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRMemoryError, DGRValueError, input_errors
from dgr_trainer.processes import Processes, default_device, launched_processes
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.student.dtypes import DTYPES
from dgr_trainer.teachers.inputs import candidate_lists, check_depth
from dgr_trainer.teachers.pair_scoring import Pairs, score_pairs

_CPU_TOKENS = 2048  # More at once leave the caches: benchmarks/teacher.py --batch_tokens shows it.
_ACCELERATOR_TOKENS = 16384


class PairTeacher(ABC):
    """Ranks candidates by the score that something gives to each of them with the query.

    What a family adds is how a pair becomes an input, and an input a score.

    Args:
        name (`str`): the model's name, for errors and as the name of the rankings.
        corpus (`Corpus`): the passages.
        batch_tokens (`int`): the most tokens of a batch, padding included.
        progress (`bool`): whether to show a progress bar.
        processes ([`Processes`], *optional*): who takes part; left out, this process alone.
    """

    def __init__(self, name: str, corpus: Corpus, batch_tokens: int, progress: bool, processes: Processes | None):
        self.name = name
        self.corpus = corpus
        self.batch_tokens = batch_tokens
        self.progress = progress
        self._processes = processes

    def rank(
        self,
        queries: Dataset | Mapping[str, str],
        candidates: Rankings,
        k: int = 100,
        cache: str | os.PathLike[str] | None = None,
    ) -> Rankings:
        """Rank the candidates of every query. All candidates are scored: give `candidates.top(n)` to score fewer.

        Under `accelerate launch`, the processes share the work, and each returns all rankings.

        Args:
            queries (`datasets.Dataset` or `Mapping[str, str]`): columns `query_id` and `query`, or id -> query.
            candidates (`Rankings`): the passages to rank, such as those of `BM25Teacher`.
            k (`int`, *optional*, defaults to 100): length of a rank list at most.
            cache (`str` or `os.PathLike`, *optional*): a folder to which every batch of scores is added. What it holds
                of this model, by the content of query and passage, is not scored: the same call after an interruption
                goes on from there, and another one scores only what is new. One folder may serve many models.

        Returns:
            `Rankings`: raw scores, best first. A query without candidates gets an empty rank list.

        Raises:
            FloatingPointError: if a score is not a finite number; names the pair.
            TypeError: if `candidates` is not a `Rankings`.
            ValueError: if `k` is not positive, or no query has candidates.
        """
        check_depth(k)
        texts = queries_mapping(queries)
        wanted = candidate_lists(texts, candidates, self.corpus)
        pairs = Pairs.of(texts, wanted, self.corpus)
        scores = score_pairs(
            self,
            pairs,
            self.corpus,
            name=self.name,
            cache=None if cache is None else os.fspath(cache),
            processes=self._processes,
            progress=self.progress,
        )
        lists: dict[str, list[tuple[str, float]]] = {query_id: [] for query_id in texts}
        # Pairs lie in the order of their ids.
        start = 0
        for query_id in pairs.query_ids:
            passage_ids = sorted(wanted[query_id])
            lists[query_id] = list(zip(passage_ids, scores[start : start + len(passage_ids)].tolist(), strict=True))
            start += len(passage_ids)
        return Rankings(lists, name=self.name).top(k)

    @abstractmethod
    def content(self, query: str, passage: Passage) -> tuple[bytes, bytes]:
        """All that is read of a query and of a passage."""

    @abstractmethod
    def encode(self, pairs: Sequence[tuple[str, Passage]]) -> Sequence[Any]:
        """Inputs of the model, each by itself."""

    def length(self, encoded: Any) -> int:
        """Number of tokens of an input."""
        return len(encoded)

    @abstractmethod
    def score(self, batch: Sequence[Any]) -> np.ndarray:
        """Scores of inputs: shape `(n,)`, float64."""

    @abstractmethod
    def settings(self) -> Mapping[str, object]:
        """All that scores depend on beside query and passage, in JSON types."""


class ModelTeacher(PairTeacher):
    """A teacher that is a model of transformers.

    Args:
        name_or_path (`str` or `os.PathLike`): a folder or a name on the hub.
        corpus (`Corpus`): the passages.
        auto_class (`type`): class of transformers that loads the model.
        max_length (`int`, *optional*): tokens of an input; by default what the model takes.
        dtype (`str`): one of `"float32"`, `"bfloat16"`, `"float16"`.
        batch_tokens (`int`, *optional*): the most tokens of a batch, padding included; by default as suits the device.
        compile (`bool`): whether to compile the model.
        device (`str`, *optional*): where to compute.
        model_kwargs (`Mapping[str, Any]`, *optional*): further arguments of `from_pretrained`.
        progress (`bool`): whether to show a progress bar.

    Raises:
        ValueError: if a setting is out of its range, or the model takes fewer than `max_length` tokens.
    """

    def __init__(
        self,
        name_or_path: str | os.PathLike[str],
        corpus: Corpus,
        auto_class: Any,
        *,
        max_length: int | None,
        dtype: str,
        batch_tokens: int | None,
        compile: bool,
        device: str | None,
        model_kwargs: Mapping[str, Any] | None,
        progress: bool,
    ):
        check_settings(dtype, batch_tokens, max_length)
        processes = launched_processes(device)
        super().__init__(os.fspath(name_or_path), corpus, batch_tokens or _CPU_TOKENS, progress, processes)
        import torch
        from transformers import AutoTokenizer

        from dgr_trainer.student.weights import align_weights

        arguments = dict(model_kwargs or {})
        shared = {name: arguments[name] for name in ("revision", "trust_remote_code", "token") if name in arguments}
        with input_errors(f"The model {self.name} cannot be loaded", Exception):
            self.tokenizer = AutoTokenizer.from_pretrained(self.name, **shared)
            model = auto_class.from_pretrained(self.name, **{"dtype": getattr(torch, dtype), **arguments}).eval()
        if getattr(model, "hf_device_map", None) is None:
            model.to(torch.device(device) if device is not None else default_device(processes))
        self.model = align_weights(model)
        if batch_tokens is None and self.model.device.type != "cpu":
            self.batch_tokens = _ACCELERATOR_TOKENS
        self._dtype = dtype
        self.max_length = self._longest(max_length)
        # Compiled code, and accelerators, like few different shapes.
        self._pad_to = 8 if compile or self.model.device.type != "cpu" else 1
        self._forward = torch.compile(model, dynamic=True) if compile else model

    def _longest(self, max_length: int | None) -> int:
        config = self.model.config
        positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        # RoBERTa counts its positions from behind the padding's.
        if positions is not None and config.model_type in ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl"):
            positions -= (config.pad_token_id or 0) + 1
        limits = [one for one in (positions, self.tokenizer.model_max_length) if one is not None and one < 1_000_000]
        if max_length is None:
            return min(limits, default=512)
        if positions is not None and max_length > positions:
            raise DGRValueError(f"max_length is {max_length}, but {self.name} has positions for {positions} tokens.")
        return max_length

    def length(self, encoded: Any) -> int:
        """Number of tokens of an input, padded as it is."""
        return self._padded_length(len(encoded))

    def settings(self) -> Mapping[str, object]:
        """Weights and tokenizer by a hash of all of them, precision and length."""
        from dgr_trainer.student.weights import weights_digest

        return {
            "family": type(self).__name__,
            "weights": weights_digest(self.model),
            "tokenizer": _tokenizer_digest(self.tokenizer),
            "dtype": self._dtype,
            "max_length": self.max_length,
        }

    def _padded_length(self, tokens: int) -> int:
        return -(-tokens // self._pad_to) * self._pad_to

    def _padded(self, rows: Sequence[np.ndarray], value: int, left: bool = False) -> Any:
        """Rows of token ids as a tensor `(n, longest)`, int64, on the model's device."""
        import torch

        longest = self._padded_length(max(map(len, rows)))
        padded = np.full((len(rows), longest), value, dtype=np.int64)
        for row, ids in zip(padded, rows, strict=True):
            if left:
                row[longest - len(ids) :] = ids
            else:
                row[: len(ids)] = ids
        return torch.from_numpy(padded).to(self.model.device)

    def _run(self, **inputs: Any) -> Any:
        """A forward pass without gradients; says what to do if memory does not suffice."""
        import torch

        try:
            with torch.inference_mode():
                return self._forward(**inputs)
        except torch.OutOfMemoryError as error:
            shape = tuple(next(iter(inputs.values())).shape)
            raise DGRMemoryError(
                f"{self.name} has no memory for a batch of {shape[0]} inputs of {shape[1]} tokens on "
                f"{self.model.device}. Give a smaller batch_tokens than {self.batch_tokens}; scores that are in a "
                "cache are not lost."
            ) from error


def check_settings(dtype: str, batch_tokens: int | None, max_length: int | None) -> None:
    """Check what can be checked before a model is loaded. Raises a `ValueError` if a setting is out of its range."""
    if dtype not in DTYPES:
        raise DGRValueError(f"dtype is {dtype!r}, but the model can be loaded as one of {DTYPES}.")
    if batch_tokens is not None and batch_tokens < 1:
        raise DGRValueError(f"batch_tokens is {batch_tokens}, but a batch has at least 1 token.")
    if max_length is not None and max_length < 1:
        raise DGRValueError(f"max_length is {max_length}, but an input has at least 1 token.")


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        text = json.dumps(sorted(tokenizer.get_vocab().items()))
    else:
        # How a text was cut or padded last is kept in there, too.
        parts = json.loads(backend.to_str())
        text = json.dumps({name: part for name, part in parts.items() if name not in ("truncation", "padding")})
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
