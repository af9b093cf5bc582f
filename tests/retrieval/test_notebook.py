"""A real notebook: what a search shows in a cell."""

import pytest
from tiny_models import make_bart

from dgr_trainer import FMIndex, GenerativeRetriever, Identifiers, SearchSettings

CODE = """
from dgr_trainer import GenerativeRetriever
retriever = GenerativeRetriever.from_pretrained({folder!r})
retriever.search("who discovered penicillin", k=2)
"""


@pytest.mark.slow
def test_a_notebook_shows_hits_as_a_table(bpe_tokenizer, corpus, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    settings = SearchSettings(beam_size=3)
    retriever = GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, corpus=corpus, settings=settings)
    retriever.save_pretrained(tmp_path / "retriever")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(CODE.format(folder=str(tmp_path / "retriever")))]
    )
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
    (result,) = (output for output in notebook.cells[0].outputs if output.output_type == "execute_result")
    html = result.data["text/html"]
    assert html == retriever.search("who discovered penicillin", k=2)._repr_html_()
    assert html.count("<tr>") == 3 and "<mark" in html
    assert result.data["text/plain"].startswith("[[Hit(passage_id=")
