"""Networks and other fixed transforms that turn audio or text into the features that the metrics compare.

Every embedder of audio has a `name`, and the `sampling_rate` (Hz) and `num_channels` of its input. It is called with a
float32 waveform `(num_channels, num_samples)` and returns `AudioFeatures`. `metrics` lists which of "fd", "kl",
"tag_text" and "clap_score" it supports; "tag_text" needs the names of the classes, `tags`, and "clap_score" needs
`embed_text`. MiniLM only embeds text: it has `embed_text` and cannot be called. `protocol` describes the embedder for
the report, with the hash of its weights. Optional dependencies of the evaluation are only imported here.
"""
