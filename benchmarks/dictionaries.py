"""Makes a corpus of real English text for benchmarks: entries of Debian's dictionaries as titled passages.

    apt-get download dict-gcide dict-wn dict-foldoc dict-jargon
    for package in *.deb; do dpkg-deb -x "$package" unpacked; done
    python benchmarks/dictionaries.py unpacked/usr/share/dictd corpus.jsonl

Passages have at most 100 words, their headword as title and their first eight words as pseudo-query: about 24 million
BART tokens.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

LONGEST = 100
_DIGITS = {sign: value for value, sign in enumerate(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
)}  # fmt: skip


def entries(folder: Path) -> Iterator[tuple[str, str]]:
    """Headwords and texts of dictionaries in dictd's format; a text with several headwords gets the first."""
    for index in sorted(folder.glob("*.index")):
        text = gzip.decompress(index.with_suffix(".dict.dz").read_bytes())
        seen = set()
        for line in index.read_text(encoding="utf-8").splitlines():
            headword, start, length = line.split("\t")[:3]
            span = _number(start), _number(length)
            if headword.startswith("00-database") or span in seen:
                continue
            seen.add(span)
            yield headword, text[span[0] : sum(span)].decode("utf-8", errors="replace")


def passages(folder: Path) -> Iterator[dict[str, object]]:
    """Passages as JSON objects."""
    number = 0
    for headword, text in entries(folder):
        words = text.split()
        for start in range(0, len(words), LONGEST):
            part = words[start : start + LONGEST]
            yield {
                "id": f"d{number:07}", "title": headword, "text": " ".join(part),
                "pseudo_queries": [" ".join(part[:8])],
            }  # fmt: skip
            number += 1


def _number(digits: str) -> int:
    value = 0
    for sign in digits:
        value = 64 * value + _DIGITS[sign]
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Folder of NAME.index and NAME.dict.dz.")
    parser.add_argument("output", type=Path, help="JSON Lines to write.")
    options = parser.parse_args()
    if not list(options.folder.glob("*.index")):
        parser.error(f"{options.folder} holds no dictionary (NAME.index and NAME.dict.dz).")
    written = 0
    with options.output.open("w", encoding="utf-8") as file:
        for record in passages(options.folder):
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            written += 1
    print(f"{written} passages: {options.output}")


if __name__ == "__main__":
    main()
