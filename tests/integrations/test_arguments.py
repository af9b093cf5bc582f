"""What all adapters refuse, and what they say when their package is missing."""

import importlib
import sys

import pytest

import dgr_trainer.integrations as integrations
from dgr_trainer.errors import MissingPackageError

MODULES = {
    "langchain_retriever": ("langchain", "langchain_core", "langchain-core"),
    "llama_index_retriever": ("llama_index", "llama_index", "llama-index-core"),
    "mteb_model": ("mteb", "mteb", "mteb"),
    "pyterrier_transformer": ("pyterrier", "pyterrier", "pyterrier"),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_missing_package_is_named(name, retriever, monkeypatch):
    home, module, package = MODULES[name]
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    adapter = importlib.import_module(f"dgr_trainer.integrations.{home}")
    (made,) = (getattr(adapter, of) for of in vars(adapter) if of.endswith("_class"))
    made.cache_clear()
    with pytest.raises(MissingPackageError, match=f"{name} needs {package}: pip install {package}"):
        getattr(integrations, name)(retriever)
    made.cache_clear()


@pytest.mark.parametrize("name", MODULES)
def test_only_retrievers_are_adapted(name):
    with pytest.raises(TypeError, match="retriever is a str. Give a GenerativeRetriever"):
        getattr(integrations, name)("me/my-retriever")


@pytest.mark.parametrize("k", [0, True, 2.5])
@pytest.mark.parametrize("name", [name for name in MODULES if name != "mteb_model"])
def test_k_is_a_count(name, retriever, k):
    with pytest.raises(ValueError, match="k is .*an integer of 1 or more"):
        getattr(integrations, name)(retriever, k=k)


def test_every_name_is_there():
    assert integrations.__all__ == sorted(MODULES)
    with pytest.raises(AttributeError, match="no attribute 'haystack'"):
        integrations.haystack  # noqa: B018
