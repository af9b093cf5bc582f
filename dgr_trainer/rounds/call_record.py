"""What rounds depend on, stored with them: a call that goes on with them has to ask for the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from dgr_trainer.data.grades import as_qrels
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.evaluation.evaluator import RetrievalEvaluator
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.retrieval.retriever import GenerativeRetriever
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.student.weights import weights_digest
from dgr_trainer.training.arguments import DistillationTrainingArguments

ROUNDS_FILE = "rounds.json"
"""The file in the output folder of rounds."""
_FORMAT_VERSION = 1
# Arguments of the trainer that may differ: they change neither the student nor what it is measured by.
_FREE_ARGUMENTS = {
    *("output_dir", "run_name", "project", "logging_strategy", "logging_steps", "logging_first_step"),
    *("log_on_each_node", "log_level", "log_level_replica", "logging_nan_inf_filter", "disable_tqdm", "report_to"),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "resume_from_checkpoint", "local_rank"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "save_only_model"),
    *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "skip_memory_metrics", "debug"),
    *("hub_token", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"),
    *("ddp_timeout", "torch_empty_cache_steps", "per_device_eval_batch_size", "do_train", "do_eval", "do_predict"),
}
# These matter only where the best checkpoint of a round is its result.
_BEST_CHECKPOINT = {"save_strategy", "save_steps", "save_total_limit", "eval_strategy", "eval_steps", "eval_delay"}
# Fields of teachers that do not change what they say.
_FREE_OF_TEACHERS = {"cache", "corpus", "device", "progress", "results_on", "batch_tokens", "batch_size", "threads"}


def check_call(folder: Path, call: Mapping[str, Any]) -> None:
    """Check that the rounds in a folder were made by the same call; a folder without rounds is marked as this one's.

    Args:
        folder (`pathlib.Path`): The output folder.
        call (`Mapping[str, Any]`): What the rounds depend on, in JSON types.

    Raises:
        ValueError: if they were made by another one; names what differs.
        FileExistsError: if the folder holds folders of rounds, but no record of them.
    """
    file = folder / ROUNDS_FILE
    call = json.loads(json.dumps(call))
    if not file.is_file():
        if left := sorted(folder.glob("round-*")):
            raise FileExistsError(
                f"{left[0]} is there, but {file} is not, which says what it was trained on. Give another output "
                "folder, or delete it."
            )
        with atomic_write(file) as written:
            json.dump({"format_version": _FORMAT_VERSION, "call": call}, written, indent=1)
            written.write("\n")
        return
    with input_errors(f"{file} is damaged", ValueError, KeyError, TypeError):
        stored = json.loads(file.read_text(encoding="utf-8"))
        version, earlier = stored["format_version"], dict(stored["call"])
    if version != _FORMAT_VERSION:
        raise DGRValueError(
            f"{file} has format version {version!r}; this version of dgr-trainer reads version {_FORMAT_VERSION}. "
            "Give another output folder."
        )
    differing = _differing(earlier, call)
    if differing == ["student"]:
        raise DGRValueError(
            f"The rounds in {folder} started from another student than this one. Load the retriever again that they "
            "started from (rounds train it in place), or give another output folder."
        )
    if differing:
        raise DGRValueError(
            f"The rounds in {folder} were made with other settings: {', '.join(differing)}. Give the same ones to go "
            "on with them, or another output folder."
        )


def call_arguments(args: DistillationTrainingArguments) -> dict[str, Any]:
    """The arguments of the trainer that change what a round trains."""
    free = _FREE_ARGUMENTS | (set() if args.load_best_model_at_end else _BEST_CHECKPOINT)
    return {name: plain(value) for name, value in args.to_dict().items() if name not in free}


def describe_retriever(retriever: GenerativeRetriever, search: SearchSettings) -> dict[str, Any]:
    """The student and what it searches in, with the settings of its search."""
    index = retriever.index
    return {
        "student": weights_digest(retriever.model),
        "index": digest([index.num_passages, index.token_counts.tolist(), index.corpus_fingerprint]),
        "tokenizer": retriever.identifiers.fingerprint,
        "identifiers": retriever.identifiers.settings.to_dict(),
        "search": search.to_dict(),
        "scoring": retriever.scoring.to_dict(),
    }


def describe_evaluator(evaluator: Any) -> Any:
    """The dev queries, and how the student is measured by them; of another callable its name."""
    if not isinstance(evaluator, RetrievalEvaluator):
        return plain(evaluator)
    settings = ("metrics", "k", "settings", "scoring", "ignore_identical_ids", "leave_out_own_text")
    return {
        "queries": digest(list(evaluator.queries.items())),
        "qrels": digest(as_qrels(evaluator.qrels)),
        **{name: plain(getattr(evaluator, name)) for name in settings},
    }


def describe_teacher(teacher: Any) -> dict[str, Any]:
    """The class, the name and the plain settings of a teacher."""
    described: dict[str, Any] = {"class": type(teacher).__qualname__, "name": plain(getattr(teacher, "name", None))}
    if is_dataclass(teacher):
        names = [one.name for one in fields(teacher) if one.name not in _FREE_OF_TEACHERS]
        described |= {name: plain(getattr(teacher, name)) for name in names}
    elif hasattr(teacher, "version"):
        described["version"] = plain(teacher.version)
    return described


def plain(value: Any) -> Any:
    """The same in JSON's types; of anything else its type."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    return getattr(value, "__qualname__", type(value).__qualname__)


def digest(value: Any) -> str:
    """A hash of a value in JSON's types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _differing(earlier: Mapping[str, Any], call: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name in sorted({*earlier, *call}):
        one, other = earlier.get(name), call.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            found += _differing(one, other, f"{prefix}{name}.")
        elif one != other or (name in earlier) != (name in call):
            found.append(f"{prefix}{name}")
    return found
