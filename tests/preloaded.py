"""What scripts would do first, done once in the process that they are forked from, see `launch.py`."""

import librosa.filters  # noqa: F401
from transformers import conversion_mapping

# transformers compiles a thousand patterns when it opens its first checkpoint.
conversion_mapping.get_checkpoint_conversion_mapping("clap")
