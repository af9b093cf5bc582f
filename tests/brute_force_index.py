"""What an index has to answer, by looking at every place of every passage."""

from collections import Counter


class BruteForce:
    def __init__(self, sequences, separator):
        self.passages = [[separator, *sequence, separator] for sequence in sequences]
        self.separator = separator

    def occurrences(self, pattern):
        """(passage, offset) of a pattern; the separator before a passage is at -1, and alone counts where one ends."""
        size = len(pattern)
        return [
            (number, start - 1)
            for number, passage in enumerate(self.passages)
            for start in range(1 if size < 2 else 0, len(passage) - size + 1)
            if passage[start : start + size] == list(pattern)
        ]

    def continuations(self, pattern):
        """What follows a pattern; no pattern but the separator itself is gone on with past a separator."""
        if list(pattern) == [self.separator]:
            return Counter(passage[1] for passage in self.passages)
        return Counter(
            self.passages[number][offset + 1 + len(pattern)] for number, offset in self.occurrences(pattern)
        )


def has_continuations(pattern, separator):
    return len(pattern) < 2 or pattern[-1] != separator
