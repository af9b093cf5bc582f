"""The public faces of the packages `data` and `runs`."""

import importlib

import pytest


@pytest.mark.parametrize("package", ["dgr_trainer.data", "dgr_trainer.runs"])
def test_every_public_name_is_found_and_documented(package):
    face = importlib.import_module(package)
    for name in face.__all__:
        value = getattr(face, name)
        if name != "Qrels":  # An alias of a type.
            assert value.__name__ == name and value.__doc__, name
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        face.nothing  # noqa: B018
