"""Rationales checked by people."""
