"""Helpers without knowledge of models: audio and other files, pictures, options, checks."""
