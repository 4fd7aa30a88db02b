"""Folders of audio to tables: what the paper's Tables 1, 2, 3 and 5 report, on any model, on CPU or GPU."""
