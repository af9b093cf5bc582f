"""Several processes of one command, as `accelerate launch` and `torchrun` start them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dgr_trainer.cli.settings import DeviceOptions

if TYPE_CHECKING:
    from accelerate import PartialState


@contextmanager
def launched(device: DeviceOptions) -> Iterator[PartialState | None]:
    """The processes that run this command together, `None` where there is only one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None
        return
    import torch
    from accelerate import PartialState

    on_cpu = device.device.startswith("cpu") if device.device else not torch.cuda.is_available()
    processes = PartialState(cpu=on_cpu)
    yield processes
    # Not after an error: the others may wait for this process, and whoever launched them ends them.
    processes.wait_for_everyone()
    processes.destroy_process_group()


def writes(processes: PartialState | None) -> bool:
    """Whether this process is the one that prints and writes."""
    return processes is None or processes.is_main_process
