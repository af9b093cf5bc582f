"""Words that say little about a passage, in any language."""

import string
from collections import Counter
from collections.abc import Sequence

from dgr_trainer.data.passages import Passage
from dgr_trainer.identifiers import Identifiers

_ENGLISH = frozenset(
    "a about after all also an and any are as at be because been before being between both but by can could did do "
    "does for from had has have he her his how i if in into is it its may more most must no not of on one only or "
    "other our out over she should so some such than that the their them then there these they this those to under "
    "up was we were what when where which while who whom why will with would you your".split()
)
# Share of an English text that these words are, at least; they are 35 to 50 percent of most.
_SHARE_IN_ENGLISH = 0.15
# Share of the passages that hold a word which says little about any of them, and their least number.
_FREQUENT = 0.25
_LEAST = 3
_SAMPLED = 2000
_PUNCTUATION = string.punctuation + "。、，．！？；：「」『』（）《》〈〉【】・…«»“”„‘’¿¡،؛؟।॥๏ฯ"


class StopWords:
    """The stop words of a corpus: a list if it is in English, else the words that many of its passages hold.

    Args:
        passages (`Sequence[Passage]`): The passages, of which up to 2,000 at even distances are looked at.
        identifiers ([`Identifiers`]): Divides texts into words.
    """

    def __init__(self, passages: Sequence[Passage], identifiers: Identifiers) -> None:
        step = max(1, -(-len(passages) // _SAMPLED))
        number_of_passages, total, english = 0, 0, 0
        frequencies: Counter[str] = Counter()
        for number in range(0, len(passages), step):
            words = identifiers.split_words(passages[number].text)
            texts = [_plain(words.piece(word, 1)) for word in range(len(words.spans))]
            number_of_passages += bool(texts)
            total += len(texts)
            english += sum(text in _ENGLISH for text in texts)
            frequencies.update(set(texts))
        self._words = None
        if total and english < _SHARE_IN_ENGLISH * total:
            least = max(_LEAST, _FREQUENT * number_of_passages)
            self._words = frozenset(word for word, count in frequencies.items() if count >= least)

    def __contains__(self, word: str) -> bool:
        """Whether a word is a stop word, in any case."""
        return word.lower() in _ENGLISH if self._words is None else _plain(word) in self._words


def _plain(word: str) -> str:
    return word.lower().strip(_PUNCTUATION)
