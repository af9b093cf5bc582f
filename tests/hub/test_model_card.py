"""Cards: metadata that the Hub reads, and text of others that stays."""

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer.hub.measurements import Measurement, Measurements, read_measurements
from dgr_trainer.hub.model_card import CardFacts, license_of, needed_license, write_card

FACTS = CardFacts("me/x", "A retriever.", "print(1)", license="mit")
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=40)


@settings(max_examples=20)
@given(TEXT, TEXT)
def test_text_around_what_was_written_is_kept(before, after):
    card = ModelCard(write_card(FACTS))
    own = f"---\nlicense: mit\nmine: 3\n---\n\n{before}\n\n{card.text.strip()}\n\n{after}\n"
    again = write_card(CardFacts("me/x", "Another one.", "print(2)"), own)
    expected = f"{before}\n\n{card.text.strip()}\n\n{after}".replace("A retriever.", "Another one.")
    assert ModelCard(again).text.strip() == expected.replace("print(1)", "print(2)").strip()
    assert ModelCard(again).data.to_dict()["mine"] == 3 and license_of(again) == "mit"
    assert write_card(CardFacts("me/x", "Another one.", "print(2)"), again) == again


def test_a_card_of_somebody_else_gets_metadata_only():
    card = ModelCard(write_card(FACTS, "---\ntags: [theirs]\n---\n# Theirs\n"))
    assert card.text.strip() == "# Theirs"
    assert "theirs" in card.data.tags and card.data.library_name == "dgr-trainer" and card.data.license == "mit"
    assert ModelCard(write_card(FACTS, "No metadata.")).text.strip() == "No metadata."


def test_results_are_those_of_the_weights():
    results = [Measurements("nq", (Measurement("mrr | x", 0.5, 0.4, 0.6),), 7, 0.9)]
    adapter = CardFacts(
        "me/x",
        "One.",
        "print(1)",
        license="mit",
        measured=results,
        base_model="me/base",
        adapter=True,
        datasets=["nq"],
    )
    first = write_card(adapter)
    assert ModelCard(first).data.to_dict()["base_model_relation"] == "adapter"
    assert "| mrr \\| x | 0.5000 | 0.4000 to 0.6000 |" in first
    assert "On nq, 7 queries; bootstrap intervals of the mean, 90%" in first
    assert [result.metric_value for result in ModelCard(first).data.eval_results] == [0.5]
    without = ModelCard(write_card(FACTS, first)).data.to_dict()  # Of other weights, which nobody measured.
    assert without.keys().isdisjoint(["model-index", "metrics", "base_model_relation"]) and without["datasets"] == [
        "nq"
    ]
    other = [Measurements("nq", (Measurement("mrr", 0.75),))]
    second = write_card(CardFacts("me/x", "One.", "print(1)", measured=other), first)
    assert [result.metric_value for result in ModelCard(second).data.eval_results] == [0.75]


def test_metadata_that_cannot_be_read():
    with pytest.raises(ValueError, match="The metadata at the head of README.md cannot be read"):
        needed_license(None, "---\nlicense: [mit\n---\ntext")


def test_files_of_metrics(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text("{")
    with pytest.raises(ValueError, match="metrics.json is not the JSON of metrics"):
        read_measurements(file, "nq")
    file.write_text('{"mrr": "high"}')
    with pytest.raises(ValueError, match="metrics.json: mrr is 'high'. A metric is a finite number"):
        read_measurements(file, "nq")
    with pytest.raises(FileNotFoundError):
        read_measurements(tmp_path / "none.json", "nq")
