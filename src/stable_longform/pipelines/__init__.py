"""Pipelines from a prompt to a waveform."""
