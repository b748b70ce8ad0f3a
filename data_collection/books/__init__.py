"""Textbooks, page by page."""
