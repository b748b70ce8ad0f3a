"""What a language model behind a server writes, and whether it can be believed."""
