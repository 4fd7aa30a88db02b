"""Pure functions of embeddings, probabilities and waveforms; the networks that compute these are in `embedders`."""
