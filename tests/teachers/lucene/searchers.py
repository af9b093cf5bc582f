"""Searchers that the tests let run in processes of their own."""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace


class WordSearcher:
    """Finds passages by the number of common words, as a searcher of Pyserini would: hits with docid and score."""

    def __init__(self, texts, crash_on=None, prints="", pid_file=None):
        sys.stdout.write(f"{prints}\n")
        self.texts, self.crash_on = texts, crash_on
        if pid_file:
            Path(pid_file).write_text(str(os.getpid()))

    def search(self, query, k=10):
        sys.stdout.write(f"searching for {query}\n")
        if query == self.crash_on:
            os.kill(os.getpid(), signal.SIGKILL)
        if query == "wait":
            time.sleep(60)
        if query == "raise":
            raise KeyError("no such field")
        words = set(query.split())
        hits = [
            SimpleNamespace(docid=id, score=len(words & set(text.split())) - 0.5) for id, text in self.texts.items()
        ]
        return sorted((hit for hit in hits if hit.score > 0), key=lambda hit: -hit.score)[:k]

    @classmethod
    def of_one(cls, id):
        return cls({id: "piano keys"})


def nothing():
    return None
