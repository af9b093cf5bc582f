"""Teachers that run Lucene: Pyserini and Anserini, with Java in processes of their own."""
