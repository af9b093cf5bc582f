"""The image of the Dockerfile: what it copies is there, and what it runs is a command that this library has."""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from dgr_trainer.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile"


@pytest.fixture(scope="module")
def stages():
    """The instructions of each stage: name and arguments, with continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    found = []
    for line in joined:
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, arguments.strip()))
    return found


def test_only_what_is_there_and_not_ignored_is_copied(stages):
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert patterns[0] == "*"  # Everything is left out but what is named.
    for stage in stages:
        for name, arguments in stage:
            if name == "COPY" and "--from=" not in arguments:
                for source in shlex.split(arguments)[:-1]:
                    assert (ROOT / source).exists(), source
                    assert any(fnmatch(source, pattern[1:]) for pattern in patterns if pattern[0] == "!"), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    copied = " ".join(arguments for name, arguments in stages[0] if name == "COPY")
    assert all(file in copied for file in (project["readme"], *project["license-files"]))


def test_the_image_runs_a_user_without_rights_and_reports_its_health(stages):
    last = dict(stages[-1])
    assert last["USER"].isdigit() and last["USER"] != "0"
    check = json.loads(last["HEALTHCHECK"].split("CMD ", 1)[1])
    (url,) = re.findall(r"'(http://[^']+)'", check[-1])
    assert url == f"http://127.0.0.1:{last['EXPOSE']}/healthz"
    compile(check[-1], "healthcheck", "exec")


def test_the_image_runs_dgr(stages):
    last = dict(stages[-1])
    assert json.loads(last["ENTRYPOINT"]) == ["dgr"]
    command, *arguments = json.loads(last["CMD"])
    assert arguments == ["/retriever", "--host", "0.0.0.0"]
    if command not in COMMANDS:
        pytest.skip(f"needs dgr {command}")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installs = " ".join(arguments for name, arguments in stages[-1] if name == "RUN")
    (extra,) = re.findall(r"dgr-trainer\[(\w+)\]", installs)
    assert extra in extras


def test_hadolint_has_nothing_to_say():
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
