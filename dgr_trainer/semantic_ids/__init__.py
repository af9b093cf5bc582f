"""Semantic ids: docids made of codes that are learnt from the vectors of passages.

`vectors` opens and checks vectors; `quantizers` turns them into paths of codes, with the k-means of `clustering`;
`ids` has [`SemanticIds`], which numbers passages of one path and writes docids; `tokens` adds the codes to a tokenizer
and a model; `statistics` measures the codes; `storage` keeps them.
"""

from dgr_trainer.semantic_ids.ids import SemanticIds
from dgr_trainer.semantic_ids.statistics import SemanticIdStatistics

__all__ = ["SemanticIdStatistics", "SemanticIds"]
