"""Web pages and small corpora."""
