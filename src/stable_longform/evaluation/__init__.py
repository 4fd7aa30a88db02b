"""From folders of audio to tables: the metrics of the paper's Tables 1, 2, 3 and 5, for any model, on CPU or GPU."""
