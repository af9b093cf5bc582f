"""The launch configurations of examples/configs, as accelerate reads them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "examples" / "configs").glob("*.yaml"))


def launch_arguments(config: Path):
    parsed = launch_command_parser().parse_args(["--config_file", str(config), "script.py"])
    return _validate_launch_command(parsed)[0]  # Raises on keys it does not know.


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_accelerate_understands_it(config):
    arguments = launch_arguments(config)
    assert f"--config_file examples/configs/{config.name}" in config.read_text(encoding="utf-8")
    assert arguments.mixed_precision == "bf16" and arguments.num_processes == 8


def test_what_they_choose():
    arguments = {config.stem: launch_arguments(config) for config in CONFIGS}
    assert set(arguments) == {"ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"}
    assert arguments["ddp"].multi_gpu
    assert arguments["fsdp2"].use_fsdp and int(arguments["fsdp2"].fsdp_version) == 2
    for stage in (2, 3):
        chosen = arguments[f"deepspeed_zero{stage}"]
        assert chosen.use_deepspeed and int(chosen.zero_stage) == stage


@pytest.mark.slow
def test_an_example_runs_in_two_processes(tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2",
        "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0",
        ROOT / "examples" / "swap_seq2seq_trainer.py", "--output_dir", tmp_path / "out", "--epochs", "1",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert done.stdout.count(" train questions: hits@1") == 2  # Each process prints its metrics.
