"""The record of a program that runs several stages: how long each took, and where its runs and judgements are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dgr_trainer.training.run_record import FORMAT_VERSION, code_fingerprints, peak_memory, versions, write_record


class PipelineRecord:
    """Collects what `dgr_run.json` of a pipeline says; a stage ends where the next one begins.

    Args:
        name (`str`): Name of the pipeline.
        description (`str`): A sentence or two on what it does.
        settings (`Mapping[str, Any]`): Its settings.
    """

    def __init__(self, name: str, description: str, settings: Mapping[str, Any]) -> None:
        self._record: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "kind": "pipeline",
            "name": name,
            "description": description,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": dict(settings),
            "versions": versions(),
            "code": code_fingerprints(),
            "stages": [],
        }
        self._begun = time.monotonic()
        self._current: dict[str, Any] | None = None

    def stage(self, name: str) -> None:
        """End the current stage and begin one."""
        self._end()
        self._current = {"name": name}

    def finished_stage(self, name: str, seconds: float) -> None:
        """Add a stage that is over, such as one of an earlier process."""
        self._record["stages"].append({"name": name, "seconds": round(seconds, 3)})

    def training(self, name: str, folder: str) -> None:
        """Name a training by its output folder, relative to that of the pipeline; it has a record of its own."""
        self._record.setdefault("trainings", []).append({"name": name, "folder": folder})

    def evaluation(
        self,
        *,
        qrels: str,
        runs: Mapping[str, str],
        hits: Mapping[str, str],
        baseline: str,
        result: str,
        metrics: Sequence[str],
    ) -> None:
        """Tell where the judgements, the runs and the hits are, relative to the folder of the pipeline."""
        self._record["evaluation"] = {
            "qrels": qrels,
            "runs": dict(runs),
            "hits": dict(hits),
            "baseline": baseline,
            "result": result,
            "metrics": list(metrics),
        }

    def write(self, folder: Path) -> None:
        """End the current stage and write the record into a folder."""
        self._end()
        write_record(self._record, folder)

    def _end(self) -> None:
        now = time.monotonic()
        if self._current is not None:
            self._record["stages"].append(
                {**self._current, "seconds": round(now - self._begun, 3), "peak_memory": peak_memory()}
            )
            self._current = None
        self._begun = now
