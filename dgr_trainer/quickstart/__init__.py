"""A retriever of the Python standard library, from corpus to distilled student: what `dgr quickstart` runs."""
