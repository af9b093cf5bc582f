"""The HTTP server of `dgr serve`: an API to search with, and a page. Needs the extra `serve`."""
