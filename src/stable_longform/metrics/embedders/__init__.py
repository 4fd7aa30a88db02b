"""Networks, and other fixed transforms, that turn audio or text into what the metrics compare.

Every embedder of audio has `name`, `sampling_rate` (Hz) and `num_channels` of the waveform it wants, is called with
such a float32 waveform `(num_channels, num_samples)` and returns `AudioFeatures`. `metrics` says which of "fd", "kl",
"tag_text" and "clap_score" they are for; "tag_text" needs the names of the classes, `tags`, and "clap_score" needs
`embed_text`. MiniLM embeds text alone: it has `embed_text` and no call. `protocol` describes the embedder, with the
hash of its weights, for the report. Optional dependencies of the package's evaluation are imported here only.
"""
