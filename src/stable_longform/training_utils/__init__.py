"""Code that the training scripts share, as plain functions of tensors, modules and numbers. The loops are in
`training/`.

A run is a folder: `config.yaml` (the resolved configuration), `run.json` (versions, git commit, machine, the models it
started from), `metrics.jsonl`, the newest `checkpoint-<step>/` and the exported models. To resume, run the same
command again.
"""
