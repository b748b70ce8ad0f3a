"""Questions: their schema, their readers, reading an answer out of a text, and whether it is right. No torch."""
