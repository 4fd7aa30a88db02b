"""Opens models and checks the configuration and the weights against the class.

diffusers itself accepts the weights of another model and leaves missing parameters uninitialised.
"""

import contextlib
import logging
import numbers
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME, _add_variant
from safetensors import SafetensorError, safe_open

from stable_longform.utils.model_sources import check_source
from stable_longform.utils.portable_config import PortableConfigMixin
from stable_longform.utils.text_files import list_some, parse_json_object, read_text

INTEGERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")  # types in safetensors

# When a model's dtype changes, diffusers warns about modules that should stay in float32 even if there are none.
logging.getLogger("diffusers.models.modeling_utils").addFilter(
    lambda record: "should be kept in float32: []" not in record.getMessage()
)


class ConfigurationError(ValueError):
    """The configuration is not valid for its class."""


class CheckedModelMixin(PortableConfigMixin):
    """Adds a `from_pretrained` to a diffusers model that raises a ValueError if files don't fit its class."""

    _class_names_of_diffusers: tuple[str, ...] = ()  # classes whose configurations are accepted

    @classmethod
    def from_config(cls, config, **kwargs):
        """As in diffusers.

        Raises:
            ValueError: the configuration is of another class, or the constructor rejects a value.
        """
        if isinstance(config, Mapping):
            name, accepted = config.get("_class_name"), (cls.__name__, *cls._class_names_of_diffusers)
            if name is not None and name not in accepted:
                raise ConfigurationError(f"_class_name must be {' or '.join(accepted)}, got {name!r}.")
        try:
            return super().from_config(config, **kwargs)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As in diffusers, in float32 unless `torch_dtype` says otherwise.

        Raises:
            ValueError: there is no such folder or Hub id, or a folder without weights; a field is invalid, or tensors
                are missing, unknown or of another shape. The message names the file and the field, or the tensors.
        """
        check_source(pretrained_model_name_or_path)
        with_info = kwargs.pop("output_loading_info", False)
        folder = Path(str(pretrained_model_name_or_path), kwargs.get("subfolder") or "")
        file = folder / cls.config_name
        if file.is_file():
            parse_json_object(read_text(file), str(file))
            files = [path for path in folder.glob("diffusion_pytorch_model*") if path.is_file()]
            if not files:
                name = _add_variant(SAFETENSORS_WEIGHTS_NAME, kwargs.get("variant"))
                raise ValueError(f"{folder} has no {name}, which holds the weights.")
            for index in (path for path in files if path.name.endswith(".index.json")):
                if not isinstance(parse_json_object(read_text(index), str(index)).get("weight_map"), dict):
                    raise ValueError(f"{index}: weight_map must map the names of the tensors to files.")
        try:
            with _default_dtype(torch.float32):
                model, info = super().from_pretrained(
                    pretrained_model_name_or_path, output_loading_info=True, **kwargs
                )
        except ConfigurationError as error:
            raise ConfigurationError(f"{file}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        problems = [f"missing {key}" for key in info.get("missing_keys", ())]
        problems += [f"unexpected {key}" for key in info.get("unexpected_keys", ())]
        if "quantization_config" not in model.config:
            problems += _integer_weights(folder, model)
        if problems:
            raise ValueError(f"The weights in {folder} don't fit {cls.__name__}: {list_some(problems)}.")
        return (model, info) if with_info else model


def check_integers(config: Mapping, *names: str, low: int = 1, high: int = 2**16) -> None:
    """Raises a ValueError unless the named fields are integers in [`low`, `high`]."""
    for name in names:
        if not _is_integer(config[name]) or not low <= config[name] <= high:
            raise ValueError(f"{name} must be an integer in [{low}, {high}], got {config[name]!r}.")


def check_integer_lists(config: Mapping, *names: str, low: int = 1, high: int = 2**16) -> None:
    """Raises a ValueError unless the named fields are lists of integers in [`low`, `high`], not empty."""
    for name in names:
        entries = config[name] if isinstance(config[name], Sequence) else ()
        if not entries or not all(_is_integer(entry) and low <= entry <= high for entry in entries):
            raise ValueError(f"{name} must be a list of integers in [{low}, {high}], got {config[name]!r}.")


def check_numbers(config: Mapping, *names: str, low: float, high: float) -> None:
    """Raises a ValueError unless the named fields are numbers in [`low`, `high`]; NaN is not."""
    for name in names:
        value = config[name]
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}.")


def check_booleans(config: Mapping, *names: str) -> None:
    """Raises a ValueError unless the named fields are true or false."""
    for name in names:
        if not isinstance(config[name], bool):
            raise ValueError(f"{name} must be true or false, got {config[name]!r}.")


def _integer_weights(folder: Path, model: torch.nn.Module) -> list[str]:
    """Tensors that a folder stores as integers and the model as floating-point numbers: diffusers converts them."""
    wrong = []
    own = {key: tensor.is_floating_point() for key, tensor in model.state_dict().items()}
    for file in folder.glob("diffusion_pytorch_model*.safetensors"):
        with contextlib.suppress(SafetensorError), safe_open(file, "pt") as tensors:  # damaged: of another variant
            types = {key: tensors.get_slice(key).get_dtype() for key in own.keys() & set(tensors.keys())}
            wrong += [f"{kind} {key}" for key, kind in sorted(types.items()) if own[key] and kind in INTEGERS]
    return wrong


def _is_integer(value) -> bool:
    """Whether a value is an integer, booleans excluded."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """A context in which torch creates tensors of this dtype, whatever the user has set."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
