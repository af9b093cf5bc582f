"""Tries every architecture on small random models, and writes what was verified to docs/architectures.md.

    python scripts/verify_architectures.py            # writes the page; some minutes
    python scripts/verify_architectures.py bart t5    # prints the rows of some architectures

The models are those of the tests. What the library computes is compared with ordinary calls of the model, one
identifier at a time, in float32.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from architectures import (  # noqa: E402
    CAUSAL,
    CAUSAL_ROWS,
    PACKED,
    PLAIN,
    REFUSED,
    ROWS,
    as_batch,
    checkpoint_activations,
    make,
    ordinary_scores,
    random_identifiers,
    score_tokens,
    without_dropout,
)
from peft import LoraConfig, get_peft_model  # noqa: E402
from sample_corpus import PASSAGES, QUERIES  # noqa: E402
from tiny_models import TOKENIZERS  # noqa: E402

from dgr_trainer import (  # noqa: E402
    Corpus,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    IdentifierSettings,
    ScoringSettings,
    SearchSettings,
)
from dgr_trainer.retrieval.decoder import decoding_way  # noqa: E402
from dgr_trainer.student.probing import scoring_way  # noqa: E402
from dgr_trainer.student.token_scores import sum_by_identifier  # noqa: E402

PAGE = ROOT / "docs" / "architectures.md"
ARCHITECTURES = [*PACKED, *ROWS, *PLAIN, *REFUSED, *CAUSAL, *CAUSAL_ROWS]
COLUMNS = ("scored", "full", "LoRA", "checkpointing", "reentrant", "search", "saved")
YES = "yes"


def row(name: str) -> dict[str, str]:
    """What holds for an architecture, by column."""
    try:
        way = scoring_way(make(name))
    except ValueError:
        return {"scored": "refused"}
    return {
        "scored": {"packed": "packed", "rows": "one a row", "plain": "one a row, prompts repeated"}[way],
        "full": _tried(lambda: _trains(name, adapter=False)),
        "LoRA": _tried(lambda: _trains(name, adapter=True)),
        "checkpointing": _tried(lambda: _checkpoints(name, use_reentrant=False)),
        "reentrant": _tried(lambda: _checkpoints(name, use_reentrant=True)),
        "search": _tried(lambda: _searches(name)),
        "saved": _tried(lambda: _survives_saving(name)),
    }


def _trains(name: str, *, adapter: bool) -> str:
    """Scores and gradients are those of ordinary calls."""
    model = _model(name, adapter)
    sample = random_identifiers()
    expected = ordinary_scores(model, *sample)
    scores = _scores(model, sample)
    _assert_close(scores, expected)
    _assert_same(_gradients(model, scores), _gradients(model, expected))
    return YES


def _checkpoints(name: str, *, use_reentrant: bool) -> str:
    """Losses and gradients are those without activation checkpointing, for full training and LoRA."""
    for adapter in (False, True):
        model = without_dropout(_model(name, adapter))
        sample = random_identifiers()
        expected = _gradients(model, _scores(model, sample))
        try:
            checkpoint_activations(model, use_reentrant=use_reentrant)
        except ValueError:
            return "not offered by the model"
        _assert_same(_gradients(model, _scores(model, sample)), expected)
    return YES


def _searches(name: str) -> str:
    """A search with as many beams as docids gives all their log-likelihoods."""
    retriever = _retriever(name)
    identifiers, student = retriever.identifiers, retriever.model
    for query in list(QUERIES.values())[:3]:
        prompt = identifiers.encode_prompts([query], "docid")
        docids = [
            identifiers.target("docid", segments.docid) for segments in identifiers.encode_segments(list(PASSAGES))
        ]
        with torch.no_grad():
            scores = ordinary_scores(student, [docids], [[0] * len(docids)], [prompt])[0].tolist()
        expected = sorted(zip(scores, (passage.id for passage in PASSAGES), strict=True), reverse=True)[:5]
        hits = retriever.search(query, k=5)[0]
        assert [hit.passage_id for hit in hits] == [passage_id for _, passage_id in expected], "other passages"
        _assert_close(torch.tensor([hit.score for hit in hits]), torch.tensor([score for score, _ in expected]))
    return YES if decoding_way(student) != "reread" else "yes, without cache"


def _survives_saving(name: str) -> str:
    """A retriever that was saved and loaded finds the same."""
    retriever = _retriever(name)
    queries = list(QUERIES.values())[:5]
    with tempfile.TemporaryDirectory() as folder:
        retriever.save_pretrained(Path(folder) / "retriever")
        loaded = GenerativeRetriever.from_pretrained(Path(folder) / "retriever")
        found = [[(hit.passage_id, hit.score) for hit in hits] for hits in loaded.search(queries, k=5)]
        assert found == [[(hit.passage_id, hit.score) for hit in hits] for hits in retriever.search(queries, k=5)]
    return YES


def _model(name: str, adapter: bool) -> torch.nn.Module:
    model = make(name)
    if not adapter:
        return model
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.0)
    return get_peft_model(model, config).eval()


def _retriever(name: str) -> GenerativeRetriever:
    tokenizer = TOKENIZERS["bpe"]()
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=("docid",)))
    return GenerativeRetriever(
        make(name, vocab=len(tokenizer)),
        identifiers,
        FMIndex.from_corpus(Corpus.from_passages(PASSAGES), identifiers),
        settings=SearchSettings(beam_size=len(PASSAGES)),
        scoring=ScoringSettings(kind="log_likelihood"),
    )


def _scores(model: torch.nn.Module, sample: tuple) -> torch.Tensor:
    rows = as_batch(*sample)
    return sum_by_identifier(score_tokens(model, *rows).log_probabilities, rows[2]["segments"], 9)


def _gradients(model: torch.nn.Module, scores: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (scores * torch.linspace(-1, 1, scores.numel()).view_as(scores)).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def _assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    difference = float((actual - expected).abs().max())
    assert difference < 1e-4 * max(1.0, float(expected.abs().max())), f"scores off by {difference:.2g}"


def _assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert expected and actual.keys() >= expected.keys(), "gradients are missing"
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        difference = float((actual[name] - gradient).abs().max())
        assert difference < 1e-4 * scale, f"gradients off by {difference / scale:.2g}"


def _tried(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:
        return f"no: {type(error).__name__}: {_reason(error)}"


def _reason(error: Exception) -> str:
    """The first sentence of an error: what follows may list things in any order."""
    if not str(error).strip():
        return "no reason given"
    return re.split(r"\. (?=[A-Z])", str(error).strip().splitlines()[0])[0][:200].replace("|", "\\|")


def table(rows: dict[str, dict[str, str]]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| architecture | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, cells in rows.items():
        lines.append(f"| {name} | " + " | ".join(cells.get(column, "") for column in COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def main(names: list[str]) -> None:
    """Print the rows of the named architectures, or write the page with those of all."""
    rows = {}
    for name in names or ARCHITECTURES:
        rows[name] = row(name)
        print(name, rows[name], flush=True)
    if names:
        return
    before, marker, rest = PAGE.read_text(encoding="utf-8").partition("<!-- table -->\n")
    _, end, after = rest.partition("<!-- end of table -->")
    PAGE.write_text(before + marker + "\n" + table(rows) + "\n" + end + after, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
