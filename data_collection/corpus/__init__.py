"""Documents, the shards they are kept in, the jobs over them, and the report of a corpus."""
