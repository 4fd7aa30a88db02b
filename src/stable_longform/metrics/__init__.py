"""Pure functions of embeddings, probabilities and waveforms; the networks that make them are in `embedders`."""
