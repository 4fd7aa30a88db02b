"""Analyses of music beyond scores: its structure, memorization, and listening tests."""
