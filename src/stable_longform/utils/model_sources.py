"""Where models come from: a folder or the Hub. Opens transformers' models and checks that no weights are missing."""

import os
import re
from pathlib import Path
from typing import TypeVar

from transformers import AutoConfig, PreTrainedModel

from stable_longform.utils.text_files import list_some

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")

ModelT = TypeVar("ModelT", bound=PreTrainedModel)


def check_source(source: str | os.PathLike) -> None:
    """Raises a ValueError if a source is neither an existing folder or file nor a possible Hub id."""
    if not Path(source).exists() and not HUB_ID.fullmatch(str(source)):
        raise ValueError(f"{source} does not exist, and it is not a Hub id.")


def load_whole(model_class: type[ModelT], source: str | os.PathLike) -> ModelT:
    """Opens a model of transformers in evaluation mode. transformers itself gives missing weights random values.

    Raises:
        ValueError: there is no such folder or Hub id, it holds another kind of model, or lacks weights.
        OSError: the Hub has no such repository, or a file is missing.
    """
    check_source(source)
    kind = AutoConfig.from_pretrained(source).model_type
    if kind != model_class.config_class.model_type:
        raise ValueError(f"{source} is a {kind}, not a {model_class.__name__}.")
    model, info = model_class.from_pretrained(source, output_loading_info=True)
    # Constants, such as position_ids, need not be in the file.
    constants = {name for name, tensor in model.state_dict().items() if not tensor.is_floating_point()}
    missing = sorted(set(info["missing_keys"]) - constants)
    if missing:
        raise ValueError(f"{source} lacks weights of a {model_class.__name__}: {list_some(missing)}.")
    return model.eval()
