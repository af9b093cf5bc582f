"""Teachers that score pairs of query and passage (rerankers), and those among them that are transformers models."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRMemoryError, DGRValueError, input_errors
from dgr_trainer.processes import Processes, ResultsOn, check_results_on, default_device, launched_processes
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.student.dtypes import DTYPES
from dgr_trainer.teachers.batches import BATCH_TOKENS_HELP, CPU_TOKENS, check_batch_tokens, default_batch_tokens
from dgr_trainer.teachers.digests import tokenizer_digest
from dgr_trainer.teachers.inputs import check_depth, rank_without_identical_ids, required_candidates
from dgr_trainer.teachers.lengths import checked_max_length, position_limit
from dgr_trainer.teachers.pair_scoring import PairModel, Pairs, score_pairs


class PairTeacher(PairModel, ABC):
    """Ranks candidates by the score of each with the query. Subclasses make inputs of pairs and scores of inputs.

    Attributes:
        name (`str`): Name of the model, for errors and as the name of the rankings.
        corpus (`Corpus`): The passages.
        batch_tokens (`int`, *optional*): Maximum number of tokens of a batch, padding included.
        cache (`str` or `os.PathLike`, *optional*): Folder of cached scores.
        progress (`bool`): Whether to show a progress bar.
        processes ([`Processes`], *optional*): The processes that share the work; `None` for one process alone.
        results_on (`str`): Which of these processes return the rankings: `"all"` or `"main"`.
    """

    needs_candidates: ClassVar[bool] = True
    shares_work: ClassVar[bool] = True

    name: str
    corpus: Corpus
    batch_tokens: int | None = None
    cache: str | os.PathLike[str] | None = None
    progress: bool = True
    processes: Processes | None = None
    results_on: ResultsOn = "all"

    def rank(
        self,
        queries: Dataset | Mapping[str, str],
        candidates: Rankings | None = None,
        *,
        k: int = 100,
        ignore_identical_ids: bool = False,
    ) -> Rankings:
        """Rank the candidates of every query. All candidates are scored: give `candidates.top(n)` to score fewer.

        Under `accelerate launch`, the processes share the work, and each returns all rankings, or only the main one
        with `results_on="main"`: the others then return none and need no memory for them. With a `cache`, scores
        that it contains are not computed: the same call after an interruption resumes, and another call scores only
        what is new.

        Args:
            queries (`datasets.Dataset` or `Mapping[str, str]`): Columns `query_id` and `query`, or id -> query.
            candidates (`Rankings`): The passages to rank, such as those of `BM25Teacher`. Required: a reranker cannot
                search the corpus.
            k (`int`, *optional*, defaults to 100): Maximum length of a rank list.
            ignore_identical_ids (`bool`, *optional*, defaults to `False`): Whether to leave out the passage that has
                the id of the query.

        Returns:
            `Rankings`: Raw scores, best first. A query without candidates gets an empty rank list.

        Raises:
            FloatingPointError: if a score is not a finite number; names the pair.
            TypeError: if `candidates` is not a `Rankings`.
            ValueError: if `k` is not positive, or there are no candidates.
        """
        if ignore_identical_ids:
            return rank_without_identical_ids(self, queries, candidates, k)
        check_depth(k)
        texts = queries_mapping(queries)
        passage_ids = required_candidates(type(self).__name__, texts, candidates, self.corpus)
        pairs = Pairs.from_candidates(texts, passage_ids, self.corpus)
        scores = score_pairs(
            self,
            pairs,
            self.corpus,
            name=self.name,
            batch_tokens=self.batch_tokens or CPU_TOKENS,
            cache=None if self.cache is None else os.fspath(self.cache),
            processes=self.processes,
            progress=self.progress,
            results_on=self.results_on,
        )
        if scores is None:
            return Rankings({}, name=self.name)
        lists: dict[str, list[tuple[str, float]]] = {query_id: [] for query_id in texts}
        start = 0
        for query_id in pairs.query_ids:
            sorted_ids = sorted(passage_ids[query_id])  # the order of the pairs
            lists[query_id] = list(zip(sorted_ids, scores[start : start + len(sorted_ids)].tolist(), strict=True))
            start += len(sorted_ids)
        return Rankings(lists, name=self.name).top(k)

    def length(self, encoded: Any) -> int:
        """Return the number of tokens of an input."""
        return len(encoded)


@dataclass(eq=False, repr=False)
class ModelTeacher(PairTeacher):
    """A reranker that is a model of transformers.

    Subclasses are dataclasses: their fields are the arguments of the constructor, and those with a help text are
    options of `dgr rank`.

    Args:
        model_name_or_path (`str` or `os.PathLike`): A folder or a name on the hub.
        corpus (`Corpus`): The passages.
        max_length (`int`, *optional*, defaults to the maximum of the model): Number of tokens at which inputs are cut.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"bfloat16"` or `"float16"`.
        batch_tokens (`int`, *optional*, defaults to 2048 on a CPU, else 16384): Maximum number of tokens of a batch,
            padding included. Inputs of similar length share a batch.
        compile (`bool`, *optional*, defaults to `False`): Whether to compile the model (`torch.compile`).
        device (`str`, *optional*): Such as `"cuda:1"`; by default the accelerator if there is one, and that of the
            process under `accelerate launch`.
        model_kwargs (`Mapping[str, Any]`, *optional*): Additional arguments of `from_pretrained`.
        cache (`str` or `os.PathLike`, *optional*): Folder in which scores are cached.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.
        results_on (`str`, *optional*, defaults to `"all"`): Which of several processes return the rankings: `"all"`,
            or only the `"main"` one.

    Raises:
        ValueError: if a setting is out of its range, the model takes fewer than `max_length` tokens, or its
            weights are not all in its files.
    """

    auto_class: ClassVar[str]  # name of the class of transformers that loads the model

    model_name_or_path: str | os.PathLike[str] = field(
        metadata={"option": "model", "metavar": "MODEL", "help": "The model: a folder or a name on the hub."}
    )
    corpus: Corpus
    _: KW_ONLY
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens at which inputs are cut; by default the maximum of the model."}
    )
    dtype: str = field(default="float32", metadata={"help": "Precision of the model.", "choices": DTYPES})
    batch_tokens: int | None = field(default=None, metadata={"help": BATCH_TOKENS_HELP})
    compile: bool = field(default=False, metadata={"help": "Compile the model."})
    device: str | None = field(default=None, metadata={"help": "Such as cuda:1; by default a GPU if there is one."})
    model_kwargs: Mapping[str, Any] | None = None
    cache: str | os.PathLike[str] | None = field(
        default=None,
        metadata={
            "metavar": "DIR",
            "help": "Folder that keeps finished scores; the same call resumes from it after an interruption.",
        },
    )
    progress: bool = True
    results_on: ResultsOn = "all"

    def __post_init__(self) -> None:
        check_results_on(self.results_on)
        check_model_settings(self.dtype, self.batch_tokens, self.max_length)
        self.name = os.fspath(self.model_name_or_path)
        self.processes = launched_processes(self.device)
        import torch
        import transformers

        from dgr_trainer.student.loading import load_model
        from dgr_trainer.student.weights import align_weights

        arguments = dict(self.model_kwargs or {})
        shared = {name: arguments[name] for name in ("revision", "trust_remote_code", "token") if name in arguments}
        with input_errors(f"The tokenizer of {self.name} cannot be loaded", Exception):
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(self.name, **shared)
        auto_class = getattr(transformers, self.auto_class)
        arguments = {"dtype": getattr(torch, self.dtype), **arguments}
        with input_errors(
            f"{self.name} is not a model that {self.auto_class} loads, or its files are damaged", Exception
        ):
            model = load_model(auto_class, self.name, self._example_logits, **arguments).eval()
        if getattr(model, "hf_device_map", None) is None:
            model.to(torch.device(self.device) if self.device is not None else default_device(self.processes))
        self.model: Any = align_weights(model)
        on_cpu = self.model.device.type == "cpu"
        if self.batch_tokens is None:
            self.batch_tokens = default_batch_tokens(self.model.device.type)
        # Models that number their positions, or look for the last token, by their padding know it from their config.
        padding = self.model.config.get_text_config().pad_token_id
        known = padding is not None and padding >= 0
        self._padding_id: int | None = padding if known else self.tokenizer.pad_token_id
        positions = position_limit(self.model)
        checked = checked_max_length(self.max_length, positions, self.tokenizer, self._special_tokens(), self.name)
        self.max_length = 512 if checked is None else checked
        # Compiled code and accelerators work best with few different shapes.
        self._pad_to = 8 if self.compile or not on_cpu else 1
        self._forward = torch.compile(model, dynamic=True) if self.compile else model

    def _special_tokens(self) -> int:
        """Number of tokens that the tokenizer adds to an input."""
        return int(self.tokenizer.num_special_tokens_to_add(pair=False))

    @abstractmethod
    def _example_logits(self, model: Any) -> Any:
        """Return the logits of an example, from which scores are computed; the tokenizer is loaded already."""

    def length(self, encoded: Any) -> int:
        """Return the number of tokens of an input, its padding to a multiple included."""
        return self._padded_length(len(encoded))

    def settings(self) -> Mapping[str, object]:
        """Return hashes of weights and tokenizer, the precision and the maximum length."""
        from dgr_trainer.student.weights import weights_digest

        return {
            "family": type(self).__name__,
            "weights": weights_digest(self.model),
            "tokenizer": tokenizer_digest(self.tokenizer),
            "dtype": self.dtype,
            "max_length": self.max_length,
        }

    def _padded_length(self, tokens: int) -> int:
        return -(-tokens // self._pad_to) * self._pad_to

    def _padded(self, rows: Sequence[np.ndarray], value: int, left: bool = False) -> Any:
        """Return rows of token ids as a tensor `(n, longest)`, int64, on the model's device."""
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
        """Run the model without gradients; the error says what to do if memory does not suffice."""
        import torch

        try:
            with torch.inference_mode():
                return self._forward(**inputs)
        except torch.OutOfMemoryError as error:
            shape = tuple(next(iter(inputs.values())).shape)
            raise DGRMemoryError(
                f"{self.name} has no memory for a batch of {shape[0]} inputs of {shape[1]} tokens on "
                f"{self.model.device}. Give a smaller batch_tokens than {self.batch_tokens}; cached scores are not "
                "lost."
            ) from error


def check_model_settings(dtype: str, batch_tokens: int | None, max_length: int | None) -> None:
    """Check settings before a model is loaded. Raises a `ValueError` if one is out of its range."""
    if dtype not in DTYPES:
        raise DGRValueError(f"dtype is {dtype!r}, but the model can be loaded as one of {DTYPES}.")
    check_batch_tokens(batch_tokens)
    if max_length is not None and max_length < 1:
        raise DGRValueError(f"max_length is {max_length}, but an input has at least 1 token.")
