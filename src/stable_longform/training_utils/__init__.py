"""What the training scripts share, in plain functions of tensors, modules and numbers; the loops are in `training/`.

A run is a folder: `config.yaml` (the resolved configuration), `run.json` (versions, git commit, machine, what it
started from), `metrics.jsonl`, the newest `checkpoint-<step>/` and the exported models. To resume, run the same
command again.
"""
