"""What a stage cost, and what it was done with: memory, versions, machine."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dgr_trainer import __version__

_LIBRARIES = (
    "torch",
    "transformers",
    "datasets",
    "tokenizers",
    "peft",
    "numpy",
    "sentence-transformers",
)


class PeakMemory:
    """Measures the most memory that is in use within a `with` block, resident and on the accelerator."""

    def __enter__(self) -> PeakMemory:
        import torch

        self._cuda = torch.cuda.is_available()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts again from now.
        except OSError:
            pass
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self.memory = _resident_peak()
        self.accelerator_memory = torch.cuda.max_memory_reserved() if self._cuda else 0

    def measured(self) -> dict[str, int]:
        """Both in bytes; the second is 0 without an accelerator."""
        return {"memory": self.memory, "accelerator_memory": self.accelerator_memory}


def _resident_peak() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def versions() -> dict[str, str]:
    """Versions of Python and of what results depend on, and the commit if this is a checkout."""
    found = {"python": platform.python_version(), "dgr-trainer": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    command = ["git", "-C", os.fspath(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found["commit"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return found


def machine() -> dict[str, Any]:
    """Where the work was done, in general terms."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"system": platform.system(), "architecture": platform.machine(), "device": device,
            "threads": torch.get_num_threads()}  # fmt: skip
