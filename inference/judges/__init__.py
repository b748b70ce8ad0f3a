"""Rationales judged by people and models."""
