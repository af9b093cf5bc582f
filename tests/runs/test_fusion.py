import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.runs.fusion import reciprocal_rank_fusion, score_fusion
from dgr_trainer.runs.rankings import Rankings

LISTS = st.dictionaries(
    st.sampled_from("qr"), st.dictionaries(st.sampled_from("abcde"), st.floats(-1e300, 1e300)), max_size=2
)


def test_fusion_by_rank():
    first = Rankings({"q": {"a": 9.0, "b": 1.0}, "r": {"a": 1.0}})
    second = Rankings({"q": {"b": 0.2, "c": 0.1}})
    fused = reciprocal_rank_fusion([first, second], name="fused")
    assert fused["q"].passage_ids == ("b", "a", "c") and fused.name == "fused"
    assert fused["q"].scores.tolist() == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])
    assert fused["r"].passage_ids == ("a",)
    assert reciprocal_rank_fusion([second, first]) == fused
    weighted = reciprocal_rank_fusion([first, second], weights=[2, 0], constant=0)
    assert weighted.to_run()["q"] == {"a": 2.0, "b": 1.0, "c": 0.0}


def test_fusion_errors():
    run = Rankings({"q": {"a": 1.0}})
    with pytest.raises(ValueError, match="no rankings to fuse"):
        reciprocal_rank_fusion([])
    with pytest.raises(ValueError, match=r"weights is \[1.0\], but 2 runs"):
        reciprocal_rank_fusion([run, run], weights=[1.0])
    with pytest.raises(ValueError, match=r"weights is \[-1\]"):
        reciprocal_rank_fusion([run], weights=[-1])
    with pytest.raises(ValueError, match="constant is -1"):
        reciprocal_rank_fusion([run], constant=-1)


def test_fusion_by_min_max_scores():
    first = Rankings({"q": {"a": 12.0, "b": 8.0, "c": 4.0}, "r": {"a": 1.0, "b": 1.0}})
    second = Rankings({"q": {"b": 0.9, "d": 0.1}})
    fused = score_fusion([first, second], name="fused")
    assert fused.to_run() == {"q": {"b": 1.5, "a": 1.0, "d": 0.0, "c": 0.0}, "r": {"a": 1.0, "b": 1.0}}
    assert fused.name == "fused" and score_fusion([second, first]) == fused
    assert score_fusion([first, second], weights=[3, 1])["q"].passage_ids == ("a", "b", "d", "c")


def test_fusion_by_z_scores_gives_a_missing_passage_the_lowest():
    first = Rankings({"q": {"a": 3.0, "b": 2.0, "c": 1.0}})
    second = Rankings({"q": {"c": 20.0, "a": 10.0}})
    deviation = math.sqrt(2 / 3)
    fused = score_fusion([first, second], normalisation="z-score").to_run()["q"]
    assert fused == pytest.approx({"a": 1 / deviation - 1, "b": -1.0, "c": 1 - 1 / deviation})
    equal = Rankings({"q": {"a": 5.0, "b": 5.0}})
    assert score_fusion([equal], normalisation="z-score").to_run() == {"q": {"a": 0.0, "b": 0.0}}


def test_fusion_of_scores_as_they_are():
    runs = [Rankings({"q": {"a": 3.0, "b": 1.0}}), Rankings({"q": {"b": 0.25, "c": 0.5}})]
    assert score_fusion(runs, normalisation="none").to_run() == {"q": {"a": 3.25, "c": 1.5, "b": 1.25}}


@given(st.lists(LISTS, min_size=1, max_size=3), st.sampled_from(["min-max", "z-score"]))
def test_the_order_of_runs_does_not_matter_and_scores_are_finite(lists, normalisation):
    runs = [Rankings(of) for of in lists]
    fused = score_fusion(runs, normalisation=normalisation)
    assert score_fusion(runs[::-1], normalisation=normalisation) == fused
    assert {q: set(of.passage_ids) for q, of in fused.items()} == {
        q: {id for run in lists for id in run.get(q, {})} for run in lists for q in run
    }


def test_a_single_run_keeps_its_order():
    run = Rankings({"q": {"a": -1e308, "b": 1e308, "c": 0.0}})
    for normalisation in ("min-max", "z-score", "none"):
        assert score_fusion([run], normalisation=normalisation)["q"].passage_ids == ("b", "c", "a")


def test_unknown_normalisations_are_refused():
    with pytest.raises(ValueError, match="no normalisation 'softmax'. There are min-max, z-score, none"):
        score_fusion([Rankings({"q": {"a": 1.0}})], normalisation="softmax")
