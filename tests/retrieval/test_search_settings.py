import json

import pytest

from dgr_trainer.errors import DGRValueError
from dgr_trainer.retrieval.settings import SearchSettings, read_settings


def test_settings_survive_json():
    settings = SearchSettings(beam_size=3, unigrams=0, query_ngrams=False)
    assert SearchSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_length_is_that_of_the_view():
    settings = SearchSettings(substring_length=1, title_length=2, pseudo_query_length=3, docid_length=4)
    assert [settings.length(view) for view in ("substring", "title", "pseudo_query", "docid")] == [1, 2, 3, 4]


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_numbers_that_mean_nothing_are_refused(value):
    with pytest.raises(ValueError, match=r"beam_size=.* must be a whole number of at least 1"):
        SearchSettings(beam_size=value)


def test_unigrams_may_be_zero_but_not_less():
    with pytest.raises(ValueError, match=r"unigrams=-1 must be a whole number of at least 0"):
        SearchSettings(unigrams=-1)


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match="Unknown search settings: beams"):
        SearchSettings.from_dict({"beams": 3})


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"{"])
def test_a_file_that_is_no_json_holds_no_settings(tmp_path, content):
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(DGRValueError, match=r"settings\.json holds no settings: "):
        read_settings(tmp_path / "settings.json")
