"""A `java` that is a Python script: answers `-version`, and indexes and searches as Anserini does, by word overlap."""

import sys
from pathlib import Path

PROGRAM = """#!{python}
import json, os, re, sys, time
from pathlib import Path

log = Path({log!r})
if sys.argv[1:] == ["-version"]:
    print({version!r}, file=sys.stderr)
    sys.exit({status})
with open(log, "a") as file:
    file.write(json.dumps({{"pid": os.getpid(), "arguments": sys.argv[1:]}}) + "\\n")
mode = {mode!r}
arguments = sys.argv[5:]
option = lambda name: arguments[arguments.index(name) + 1]
words = lambda text: set(re.findall(r"\\w+", text.lower()))
if mode == "sleep":
    Path(option("-index"), "_0.fdt").write_text("half of an index")
    log.with_suffix(".started").touch()
    time.sleep(60)
if mode == "fail":
    print("first line of the log")
    print("java.lang.IllegalStateException: the disk is full")
    sys.exit(3)
if mode == "memory":
    print("java.lang.OutOfMemoryError: Java heap space")
    sys.exit(3)
if mode == "offline":
    print("Failed to fetch prebuilt index metadata from https://api.github.com")
    sys.exit(1)
if mode == "trace":
    print("IndexSearcher$TooManyClauses: maxClauseCount is set to 1024")
    print("\\tat org.apache.lucene.search.BooleanQuery$Builder.add(BooleanQuery.java:115)")
if sys.argv[4].endswith("IndexCollection"):
    rows = [line for part in sorted(Path(option("-input")).iterdir()) for line in open(part, encoding="utf-8")]
    Path(option("-index"), "segments_1").write_text("".join(rows), encoding="utf-8")
    print("errors:", "1" if mode == "errors" else "0")
elif mode != "silent":
    passages = [json.loads(line) for line in open(Path(option("-index"), "segments_1"), encoding="utf-8")]
    with open(option("-output"), "w", encoding="utf-8") as run:
        for line in open(option("-topics"), encoding="utf-8", newline=""):
            number, query = line.rstrip("\\n").split("\\t")
            found = [(len(words(query) & words(p["contents"])), p["id"]) for p in passages]
            found = sorted((hit for hit in found if hit[0]), key=lambda hit: (-hit[0], hit[1]))
            for rank, (score, id) in enumerate(found[: int(option("-hits"))], 1):
                run.write(f"{{number}} Q0 {{id}} {{rank}} {{score}}.000000 Anserini\\n")
"""


def make_java(folder: Path, version: str = 'openjdk version "21.0.8" 2025-07-15 LTS', mode: str = "", status: int = 0):
    """Writes bin/java into the folder; returns the path of the log of its calls."""
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    log = folder / "calls.jsonl"
    text = PROGRAM.format(python=sys.executable, version=version, mode=mode, status=status, log=str(log))
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return log
