"""Runs the blocks of a page: Python blocks share their names, as in one session; each shell block has a new shell.

    python page_runner.py BLOCKS.json

A block of `dgr` commands alone needs no shell: each is forked from a process that has imported torch, transformers and
the library, and nothing else, which saves what the imports of a new process take.
"""

import json
import multiprocessing
import os
import shlex
import subprocess
import sys

PRELOADED = [
    "transformers.models.bart.modeling_bart",
    "transformers.models.qwen3.modeling_qwen3",
    "dgr_trainer.cli.main",
    "dgr_trainer.retrieval.retriever",
    "dgr_trainer.training.trainer",
]
SHELL = set("|&;<>()$`*?[]~#")


def commands(code):
    """The arguments of each command of a shell block, or `None` if it has more than commands of `dgr`."""
    lines = code.replace("\\\n", " ").splitlines()
    if not all(line.startswith("dgr ") for line in lines if line.strip()):
        return None
    bare = "".join(part for line in lines for part in line.split('"')[::2])
    if SHELL & set(bare) or "'" in code or "$" in code:
        return None
    return [shlex.split(line)[1:] for line in lines if line.strip()]


def dgr(arguments):
    from dgr_trainer.cli.main import main

    sys.argv = ["dgr", *arguments]
    code = main()
    sys.stdout.flush()
    sys.exit(code)


def run(blocks):
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload(PRELOADED)
    names = {"__name__": "__main__"}
    for language, code in blocks:
        sys.stdout.write(code)
        sys.stdout.flush()
        if language.startswith("file: "):
            with open(language.removeprefix("file: "), "w", encoding="utf-8") as file:
                file.write(code)
        elif language == "python":
            exec(compile(code, "<block>", "exec"), names)
        elif (of_dgr := commands(code)) is not None:
            for arguments in of_dgr:
                process = forked.Process(target=dgr, args=(arguments,))
                process.start()
                process.join()
                if process.exitcode:
                    raise SystemExit(f"{shlex.join(['dgr', *arguments])}: exit code {process.exitcode}")
        else:
            subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # Modules that a page writes are found, as in a session there.
    with open(sys.argv[1], encoding="utf-8") as opened:
        run(json.load(opened))
