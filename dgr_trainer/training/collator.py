"""The collator: from queries and a teacher's rank lists to a batch of packed identifiers."""

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase

from dgr_trainer.candidates import Candidates
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.queries import Qrels
from dgr_trainer.data.texts import as_query
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.identifier_weights import ScoringSettings, repetition_factors
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.runs.rank_list import RankList
from dgr_trainer.runs.rankings import as_rankings
from dgr_trainer.semantic_ids.ids import SemanticIds
from dgr_trainer.student.packing import pack_identifiers
from dgr_trainer.training.identifier_sources import CandidateIdentifiers, StringIdentifiers
from dgr_trainer.training.prompts import padded_prompts
from dgr_trainer.training.query_tables import QueryTable, identifier_arrays, list_arrays, passage_cells
from dgr_trainer.training.sampling import Coverage, ListSampler, TrainingList

logger = logging.getLogger(__name__)

Target = tuple[str, Sequence[int]]
GenerationTargets = Mapping[str, Sequence[Target]] | Callable[[str, str, np.random.Generator], Sequence[Target]]


class DistillationCollator:
    """Turns queries into batches on which a generative retriever learns the ranking of a teacher.

    There are two ways to use it. With one identifier string per passage, `identifiers` is a mapping from passage ids
    to strings, and a passage's score is the log-likelihood of its string. With [`Candidates`], a passage is scored by
    the identifiers that the student matched, weighted against their counts in the corpus, as at retrieval.

    The list of a query starts with its relevant passage (if there are qrels); other passages follow in the teacher's
    order. The sample depends only on the seed, the epoch and the query, so workers, processes and resumed runs agree.
    Passages to which the teacher gives equal scores are no pair for losses that are taught the order.
    The generation loss trains the identifiers of the relevant passage; without qrels, of the teacher's best passage.

    Features (rows of the training dataset) need the columns `query_id` and `query`; with `prompt_ids`, which the
    trainer adds (`with_prompts`), the collator tokenises nothing. Features with `input_ids` and
    `labels` and no `query_id` are ordinary generation pairs and are padded as in `DataCollatorForSeq2Seq`.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`] or [`Identifiers`]):
            The student's tokenizer, or an [`Identifiers`] with views and prompts.
        identifiers (`Mapping[str, str]` or [`Candidates`]):
            Identifier string of each passage id ([`SemanticIds`] are such a mapping), or the student's candidates.
        rankings ([`Rankings`], *optional*): The teacher's rank lists. Without them only generation is trained.
        qrels (`Mapping[str, Mapping[str, int]]`, *optional*): Relevant passages (grade above 0) of each query.
        list_length (`int`, defaults to 100):
            Most passages in a list, the relevant one included. Identifiers that passages share are scored once, so a
            list of all candidates takes little more time than a short one. The publication has 6.
        sampling (`str`, defaults to `"top"`):
            Which passages, where the teacher ranked more: `"top"` takes the teacher's first passages; `"dgr_paper"`
            the student's best other candidate and a uniform sample of the rest (and half of the time it samples the
            relevant passage), `"spread"` samples from all parts of the rank list, `"gap"` takes the passages whose
            scores are furthest apart, `"hard"` the student's first passages, `"near"` those around the relevant
            passage in the teacher's rank list.
        false_negative_margin (`float`, *optional*):
            Leave out unjudged passages that the teacher scores above the relevant one by more than this, since they
            may be relevant too. By default they are kept.
        relevant_first (`bool`, defaults to `True`):
            Whether the relevant passage comes first in the list. If not, the list has the teacher's order.
        generation_targets (mapping or callable, *optional*):
            Identifiers to generate for a relevant passage, a sequence of (view, token ids): by passage id, or
            returned by a function of the query, the passage id and a `numpy.random.Generator`. By default the
            identifiers of the passage that have the highest credit, one of each view.
        scoring ([`ScoringSettings`], *optional*):
            How identifiers are weighted. By default log-likelihoods for strings and log-odds for candidates.
        tie_margin (`float`, defaults to 0.0):
            Passages whose teacher scores differ by at most this, from the best one of their place, are not told apart.
            For losses that are taught the order (`distilled_ranknet`, `margin_rank`); the trainer refuses it with
            those that are taught the teacher's scores.
        max_row_tokens (`int`, defaults to 256): Longest decoder row into which identifiers are packed.
        ignore_identical_ids (`bool`, defaults to `False`):
            Whether to leave the passage that has the id of the query out of its list, even if it is relevant.
        seed (`int`, defaults to 42): Seed of the sampling.

    Raises:
        TypeError: if `identifiers` is neither a mapping of strings nor [`Candidates`].
        ValueError: on invalid settings, candidates of another tokenizer, semantic ids whose tokens the tokenizer
            lacks, a tokenizer without a padding token, or rankings of which no query or no passage is known.

    Example:

    ```python
    collator = DistillationCollator(tokenizer, {"p1": "Mount Everest", "p2": "K2"}, rankings)
    batch = collator([{"query_id": "q1", "query": "the highest mountain"}])
    batch["passage_identifiers"]  # (queries, passages, identifiers): numbers of the identifiers scored
    # tensor([[[0],
    #          [1]]])
    ```

    Every tensor of a batch has one entry per query. V views in use, L prompt tokens, C tokens to score, K identifiers,
    M passages of I identifiers each, of up to D tokens; R decoder rows of N prefixes and S prefixes to score, per
    query on average:

    | name                              | shape     | content                                             |
    |-----------------------------------|-----------|-----------------------------------------------------|
    | `input_ids`, `attention_mask`     | (B, V, L) | the query's prompt of each view                     |
    | `prefix_tokens`, `prefix_depths`, | (B, R, N) | packed prefixes of identifiers                      |
    | `prefix_ends`                     |           | (see [`PackedIdentifiers`])                         |
    | `row_prompts`                     | (B, R)    | the prompt of each row                              |
    | `scored_prefixes`                 | (B, S)    | where tokens are predicted                          |
    | `labels`, `segments`,             | (B, C)    | the tokens of the query's identifiers, the number   |
    | `label_prefixes`                  |           | of the identifier, and what the token follows       |
    | `identifier_counts`               | (B, K)    | occurrences in the corpus, 0 for padding            |
    | `identifier_is_pseudo_query`      | (B, K)    | where the bonus of pseudo-queries applies           |
    | `identifier_origins`              | (B, K)    | where they come from, positions in `ORIGINS`        |
    | `generation_weights`              | (B, K)    | share in the generation loss; the sum of a row is 1 |
    | `passage_identifiers`             | (B, M, I) | the identifiers of each passage, -1 for padding     |
    | `passage_factors`                 | (B, M, I) | their repetition discount                           |
    | `list_mask`, `teacher_scores`     | (B, M)    | which passages there are, and the teacher's scores  |
    | `taught_ranks`                    | (B, M)    | places in the order to be taught, equal for ties    |
    | `judged`                          | (B,)      | whether the first passage is the relevant one       |
    | `passage_cells`                   | (B, M, D) | if a passage has one identifier: where its tokens   |
    |                                   |           | are in `labels`, -1 for padding                     |
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | Identifiers,
        identifiers: Mapping[str, str] | Candidates,
        rankings: Mapping[str, RankList] | None,
        qrels: Qrels | None = None,
        *,
        list_length: int = 100,
        sampling: str = "top",
        false_negative_margin: float | None = None,
        tie_margin: float = 0.0,
        relevant_first: bool = True,
        generation_targets: GenerationTargets | None = None,
        scoring: ScoringSettings | None = None,
        max_row_tokens: int = 256,
        seed: int = 42,
        ignore_identical_ids: bool = False,
    ) -> None:
        if isinstance(tokenizer, Identifiers):
            student = tokenizer
        else:  # Strings need no markers.
            settings = None if isinstance(identifiers, Candidates) else IdentifierSettings(views=("docid",))
            student = Identifiers(tokenizer, settings)
        if student.tokenizer.pad_token_id is None:
            raise DGRValueError(
                f"{type(student.tokenizer).__name__} has no pad_token, so queries of different length cannot be "
                "batched. Set tokenizer.pad_token, for example to tokenizer.eos_token."
            )
        self.source: StringIdentifiers | CandidateIdentifiers
        if isinstance(identifiers, Candidates):
            self.source = CandidateIdentifiers(identifiers, student)
            self.scoring = scoring or ScoringSettings()
            self.corpus_tokens = identifiers.corpus_tokens
            student_order = self.source.order
        elif isinstance(identifiers, Mapping):
            if isinstance(identifiers, SemanticIds):
                identifiers.check_tokenizer(student.tokenizer)
            self.source = StringIdentifiers(cast(Mapping[str, str], identifiers), student)
            self.scoring = scoring or ScoringSettings(kind="log_likelihood")
            if self.scoring.kind != "log_likelihood":
                raise DGRValueError(
                    "Log-odds need the identifiers' counts in the corpus, which strings do not have. Give the "
                    "collator Candidates, or ScoringSettings(kind='log_likelihood')."
                )
            self.corpus_tokens = 1
            student_order = None
        else:
            raise DGRTypeError(
                f"identifiers is a {type(identifiers).__name__}; give a mapping from passage ids to identifier "
                "strings, or the Candidates of a retriever."
            )
        self.identifiers = self.source.identifiers
        self.tokenizer = student.tokenizer
        rankings = None if rankings is None else as_rankings(rankings)
        if ignore_identical_ids and rankings is not None:
            rankings = rankings.without_identical_ids()
        self.rankings: Mapping[str, RankList] = {} if rankings is None else rankings
        self.generation_targets = generation_targets
        self.max_row_tokens = max_row_tokens
        self.sampler = ListSampler(
            self.rankings,
            qrels,
            self.source.usable,
            student_order,
            list_length=list_length,
            sampling=sampling,
            false_negative_margin=false_negative_margin,
            relevant_first=relevant_first,
            seed=seed,
            ignore_identical_ids=ignore_identical_ids,
            tie_margin=tie_margin,
        )
        self._pairs = DataCollatorForSeq2Seq(student.tokenizer)
        # In shared memory, so that persistent workers see a new epoch.
        self._epoch: torch.Tensor = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._check_rankings()

    def set_epoch(self, epoch: int) -> None:
        """Sample other lists than in earlier epochs. The trainer calls this; call it in your own training loop."""
        self._epoch.fill_(epoch)

    def for_evaluation(self) -> "DistillationCollator":
        """Return a copy that samples the same lists at every evaluation, whatever the epoch of training."""
        copied = copy.copy(self)
        copied._epoch = torch.zeros((), dtype=torch.int64)
        return copied

    @property
    def one_identifier_a_passage(self) -> bool:
        """Whether a passage is scored by one identifier, whose prefixes can then be ranked."""
        return isinstance(self.source, StringIdentifiers) or (
            self.scoring.kind == "log_likelihood" and self.identifiers.views in (("title",), ("docid",))
        )

    def coverage(self, query_ids: Iterable[str], *, progress: bool = False) -> Coverage:
        """Count what these queries have and lack: rank lists, identifiers, relevant passages (see [`Coverage`])."""
        return self.sampler.coverage(
            tqdm(query_ids, desc="Checking rank lists", unit=" queries", disable=not progress, delay=5)
        )

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch of queries, or of generation pairs."""
        columns = set(features[0])
        if "query_id" not in columns and {"input_ids", "labels"} <= columns:
            return dict(self._pairs([dict(feature) for feature in features]))
        missing = {"query_id", "query"} - columns
        if missing:
            raise DGRValueError(
                f"A training example has the columns {sorted(columns)}, but not {sorted(missing)}. The collator needs "
                "'query_id' and 'query'; rename the columns of the dataset (dataset.rename_column)."
            )
        query_ids = [as_id(feature["query_id"], "query", "Training example") for feature in features]
        for row, (query_id, feature) in enumerate(zip(query_ids, features, strict=True)):
            as_query(feature["query"], query_id, f"example {row} of a batch")
        epoch = int(self._epoch)
        lists = [self.sampler.sample(query_id, epoch) for query_id in query_ids]
        tables = [
            self._table(query_id, feature["query"], sampled, epoch)
            for query_id, feature, sampled in zip(query_ids, features, lists, strict=True)
        ]
        used_views = {view for table in tables for view, _ in table.slots}
        views = [view for view in self.identifiers.views if view in used_views] or [self.identifiers.views[0]]
        packed = pack_identifiers(
            [[ids for _, ids in table.slots] for table in tables],
            [[views.index(view) for view, _ in table.slots] for table in tables],
            len(views),
            self.max_row_tokens,
        )
        batch = {**padded_prompts(features, views, self.identifiers), **packed._asdict()}
        batch |= identifier_arrays(tables)
        batch |= list_arrays(tables, lists)
        if self.one_identifier_a_passage:
            batch["passage_cells"] = passage_cells(packed.segments, batch["passage_identifiers"][..., 0])
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _table(self, query_id: str, query: str, sampled: TrainingList, epoch: int) -> QueryTable:
        table = QueryTable()
        limit = self.scoring.identifiers_per_passage
        discounted = self.scoring.kind == "log_odds"
        for matched in self.source.matched(query_id, sampled.passage_ids, limit):
            tokens = [identifier.ids for identifier in matched]
            factors = repetition_factors(tokens, self.scoring.repetition) if discounted else [1.0] * len(tokens)
            slots = [table.slot(each.view, each.ids, each.count, each.origin) for each in matched]
            table.passages.append(slots)
            table.factors.append(factors)
        targets = self._targets(query_id, query, sampled, epoch)
        for view, ids in targets:
            slot = table.slot(view, tuple(ids), 0)
            table.weights[slot] = table.weights.get(slot, 0.0) + 1.0 / len(targets)
        return table

    def _targets(self, query_id: str, query: str, sampled: TrainingList, epoch: int) -> list[Target]:
        """Identifiers to be generated for a query."""
        relevant = sampled.relevant
        if self.generation_targets is not None:
            grades = {p: grade for p, grade in self.sampler.qrels.get(query_id, {}).items() if grade > 0}
            if grades and relevant not in grades:
                relevant = min(grades, key=lambda passage_id: (-grades[passage_id], passage_id))
            if relevant is not None:
                if callable(self.generation_targets):
                    rng = self.sampler.rng(query_id, epoch, "generation")
                    return self._known_views(self.generation_targets(query, relevant, rng))
                if relevant in self.generation_targets:
                    return self._known_views(self.generation_targets[relevant])
        if relevant is None or relevant not in self.source.usable(query_id):
            return []
        matched = self.source.matched(query_id, [relevant], self.scoring.identifiers_per_passage)[0]
        best: dict[str, Target] = {}
        for identifier in matched:
            best.setdefault(identifier.view, (identifier.view, identifier.ids))
        return list(best.values())

    def _known_views(self, targets: Sequence[Target]) -> list[Target]:
        unknown = {view for view, _ in targets} - set(self.identifiers.views)
        if unknown:
            raise DGRValueError(
                f"generation_targets has the views {sorted(unknown)}; the views are {list(self.identifiers.views)}."
            )
        return list(targets)

    def _check_rankings(self) -> None:
        """Raise if the rankings belong to other queries or another corpus."""
        if not self.rankings:
            return
        if isinstance(self.source, CandidateIdentifiers):
            query_ids = [query_id for query_id in self.rankings if query_id in self.source.candidates]
            if not query_ids:
                raise DGRValueError(
                    "No query of the rankings has candidates: the rankings hold queries such as "
                    f"{next(iter(self.rankings))!r}, the candidates such as {next(iter(self.source.candidates))!r}. "
                    "Let the teacher rank the candidates of these queries."
                )
        else:
            query_ids = list(self.rankings)
        coverage = self.sampler.coverage(query_ids[:200])
        if coverage.ranked_passages and coverage.unknown_passages == coverage.ranked_passages:
            raise DGRValueError(
                f"None of the {coverage.ranked_passages} passages in the first {coverage.queries} rank lists has an "
                f"identifier; the first is {coverage.example!r}. Were the rankings made for these passages, and "
                "with the same ids?"
            )
