"""The record of a training in its output folder, `dgr_run.json`: what was trained on what, with what, for how long.

It is JSON, so that a report, or anyone, can read it without unpickling anything. The main process writes it in one
step at the beginning, with every evaluation and checkpoint, and at the end.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_model_param_count

from dgr_trainer._version import __version__
from dgr_trainer.candidates import Candidates
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.files.fingerprints import path_fingerprint
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.training.arguments import DEFAULT_LOSS
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.given_datasets import named_datasets, query_ids_of
from dgr_trainer.training.identifier_sources import CandidateIdentifiers
from dgr_trainer.training.objective import RankingObjective
from dgr_trainer.training.taught_lists import taught_lists

logger = logging.getLogger(__name__)

RUN_RECORD = "dgr_run.json"
"""The file in the output folder of a training or of a pipeline."""
FORMAT_VERSION = 1
_PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy")
_FINGERPRINTED = ("query_id", "query", "input_ids", "labels")
_SET_LATER = ("output_dir", "report_to", "use_cpu", "logging_dir", "run_name", "debug")


class RunRecord(TrainerCallback):
    """Writes the record of a trainer's run; the trainer adds it to its callbacks.

    Args:
        trainer ([`DistillationGenerativeRetrievalTrainer`]): The trainer.

    Attributes:
        facts (`dict[str, Any]`): What the caller adds to the record, such as the files that the data was read from.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.facts: dict[str, Any] = {}
        self._record: dict[str, Any] | None = None
        self._part: dict[str, Any] = {}
        self._start = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Describe the run and write it."""
        if not state.is_world_process_zero or state.is_hyper_param_search:
            self._record = None
            return
        self._start = time.monotonic()
        self._part = {"started": _now(), "from_step": state.global_step, **_machine(args)}
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        earlier = _earlier_parts(Path(args.output_dir or "."), state)
        self._record = {"format_version": FORMAT_VERSION, "kind": "training", **describe(self._trainer), **self.facts}
        self._record["parts"] = [*earlier, self._part]
        self._part["described_in"] = round(time.monotonic() - self._start, 3)
        self._start = time.monotonic()
        self._write(args, state, "running")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write what was logged so far."""
        self._write(args, state)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the metrics, also of an evaluation after training."""
        self._write(args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write how long it took."""
        self._write(args, state, "finished" if state.global_step >= state.max_steps else "stopped early")

    def _write(self, args: TrainingArguments, state: TrainerState, status: str | None = None) -> None:
        record = self._record
        if record is None or not state.is_world_process_zero:
            return
        if status is not None:
            record["status"] = status
        if status is not None or record["status"] == "running":
            self._part |= {
                "to_step": state.global_step,
                "seconds": round(time.monotonic() - self._start, 3),
                "peak_memory": peak_memory(),
            }
        record |= {
            "epochs": state.epoch,
            "steps": state.global_step,
            "planned_steps": state.max_steps,
            "best_metric": state.best_metric,
            "best_checkpoint": state.best_model_checkpoint and Path(state.best_model_checkpoint).name,
            "log_history": state.log_history,
        }
        write_record(record, Path(args.output_dir or "."))


def write_record(record: Mapping[str, Any], folder: Path) -> None:
    """Write a record into a folder, in one step. A record is not worth a training: a full disk is told, not raised."""
    try:
        with atomic_write(folder / RUN_RECORD) as file:
            json.dump(_plain(record), file, indent=1, allow_nan=False)
            file.write("\n")
    except OSError as error:
        logger.warning("%s was not written: %s", folder / RUN_RECORD, error)


