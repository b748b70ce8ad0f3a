"""What is counted, compared and drawn."""
