"""A cross-encoder as teacher: reads query and passage together and gives one score a pair."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.corpus import Corpus
from dgr_trainer.queries import queries_mapping
from dgr_trainer.rankings import Rankings
from dgr_trainer.teachers.inputs import candidate_lists, check_depth
from dgr_trainer.teachers.score_log import ScoreLog
from dgr_trainer.teachers.templates import PairTemplate

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

DTYPES = ("float32", "bfloat16", "float16")
_BATCHES_AT_ONCE = 32  # batches that are sorted by length together


class CrossEncoderTeacher:
    """Ranks candidates by the raw scores of a cross-encoder.

    A model with one label scores by its logit, with no sigmoid over it; a model with two labels by the log-odds of
    the second, `logits[1] - logits[0]`.

    Args:
        model_name_or_path (`str` or `os.PathLike`): a sequence-classification model, a folder or a name on the hub.
        corpus (`Corpus`): the passages.
        query_template (`str`, *optional*, defaults to `"{query}"`): the first segment of the input.
        passage_template (`str`, *optional*, defaults to `"{passage}"`): the second segment. `{title}` and `{text}`
            are the passage's, `{passage}` is `title: text`, or the one that there is.
        template (`str`, *optional*): the only segment, for models that want one, such as
            `"Query: {query}\\nSentence: {text}"`.
        max_length (`int`, *optional*, defaults to what the model takes): tokens of an input; longer ones are cut.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"bfloat16"` or `"float16"`.
        batch_size (`int`, *optional*, defaults to 64): pairs a forward pass. Pairs of like length go together.
        device (`str`, *optional*): such as `"cuda:1"`; by default the accelerator if there is one.
        model_kwargs (`Mapping[str, Any]`, *optional*): further arguments of `CrossEncoder`, such as `revision` or
            `trust_remote_code`.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Raises:
        ImportError: if sentence-transformers is not installed.
        ValueError: if the model has more than two labels, takes fewer than `max_length` tokens, or a setting is out of
            its range.

    Example:

    ```python
    candidates = BM25Teacher(corpus).rank(queries, k=100)
    rankings = CrossEncoderTeacher("cross-encoder/ms-marco-MiniLM-L6-v2", corpus).rank(queries, candidates)
    ```
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        corpus: Corpus,
        query_template: str = "{query}",
        passage_template: str = "{passage}",
        template: str | None = None,
        max_length: int | None = None,
        dtype: str = "float32",
        batch_size: int = 64,
        device: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        progress: bool = True,
    ):
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}, but the model can be loaded as one of {DTYPES}.")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but a batch has at least 1 pair.")
        self._template = PairTemplate(query_template, passage_template, template)
        self.corpus = corpus
        self.batch_size = batch_size
        self.progress = progress
        self._name = os.fspath(model_name_or_path)
        self._dtype = dtype
        self.model = _load(self._name, dtype, max_length, device, model_kwargs or {})
        self.num_labels = self.model.num_labels
        if self.num_labels not in (1, 2):
            raise ValueError(
                f"{self._name} has {self.num_labels} labels, of which no one is the score of a pair. "
                "Give a model with one label, or with two (irrelevant, relevant)."
            )
        positions = getattr(self.model.config, "max_position_embeddings", None)
        if max_length is not None and positions is not None and max_length > positions:
            raise ValueError(f"max_length is {max_length}, but {self._name} has positions for {positions} tokens.")

    def rank(
        self,
        queries: Dataset | Mapping[str, str],
        candidates: Rankings,
        k: int = 100,
        log: str | os.PathLike[str] | None = None,
    ) -> Rankings:
        """Rank the candidates of every query. All candidates are scored: give `candidates.top(n)` to score fewer.

        Args:
            queries (`datasets.Dataset` or `Mapping[str, str]`): columns `query_id` and `query`, or id -> query.
            candidates (`Rankings`): the passages to rank, such as those of `BM25Teacher`.
            k (`int`, *optional*, defaults to 100): length of a rank list at most.
            log (`str` or `os.PathLike`, *optional*): a file to which scores are added as queries are finished. The
                same call after an interruption goes on from there.

        Returns:
            `Rankings`: raw scores, best first. A query without candidates gets an empty rank list.

        Raises:
            FloatingPointError: if the model gives a score that is not a finite number; names the pair.
            TypeError: if `candidates` is not a `Rankings`.
            ValueError: if `k` is not positive, no query has candidates, or `log` holds scores made otherwise.
        """
        check_depth(k)
        texts = queries_mapping(queries)
        wanted = candidate_lists(texts, candidates, self.corpus)
        lists: dict[str, dict[str, float]] = {}
        with ScoreLog(log, self._settings()) if log is not None else nullcontext() as finished:
            for query_id, passage_ids in wanted.items():
                known = finished.scores(query_id, texts[query_id]) if finished is not None else {}
                lists[query_id] = {id: known[id] for id in passage_ids if id in known}
            open_pairs = {
                query_id: [id for id in passage_ids if id not in lists[query_id]]
                for query_id, passage_ids in wanted.items()
            }
            total = sum(map(len, open_pairs.values()))
            with tqdm(total=total, desc="Cross-encoder", unit="pair", disable=not self.progress) as bar:
                for chunk in _chunks(open_pairs, self.batch_size * _BATCHES_AT_ONCE):
                    pairs = [(query_id, passage_id) for query_id in chunk for passage_id in open_pairs[query_id]]
                    for (query_id, passage_id), score in zip(pairs, self._scores(texts, pairs, bar), strict=True):
                        lists[query_id][passage_id] = score
                    if finished is not None:
                        for query_id in chunk:
                            finished.add(query_id, texts[query_id], lists[query_id])
        return Rankings(lists, name=self._name).top(k)

    def _scores(self, texts: Mapping[str, str], pairs: list[tuple[str, str]], bar: Any) -> list[float]:
        inputs: list[Any] = [
            self._template(texts[query_id], self.corpus.get(passage_id)) for query_id, passage_id in pairs
        ]
        # Longest first: a batch has little padding, and too little memory shows at once.
        order = sorted(range(len(inputs)), key=lambda i: -sum(map(len, inputs[i])))
        scores = np.empty(len(inputs), dtype=np.float64)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            logits = self._logits([inputs[i] for i in batch])
            scores[batch] = logits[:, 1] - logits[:, 0] if self.num_labels == 2 else logits.reshape(-1)
            bar.update(len(batch))
        for (query_id, passage_id), score in zip(pairs, scores, strict=True):
            if not np.isfinite(score):
                raise FloatingPointError(
                    f"{self._name} gives the score {score} to query {query_id!r} and passage {passage_id!r}. "
                    f"Its weights may be damaged, or {self._dtype} too narrow for it: try dtype='float32'."
                )
        return scores.tolist()

    def _logits(self, batch: list[Any]) -> np.ndarray:
        # (pairs,) or (pairs, labels) float32
        if self._template.single is None:
            return self.model.predict(batch, batch_size=len(batch), show_progress_bar=False)
        # CrossEncoder.predict takes pairs alone: a single segment goes the way that it takes inside.
        import torch

        self.model.eval()
        with torch.inference_mode():
            features = self.model.preprocess([text for (text,) in batch])
            features = {
                name: value.to(self.model.device) if isinstance(value, torch.Tensor) else value
                for name, value in features.items()
            }
            return self.model(features)["scores"].float().cpu().numpy()

    def _settings(self) -> dict[str, object]:
        # What the scores depend on; a few weights of every layer tell a model that was trained further.
        digest = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            digest.update(name.encode())
            digest.update(parameter.detach().flatten()[:256].float().cpu().numpy().tobytes())
        return {
            "corpus": self.corpus.fingerprint,
            "dtype": self._dtype,
            "max_length": self.model.max_seq_length,
            "query_template": self._template.query,
            "passage_template": self._template.passage,
            "template": self._template.single,
            "weights": digest.hexdigest(),
        }


def _chunks(open_pairs: Mapping[str, list[str]], pairs: int) -> Iterator[list[str]]:
    # Queries in groups of about so many pairs, queries with none left out.
    chunk: list[str] = []
    size = 0
    for query_id, passage_ids in open_pairs.items():
        if not passage_ids:
            continue
        chunk.append(query_id)
        size += len(passage_ids)
        if size >= pairs:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _load(
    name: str, dtype: str, max_length: int | None, device: str | None, model_kwargs: Mapping[str, Any]
) -> CrossEncoder:
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise ImportError(
            'CrossEncoderTeacher needs sentence-transformers: pip install "dgr-trainer[cross-encoder]".'
        ) from error
    import torch

    arguments = dict(model_kwargs)
    arguments["model_kwargs"] = {"dtype": getattr(torch, dtype), **arguments.get("model_kwargs", {})}
    # By default a model with one label would be given a sigmoid.
    return CrossEncoder(name, max_length=max_length, device=device, activation_fn=torch.nn.Identity(), **arguments)
