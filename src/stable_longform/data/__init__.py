"""Manifests, prompts and datasets."""
