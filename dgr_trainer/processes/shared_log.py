"""Long work in numbered chunks that the processes of a job share, and that any number of processes resumes.

Each process appends its finished chunks to a file of its own. The next job reads the files of all earlier processes
and divides what is missing among its own processes, however many these are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from dgr_trainer.files.resume_log import ChunkFormat, ResumeLog
from dgr_trainer.processes import (
    Processes,
    gather,
    gather_on_main,
    is_main_process,
    process_rank,
    share_of_process,
    wait,
)
from dgr_trainer.processes.jobs import in_every_process, job_lock


class SharedLog:
    """The finished chunks of a job's work, on the disk. Use as a context manager, in each process.

    The files need not be on a disk that all processes see: what the first process cannot read is sent to it.

    Args:
        path (`str` or `os.PathLike`): File of the first process; the other ones have their number after the name.
        what (`str`): What the work makes, for messages.
        settings (`Mapping[str, Any]`): What the chunks depend on, in JSON types.
        num_chunks (`int`): Number of chunks of the whole work.
        number_of (`Callable[[Any], int]`): Returns the number of a chunk, from 0, by its content.
        chunk_format ([`ChunkFormat`], *optional*): How chunks are stored.
        processes ([`Processes`], *optional*): The processes of the job.

    Raises:
        RuntimeError: if another job works on the same files.
        ValueError: if a file was written with other settings, or is not such a file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        what: str,
        settings: Mapping[str, Any],
        num_chunks: int,
        number_of: Callable[[Any], int],
        chunk_format: ChunkFormat | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.path, self.what, self.settings, self.num_chunks = Path(path), what, settings, num_chunks
        self.number_of, self.chunk_format, self.processes = number_of, chunk_format, processes
        self.process, self.num_processes = process_rank(processes)
        self.finished: set[int] = set()
        """Numbers of the chunks that earlier jobs have finished, in all processes the same."""
        self._held = ExitStack()

    def __enter__(self) -> SharedLog:
        with ExitStack() as held:
            lock = self.path.with_name(f"{self.path.name}.lock")
            held.enter_context(job_lock(lock, self.what, self.processes))
            self._own = held.enter_context(in_every_process(self._open_own, self.processes))
            finished = gather(list(in_every_process(self._finished, self.processes)), self.processes)
            self.finished = {number for numbers in finished for number in numbers}
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def share(self) -> Sequence[int]:
        """Numbers of the missing chunks that this process is to make, in their order."""
        missing = [number for number in range(self.num_chunks) if number not in self.finished]
        return share_of_process(missing, self.processes)

    def add(self, chunk: Any) -> None:
        """Add a finished chunk. It is on the disk when this returns."""
        self._own.add(chunk)

    def chunks(self) -> Iterator[Any]:
        """Yield all chunks, in their order, in the first process, and nothing in the others. Waits for all of them.

        Every process has to exhaust the iterator.
        """
        wait(self.processes)
        readable = in_every_process(self._finished, self.processes)
        everywhere = gather(sorted(readable), self.processes)
        owners = {number: owner for owner in reversed(range(self.num_processes)) for number in everywhere[owner]}
        for number in range(self.num_chunks):
            chunk = None
            if owners[number] == self.process:
                log, place = readable[number]
                chunk = log.chunk(place)
            if owners[number] != 0:
                sent = gather_on_main(chunk, self.processes)
                chunk = sent[owners[number]] if sent else None
            if self.process == 0:
                yield chunk

    def remove(self) -> None:
        """Delete the files of all processes, once what was made of them is on the disk. Waits for all of them."""
        wait(self.processes)
        self._own.remove()
        wait(self.processes)
        if is_main_process(self.processes):
            for file in self._files():
                file.unlink(missing_ok=True)

    def _open_own(self) -> ResumeLog:
        name = self.path.name if self.process == 0 else f"{self.path.name}-{self.process}"
        return ResumeLog(self.path.with_name(name), self.settings, self.chunk_format)

    def _files(self) -> list[Path]:
        """The files of this job and of earlier ones that this process sees."""
        pattern = re.compile(rf"{re.escape(self.path.name)}(-\d+)?")
        return sorted(file for file in self.path.parent.iterdir() if pattern.fullmatch(file.name))

    def _finished(self) -> dict[int, tuple[ResumeLog, int]]:
        """The finished chunks that this process can read: the file of each, and its place in the file."""
        found: dict[int, tuple[ResumeLog, int]] = {}
        for file in self._files():
            log = ResumeLog(file, self.settings, self.chunk_format, read_only=True)
            for place, chunk in enumerate(log.chunks()):
                found.setdefault(self.number_of(chunk), (log, place))
        return found
