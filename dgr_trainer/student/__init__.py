"""Everything that asks a model for a probability."""
