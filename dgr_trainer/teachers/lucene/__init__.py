"""Teachers that run Lucene through Pyserini and Anserini, with Java in separate processes."""
