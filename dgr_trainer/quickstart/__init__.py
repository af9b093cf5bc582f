"""A retriever of the Python standard library, from corpus to distilled student: what `dgr quickstart` runs."""

NAME = "The quickstart of dgr-trainer"
"""The name in its record, by which `dgr quickstart` knows the folder of an earlier one."""
