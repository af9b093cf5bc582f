"""The FM-index over a tokenised corpus."""

from dgr_trainer.index.fm_index import FMIndex

__all__ = ["FMIndex"]
