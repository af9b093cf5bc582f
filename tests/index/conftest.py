import pytest

from dgr_trainer.index import query_dispatch


@pytest.fixture(scope="module", autouse=True)
def walks():
    """Indexes are walked, however small they are and however often they are asked (see test_unpacked_text)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query_dispatch, "MOST_TOKENS", 0)
        yield
