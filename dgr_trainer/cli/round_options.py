"""Options of `dgr train --rounds`, and what they go together with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgr_trainer.cli.derive import LibraryOptions, default_of, derived, parameters_of, settings_of
from dgr_trainer.cli.models import check_device
from dgr_trainer.cli.pairs import PairOptions
from dgr_trainer.cli.paths import model_name
from dgr_trainer.cli.settings import AS_SAVED
from dgr_trainer.cli.sources import IndexFolder
from dgr_trainer.cli.teachers import (
    TEACHER_PREFIX,
    TEACHERS,
    all_given,
    given_options,
)
from dgr_trainer.cli.train_options import EvaluationOptions, TrainOptions
from dgr_trainer.errors import DGRValueError
from dgr_trainer.evaluation.metrics import DEFAULT_METRICS
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.rounds import distil_in_rounds, train_generation_in_rounds
from dgr_trainer.rounds.call_record import ROUNDS_FILE

if TYPE_CHECKING:
    from dgr_trainer.training.arguments import DistillationTrainingArguments

_ABOUT_DEV = ("round_metric", "round_patience", "round_min_gain")


@derived(
    parameters_of(
        distil_in_rounds,
        {
            "metric": "Metric on the --eval_queries by which rounds are compared; the best one is the result.",
            "patience": "Stop after this many rounds in a row without a gain.",
            "min_gain": "A gain is more than this above the best round before.",
            "leave_out_own_text": "Search for each query as if no passage had it as a pseudo-query.",
        },
        prefix="round_",
    )
)
class RoundOptions(LibraryOptions):
    """Options of training in rounds."""

    _argument_group_name = "rounds"

    rounds: int | None = field(
        default=None,
        metadata={
            "help": "Train in at most this many rounds: search with the student for candidates (in place of "
            "--candidates), let the --teacher rank them (in place of --run), train, evaluate. The same command goes "
            "on after an interruption."
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "distillation: "
            + "; ".join(f"{name}: {choice.help}" for name, choice in TEACHERS.items())
            + ". Its options are those of `dgr rank`, with teacher_ before their names.",
            "choices": tuple(TEACHERS),
        },
    )
    round_k: int | None = field(
        default=None,
        metadata={
            "help": f"Candidates per query; by default {default_of(distil_in_rounds, 'k')}, in generation "
            f"{default_of(train_generation_in_rounds, 'k')}."
        },
    )
    round_identifiers_per_query: int | None = field(
        default=None,
        metadata={
            "help": "generation: pairs per query and relevant passage (default: "
            f"{default_of(train_generation_in_rounds, 'identifiers_per_query')})."
        },
    )


@derived(settings_of(SearchSettings, prefix="search_"), stated=AS_SAVED)
class RoundSearchOptions(LibraryOptions):
    """Options of the search for candidates; those that are not given are as saved with the retriever."""

    _argument_group_name = "search for candidates (with --rounds)"


@dataclass
class RoundChoices:
    """All options of rounds.

    Args:
        rounds ([`RoundOptions`]): How many, and when to stop.
        search ([`RoundSearchOptions`]): How to search.
        teacher (`PrefixedTeacherOptions`): The settings of the teacher.
    """

    rounds: RoundOptions
    search: RoundSearchOptions
    teacher: Any

    @property
    def wanted(self) -> bool:
        """Whether to train in rounds."""
        return self.rounds.rounds is not None

    def are_in(self, output_dir: Path) -> bool:
        """Whether rounds are wanted, and there are some in a folder, which are gone on with."""
        return self.wanted and (output_dir / ROUNDS_FILE).is_file()

    def given(self) -> list[str]:
        """Names of the options that were given."""
        own = ("teacher", "round_k", "round_identifiers_per_query")
        names = [name for name in own if getattr(self.rounds, name) is not None]
        return [*names, *self.rounds.given_names(), *self.search.given_names(), *all_given(self.teacher)]


def check_rounds(
    choices: RoundChoices,
    train: TrainOptions,
    evaluation: EvaluationOptions,
    pairs: PairOptions,
    index: IndexFolder | None,
) -> None:
    """Check the options of rounds, before anything is read.

    Args:
        choices ([`RoundChoices`]): The options.
        train ([`TrainOptions`]): What is trained on what.
        evaluation ([`EvaluationOptions`]): The dev queries.
        pairs ([`PairOptions`]): Options of pairs that are made of the corpus.
        index ([`IndexFolder`], *optional*): The index of the student.

    Raises:
        ValueError: if options are missing or do not go together.
    """
    rounds = choices.rounds
    if rounds.rounds is None:
        if given := choices.given():
            raise DGRValueError(f"--{given[0]} is an option of training in rounds. Give --rounds, or leave it out.")
        return
    for name, least in (("rounds", 1), ("round_k", 1), ("round_patience", 1), ("round_identifiers_per_query", 1)):
        value = getattr(rounds, name)
        if value is not None and value < least:
            raise DGRValueError(f"--{name} {value} has to be at least {least}.")
    if (min_gain := rounds.given().get("min_gain")) is not None and min_gain < 0:
        raise DGRValueError(f"--round_min_gain {min_gain} has to be at least 0.")
    for name, instead in (
        ("candidates", "are searched for in each round"),
        ("run", "is what the --teacher says in each round"),
        ("identifiers", "are one string per passage, for which no round searches"),
    ):
        if getattr(train, name) is not None:
            raise DGRValueError(f"--rounds: --{name} {instead}. Leave one of them out.")
    if index is None:
        raise DGRValueError(
            "--rounds: each round searches with the student. Give --index, or the folder of a retriever as --model."
        )
    if train.queries is None or train.qrels is None:
        raise DGRValueError("--rounds needs --queries, the training queries, and --qrels, their relevant passages.")
    _check_dev(rounds, evaluation)
    SearchSettings(**choices.search.given())
    if train.stage == "generation":
        _check_generation(choices, train, pairs)
    else:
        _check_teacher(choices, train, index)


def _check_dev(rounds: RoundOptions, evaluation: EvaluationOptions) -> None:
    if evaluation.eval_queries is None:
        if about_dev := [name for name in _ABOUT_DEV if getattr(rounds, name) is not None]:
            raise DGRValueError(
                f"--{about_dev[0]} compares rounds on dev queries. Give --eval_queries and --eval_qrels, or leave it "
                "out."
            )
        return
    metrics = evaluation.given().get("metrics", DEFAULT_METRICS)
    metric = rounds.given().get("metric", default_of(distil_in_rounds, "metric"))
    if metric not in metrics:
        raise DGRValueError(
            f"--round_metric {metric} is not among the --eval_metrics, {' '.join(metrics)}. Choose one of them, or "
            "add it to them."
        )


def _check_generation(choices: RoundChoices, train: TrainOptions, pairs: PairOptions) -> None:
    of_teacher = [name for name in choices.given() if name == "teacher" or name.startswith(TEACHER_PREFIX)]
    if of_teacher:
        raise DGRValueError(f"--{of_teacher[0]}: there is no teacher in --stage generation. Leave it out.")
    others = [name for name in pairs.given_names() if name != "num_proc"]
    if train.corpus is not None:
        others.append("corpus")
    if others:
        raise DGRValueError(
            f"--{others[0]}: rounds make pairs of the student's own identifiers, not of the corpus. Leave it out, or "
            "make pairs with `dgr pairs` and give them with --pairs, for every round to train on beside its own."
        )


def _check_teacher(choices: RoundChoices, train: TrainOptions, index: IndexFolder) -> None:
    name = choices.rounds.teacher
    if name is None:
        raise DGRValueError("--rounds needs a --teacher, which ranks the candidates of each round.")
    if choices.rounds.round_identifiers_per_query is not None:
        raise DGRValueError("--round_identifiers_per_query has no effect in --stage distillation. Leave it out.")
    given = given_options(choices.teacher, name, TEACHER_PREFIX)
    check_device(given.get("device"))
    if "model" in given:
        model_name("--teacher_model", given["model"])
    if train.corpus is None and index.corpus is None and not {"lucene_index", "prebuilt"} & set(given):
        raise DGRValueError(
            "--corpus is missing: the teacher reads passages, and the folder of the index does not hold them."
        )


def check_round_arguments(arguments: DistillationTrainingArguments) -> None:
    """Refuse arguments of the trainer that rounds cannot follow."""
    if arguments.push_to_hub:
        raise DGRValueError(
            "--push_to_hub would upload every round. Leave it out, and upload the result with `dgr push`."
        )
    if arguments.resume_from_checkpoint:
        raise DGRValueError(
            "--resume_from_checkpoint: the same command with --rounds goes on where it was interrupted. Leave it out, "
            "or give --overwrite to start again."
        )