def describe(trainer: Any) -> dict[str, Any]:
    """What a trainer is about to do: settings, model, data, versions and fingerprints."""
    collator, args = trainer.data_collator, trainer.args
    distils = isinstance(collator, DistillationCollator)
    objective = cast("RankingObjective | None", trainer.ranking_objective)
    ranks = distils and bool(collator.rankings) and objective is not None and objective.ranking_weight > 0
    record: dict[str, Any] = {
        "stage": "distillation" if ranks else "generation",
        "settings": args.to_dict(),
        "changed_settings": _changed(args),
        "versions": versions(),
        "code": code_fingerprints(),
        "model": _model(trainer.accelerator.unwrap_model(trainer.model)),
        "data": {
            "train": dataset_fingerprint(trainer.train_dataset),
            **{name: dataset_fingerprint(one) for name, one in named_datasets("eval", trainer.eval_dataset)},
        },
    }
    if distils:
        sampler, source = collator.sampler, collator.source
        record["lists"] = {
            "list_length": sampler.list_length,
            "sampling": sampler.sampling,
            "relevant_first": sampler.relevant_first,
            "false_negative_margin": sampler.false_negative_margin,
            "tie_margin": sampler.tie_margin,
            "ignore_identical_ids": sampler.ignore_identical_ids,
            "seed": sampler.seed,
            "scoring": asdict(collator.scoring),
        }
        if objective is not None:
            record["objective"] = {
                "loss": objective.loss.name,
                "settings": dict(objective.settings),
                "ranking_weight": objective.ranking_weight,
                "generation_weight": objective.generation_weight,
            }
        record["data"] |= {
            "teacher": _rankings_fingerprint(collator.rankings),
            "candidates": _candidates_fingerprint(source.candidates)
            if isinstance(source, CandidateIdentifiers)
            else None,
            "qrels": {"queries": len(sampler.qrels), "sha256": _digest_json(sampler.qrels)} if sampler.qrels else None,
        }
        query_ids = query_ids_of(trainer.train_dataset)
        if ranks and query_ids:
            assert objective is not None
            record["taught_lists"] = taught_lists(collator, objective, query_ids)
    record["data"] = {name: value for name, value in record["data"].items() if value}
    return record


def versions() -> dict[str, str]:
    """Versions of Python, this library and those that training depends on."""
    found = {"python": platform.python_version(), "dgr-trainer": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    return found


def code_fingerprints() -> dict[str, Any]:
    """Digests of this library's source, and of the script that is running, if it is a file."""
    found: dict[str, Any] = {"dgr_trainer": _package_digest()}
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if main is not None and Path(main).suffix == ".py" and Path(main).is_file():
        found["script"] = {**path_fingerprint(main), "path": Path(main).name}
    return found


@cache
def _package_digest() -> str:
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def dataset_fingerprint(dataset: Any) -> dict[str, Any] | None:
    """Rows of a dataset, and a digest of its queries, or of its tokens if it has pairs; `None` if it has no rows."""
    if not isinstance(dataset, datasets.Dataset) or not len(dataset):
        return None
    columns = [name for name in _FINGERPRINTED if name in dataset.column_names]
    if "query" in columns and "query_id" in columns:
        columns = ["query_id", "query"]
    digest = hashlib.sha256("\0".join(columns).encode())
    if columns:
        for batch in dataset.select_columns(columns).with_format("arrow").iter(batch_size=10_000):
            _add_table(digest, batch)
    return {"rows": len(dataset), "columns": columns, "sha256": digest.hexdigest() if columns else None}


def _add_table(digest: Any, table: pa.Table) -> None:
    """Add values and lengths, whatever chunks, offsets and widths of integers they are stored with."""
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        values = column
        while _is_list(values.type):
            digest.update(pc.list_value_length(values).cast(pa.int64()).to_numpy(zero_copy_only=False).tobytes())
            values = values.flatten()
        if pa.types.is_integer(values.type):
            digest.update(values.fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False).tobytes())
        else:
            for value in values.cast(pa.string()).to_pylist():
                digest.update((value or "").encode("utf-8", "surrogatepass") + b"\0")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _rankings_fingerprint(rankings: Mapping[str, Any]) -> dict[str, Any] | None:
    if not rankings:
        return None
    described: dict[str, Any] = {"queries": len(rankings), "name": getattr(rankings, "name", None)}
    if isinstance(rankings, Rankings):
        digest = hashlib.sha256()
        for batch in rankings.to_dataset().with_format("arrow").iter(batch_size=1000):
            _add_lists(digest, batch)
        described["sha256"] = digest.hexdigest()
    return described


