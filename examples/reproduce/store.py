"""Stages and where their results lie: a stage is done once, whoever needs it.

A stage has a kind, a configuration and the stages that it reads. Its folder is named after a digest of all of these,
so rows and seeds that need the same work share it, and a changed setting makes a new folder beside the old one. The
file `stage.json` is written last: a folder without one belongs to a stage that was interrupted, and that begins again
there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from costs import PeakMemory, machine, versions

from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.files.job_lock import JobLock

DONE = "stage.json"
DISCARDED = "discarded"
RESUMABLE = ("generation", "ranking", "candidates")
"""Kinds of stages that go on where they were interrupted."""


class OutOfTime(Exception):
    """The time that the command was given is over; what is done is kept."""


@dataclass(frozen=True)
class Stage:
    """One piece of work.

    Args:
        kind (`str`): What is done, a name of `stages.WORK`.
        label (`str`): For people; not part of the digest.
        config (`Mapping[str, Any]`): Everything that the result depends on, besides the inputs; plain values.
        inputs (`Mapping[str, Stage]`): The stages that it reads, by the name that it knows them under.
    """

    kind: str
    label: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Stage] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        inputs = {name: stage.digest for name, stage in self.inputs.items()}
        text = json.dumps([self.kind, self.config, inputs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def chain(self) -> Iterator[Stage]:
        """The stage and all that it is made from, inputs first, each once."""
        seen: set[str] = set()

        def visit(stage: Stage) -> Iterator[Stage]:
            if stage.digest in seen:
                return
            seen.add(stage.digest)
            for other in stage.inputs.values():
                yield from visit(other)
            yield stage

        yield from visit(self)


Work = Callable[["Place"], dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """What a stage's function gets: its folder, its configuration, and the folders of its inputs."""

    stage: Stage
    store: Store

    @property
    def folder(self) -> Path:
        return self.store.folder(self.stage)

    @property
    def config(self) -> Mapping[str, Any]:
        return self.stage.config

    def input(self, name: str) -> Place:
        return Place(self.stage.inputs[name], self.store)

    def has(self, name: str) -> bool:
        return name in self.stage.inputs

    @property
    def result(self) -> dict[str, Any]:
        return self.store.record(self.stage)["result"]


class Store:
    """The stages of an output folder.

    Args:
        output (`Path`): The folder.
        data (`Path`): Folder of the corpora.
        work (`Mapping[str, Work]`): The function of each kind of stage.
        models (`Path`, *optional*): Folder of the checkpoints that presets name.
        minutes (`float`, *optional*): How long this command may take.
        say (`Callable[[str], None]`): Called with a line about each stage that begins or ends.
    """

    def __init__(
        self,
        output: Path,
        data: Path,
        work: Mapping[str, Work],
        *,
        models: Path | None = None,
        minutes: float | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.output = output
        self.data = data
        self.models = models
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._did_something = False
        self._work = work
        self._say = say

    def folder(self, stage: Stage) -> Path:
        return self.output / "stages" / f"{stage.kind}-{stage.digest}"

    def shared(self, kind: str, *identity: str) -> Path:
        """A folder for what stages add to and read, such as the scores that a teacher has given."""
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        return self.output / "shared" / f"{kind}-{digest}"

    def record(self, stage: Stage) -> dict[str, Any]:
        """What `stage.json` says."""
        record: dict[str, Any] = json.loads((self.folder(stage) / DONE).read_text(encoding="utf-8"))
        return record

    def is_done(self, stage: Stage) -> bool:
        return (self.folder(stage) / DONE).exists()

    def ensure(self, stage: Stage) -> None:
        """Do a stage, and before it the stages that it needs, unless it was done before.

        Raises:
            OutOfTime: before a stage that there is no time for.
        """
        if self._is_here(stage):
            return
        for other in stage.inputs.values():
            self.ensure(other)
        if stage.kind not in RESUMABLE and self._would_be_late(stage):
            raise OutOfTime(f"There is too little time left for: {stage.kind} {stage.label}")
        lock = JobLock(self.folder(stage).with_suffix(".lock"))
        while not lock.acquire(5.0):  # Another command does this stage; this one waits for its result.
            self.check_time(stage)
        try:
            if not self._is_here(stage):
                self.check_time(stage)
                self._do(stage)
        finally:
            lock.release()

    def discard(self, stage: Stage, *files: str) -> None:
        """Delete files of a stage that nobody needs for now; it is done again if somebody does."""
        folder = self.folder(stage)
        if self._is_here(stage):
            (folder / DISCARDED).touch()
            for name in files:
                if (folder / name).is_symlink():
                    (folder / name).unlink()
                shutil.rmtree(folder / name, ignore_errors=True)

    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def check_time(self, stage: Stage) -> None:
        """Raise `OutOfTime` if the time is over."""
        if self.is_late():
            raise OutOfTime(f"There is no time left for: {stage.kind} {stage.label}")

    def _would_be_late(self, stage: Stage) -> bool:
        """Whether stages of this kind on this corpus took longer than what is left; never before the first is done."""
        if self.deadline is None or not self._did_something:
            return False
        corpus = stage.label.split(" / ")[0]
        took = [one["seconds"] for one in self.records(stage.kind) if one["label"].split(" / ")[0] == corpus]
        return bool(took) and time.monotonic() + max(took) > self.deadline

    def records(self, kind: str) -> Iterator[dict[str, Any]]:
        """The records of all stages of a kind that were ever done in this folder."""
        for path in sorted((self.output / "stages").glob(f"{kind}-*/{DONE}")):
            yield json.loads(path.read_text(encoding="utf-8"))

    def _is_here(self, stage: Stage) -> bool:
        return self.is_done(stage) and not (self.folder(stage) / DISCARDED).exists()

    def _do(self, stage: Stage) -> None:
        folder = self.folder(stage)
        folder.mkdir(parents=True, exist_ok=True)
        attempts = _count_attempt(folder / "attempts")
        self._say(f"{stage.kind} {stage.label} ...")
        began = time.monotonic()
        with PeakMemory() as memory:
            result = self._work[stage.kind](Place(stage, self))
        record = {
            "kind": stage.kind,
            "label": stage.label,
            "digest": stage.digest,
            "config": stage.config,
            "inputs": {name: other.digest for name, other in stage.inputs.items()},
            "result": result,
            # Of an interrupted stage, the time and memory of the attempt that finished it.
            "seconds": round(time.monotonic() - began, 1),
            "attempts": attempts,
            **memory.measured(),
            "versions": versions(),
            "machine": machine(),
            "finished": time.strftime("%F %T UTC", time.gmtime()),
        }
        (folder / DISCARDED).unlink(missing_ok=True)
        with atomic_write(folder / DONE) as file:
            json.dump(record, file, indent=1)
        self._did_something = True
        self._say(f"{stage.kind} {stage.label}: {record['seconds']:.0f} s")


def _count_attempt(file: Path) -> int:
    attempts = 1 + (int(file.read_text() or 0) if file.exists() else 0)
    file.write_text(str(attempts))
    return attempts