def _candidates_fingerprint(candidates: Candidates) -> dict[str, Any]:
    digest = hashlib.sha256()
    columns = candidates.dataset.select_columns(["query_id", "passage_ids", "scores"]).with_format("arrow")
    for batch in columns.iter(batch_size=1000):
        _add_lists(digest, batch)
    return {"queries": len(candidates), "sha256": digest.hexdigest()}


def _add_lists(digest: Any, table: pa.Table) -> None:
    """Add query ids, passage ids and scores."""
    for name in ("query_id", "passage_ids", "scores"):
        values = table.column(name).combine_chunks()
        if name != "query_id":
            digest.update(values.value_lengths().cast(pa.int64()).to_numpy(zero_copy_only=False).tobytes())
            values = values.flatten()
        if name == "scores":
            digest.update(values.to_numpy(zero_copy_only=False).tobytes())
        else:
            digest.update("\0".join(values.to_pylist()).encode("utf-8", "surrogatepass"))


def peak_memory() -> dict[str, int]:
    """The most memory that this process has had so far: of the machine, and of its GPU since training began, bytes."""
    found = {}
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["host_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    except ImportError:  # Windows
        pass
    if torch.cuda.is_available():
        found["gpu_bytes"] = torch.cuda.max_memory_allocated()
    return found


def _machine(args: TrainingArguments) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else None
    return {"device": gpu or args.device.type, "processes": args.world_size}


def _model(model: Any) -> dict[str, Any]:
    config = getattr(model, "config", None)
    count = cast(Callable[..., int], get_model_param_count)  # Also of a model that processes share.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {
        "class": type(base).__name__,
        "adapter": type(model).__name__ if base is not model else None,
        "name": getattr(config, "_name_or_path", "") or None,
        "parameters": count(model),
        "trained_parameters": count(model, trainable_only=True),
    }


def _changed(args: Any) -> list[str]:
    """Names of the settings that differ from their defaults."""
    changed = []
    for field in fields(args):
        if not field.init or field.name in _SET_LATER or field.name.endswith("_token"):
            continue
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.name == "ranking_loss":  # Filled in, and None only until then.
            default = DEFAULT_LOSS
        if default is not MISSING and default is not None and _plain(getattr(args, field.name)) != _plain(default):
            changed.append(field.name)
        elif default is None and field.name in _NONE_BY_DEFAULT and getattr(args, field.name) is not None:
            changed.append(field.name)
    return changed


# Other settings that are None by default are filled in by transformers.
_NONE_BY_DEFAULT = (
    *("ranking_loss_kwargs", "generation_weight", "margin", "margin_gap", "first_weight", "temperature"),
    *("teacher_temperature", "first_share", "preset", "metric_for_best_model", "data_seed", "save_total_limit"),
    *("eval_steps", "neftune_noise_alpha", "optim_args"),
)


def _earlier_parts(folder: Path, state: TrainerState) -> list[dict[str, Any]]:
    """The parts of a training that is resumed here, up to the step that it continues from."""
    if not state.global_step:
        return []
    try:
        record = json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))
        parts = [part for part in record["parts"] if part["from_step"] < state.global_step]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return parts


def _plain(value: Any) -> Any:
    """The same in JSON's types; what has no place there is its text, and numbers that are not finite are `None`."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(one) for one in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if hasattr(value, "item") and getattr(value, "size", 1) == 1 and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if isinstance(value, (bool, int, str)) else str(value)


def _digest_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
