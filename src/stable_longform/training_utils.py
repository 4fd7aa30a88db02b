"""What the training scripts share: configuration, learning-rate law, data order, checkpoints, logs.

Plain functions of tensors, modules and numbers; the loops themselves are in `training/`. A run is a folder:
`config.yaml` (the resolved configuration), `run.json` (versions, git commit, machine), `metrics.jsonl`, the newest
`checkpoint-<step>/` and the exported models. To resume, run the same command again.
"""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import inspect
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from stable_longform.models.clap_text_encoder import ClapTextEncoder

logger = logging.getLogger(__name__)

CHECKPOINT_PREFIX = "checkpoint-"


def load_config(config_class: type, arguments: Sequence[str], directory: str | os.PathLike = "."):
    """Builds a dataclass from its defaults, then a YAML file, then `--key=value` or `--key value` arguments.

    Args:
        config_class: a dataclass. A field of type dict takes `--field.key=value`.
        arguments: the command line, e.g. `["--config", "tiny.yaml", "--learning_rate=1e-3"]`.
        directory: what a relative `--config` path is relative to.

    Raises:
        ValueError: an unknown key, a value of another type than the field's, a missing one, or an unreadable YAML
            file.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    hints = typing.get_type_hints(config_class)
    texts = _split_arguments(arguments)
    values = {}
    for path in (text for key, text in texts if key == "config"):
        values |= _read_yaml(Path(directory) / path)
    for key, text in texts:
        name, _, entry = key.partition(".")
        if entry:
            known = values.get(name)
            values[name] = {**(known if isinstance(known, dict) else {}), entry: _parse(text, key)}
        elif key != "config":
            values[key] = text if hints.get(key) is str else _parse(text, key)
    for key, value in values.items():
        if key not in fields:
            raise ValueError(f"Unknown configuration key {key!r}; known keys: {', '.join(sorted(fields))}.")
        values[key] = _convert(key, value, hints[key], fields[key])
    required = [field.name for field in fields.values() if _has_no_default(field)]
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(f"Missing configuration: {', '.join('--' + name for name in missing)}.")
    return config_class(**values)


def launch(main: Callable, config_class: type) -> None:
    """Runs `main(config)` with the configuration of the command line; a wrong one ends in one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        main(load_config(config_class, sys.argv[1:]))
    except (ValueError, OSError) as error:  # OSError: also a checkpoint that is not there
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)


def _split_arguments(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """The command line as pairs of a key and its text."""
    tokens = []
    for argument in arguments:
        is_key = argument.startswith("--") and len(tokens) % 2 == 0
        tokens.extend(argument.split("=", 1) if is_key else [argument])
    keys = tokens[::2]
    if len(tokens) % 2 or not all(key.startswith("--") for key in keys):
        raise ValueError(f"Arguments must be pairs `--key value` or `--key=value`, got {' '.join(arguments)}.")
    return [(key.removeprefix("--"), text) for key, text in zip(keys, tokens[1::2], strict=True)]


def _read_yaml(path: Path) -> dict:
    """The mapping in a YAML file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"--config {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config {path} must hold `key: value` lines, got a {type(values).__name__}.")
    return values


def _parse(text: str, key: str):
    """A command-line value read as YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--{key} cannot be read: {' '.join(str(error).split())}") from error


def _has_no_default(field: dataclasses.Field) -> bool:
    """Whether a dataclass field must be given."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(key: str, value, hint, field: dataclasses.Field):
    """Checks one configuration value against its field's type; integers and '1e-3' pass as floats, lists as tuples."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = typing.get_origin(kinds[0]) or kinds[0]
    if value is None and type(None) in kinds:
        return None
    if kind is dict and isinstance(value, dict):
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else {}
        unknown = sorted(set(value) - set(default)) if default else []
        if unknown:
            raise ValueError(f"Unknown entries of {key}: {', '.join(unknown)}; known: {', '.join(default)}.")
        entries = {entry: _like(default.get(entry), item, f"{key}.{entry}") for entry, item in value.items()}
        return {**default, **entries}
    if kind is tuple and isinstance(value, (list, tuple)):
        default = field.default if isinstance(field.default, tuple) else ()
        return tuple(_like(default[0] if default else None, item, key) for item in value)
    if kind is float:
        return _to_float(key, value)
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{key} must be of type {getattr(hint, '__name__', hint)}, got {value!r}.")


def _like(default, value, key: str):
    """An entry of a dict or tuple, read as a float where the default is one."""
    return _to_float(key, value) if isinstance(default, float) else value


def _to_float(key: str, value) -> float:
    """Reads a number; YAML takes '1e-3' for text."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise ValueError(f"{key} must be of type float, got {value!r}.")


def build_model(model_class: type, arguments: Mapping, name: str):
    """Constructs `model_class(**arguments)` from the configuration field `name`.

    Raises:
        ValueError: an argument that the class does not know, or a value that it cannot take.
    """
    known = [key for key in inspect.signature(model_class).parameters if key != "self"]
    unknown = [str(key) for key in arguments if key not in known]
    if unknown:
        raise ValueError(f"Unknown entries of {name}: {', '.join(unknown)}; known: {', '.join(known)}.")
    try:
        return model_class(**arguments)
    except TypeError as error:
        raise ValueError(f"{name} has a value of the wrong type: {error}.") from error


def start_run(output_dir: str | os.PathLike, config) -> Path:
    """Makes the run folder and writes `config.yaml` and `run.json`; a resumed run must have the same configuration.

    Raises:
        ValueError: the folder holds a run with another configuration (`max_steps` may differ).
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    resolved = json.loads(json.dumps(dataclasses.asdict(config)))
    file = output_dir / "config.yaml"
    if file.exists() and latest_checkpoint(output_dir) is not None:
        previous = yaml.safe_load(file.read_text(encoding="utf-8"))
        changed = [key for key in resolved if key != "max_steps" and previous.get(key) != resolved[key]]
        if changed:
            raise ValueError(
                f"{output_dir} holds a run with other values of {', '.join(changed)}: "
                "use the same values to resume it or another output_dir to start anew."
            )
    write_text(file, yaml.safe_dump(resolved, sort_keys=False))
    write_text(output_dir / "run.json", json.dumps(describe_environment(), indent=2))
    return output_dir


def describe_environment() -> dict:
    """Versions, git commit and machine, to be saved with a run."""
    packages = ("stable_longform", "torch", "diffusers", "transformers", "accelerate", "numpy")
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "git_commit": commit.stdout.strip() or None,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def inverse_lr(step: int, inv_gamma: float, power: float = 0.5, warmup: float = 0.99) -> float:
    """Factor of the learning rate: exponential ramp-up, then inverse decay. Paper: §3.

    `(1 − warmup^(step+1)) · (1 + step/inv_gamma)^(−power)`.
    """
    return (1 - warmup ** (step + 1)) * (1 + step / inv_gamma) ** -power


def seed_step(seed: int, step: int, process_index: int = 0) -> None:
    """Seeds every global generator as a function of the step, so that a resumed run draws the same numbers."""
    set_seed((seed * 1_000_003 + step * 1009 + process_index) % 2**32)


class StepBatches(torch.utils.data.Sampler):
    """Index batches of one process from `start_step` on: step s takes the indices [s·B, (s+1)·B) of all processes."""

    def __init__(
        self, batch_size: int, start_step: int, num_steps: int, process_index: int = 0, num_processes: int = 1
    ):
        self.batch_size, self.start_step, self.num_steps = batch_size, start_step, num_steps
        self.process_index, self.num_processes = process_index, num_processes

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start_step, self.num_steps):
            first = (step * self.num_processes + self.process_index) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def __len__(self) -> int:
        return max(self.num_steps - self.start_step, 0)


def make_loader(
    dataset: torch.utils.data.Dataset,
    accelerator: Accelerator,
    batch_size: int,
    start_step: int,
    max_steps: int,
    num_workers: int,
    collate_fn=None,
) -> torch.utils.data.DataLoader:
    """A loader of `batch_size` items a step and process, from `start_step` to `max_steps`."""
    batches = StepBatches(batch_size, start_step, max_steps, accelerator.process_index, accelerator.num_processes)
    return torch.utils.data.DataLoader(dataset, batch_sampler=batches, num_workers=num_workers, collate_fn=collate_fn)


def latest_checkpoint(output_dir: str | os.PathLike) -> tuple[Path, int] | None:
    """The newest complete checkpoint of a run and its step, or None."""
    steps = [
        (path, int(path.name.removeprefix(CHECKPOINT_PREFIX)))
        for path in Path(output_dir).glob(f"{CHECKPOINT_PREFIX}*")
        if path.name.removeprefix(CHECKPOINT_PREFIX).isdigit()
    ]
    return max(steps, key=lambda entry: entry[1], default=None)


def save_checkpoint(accelerator: Accelerator, output_dir: Path, step: int, keep: int = 2) -> Path:
    """Saves everything prepared by and registered with `accelerator` as `checkpoint-<step>`, atomically.

    The folder gets its name only when it is complete; of the older ones, `keep - 1` stay.
    """
    final = output_dir / f"{CHECKPOINT_PREFIX}{step:08d}"
    partial = output_dir / f"partial-{final.name}"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in sorted(output_dir.glob(f"{CHECKPOINT_PREFIX}*"))[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def resume(accelerator: Accelerator, output_dir: Path) -> int:
    """Loads the newest checkpoint if there is one; returns the step to go on from."""
    found = latest_checkpoint(output_dir)
    if found is None:
        return 0
    path, step = found
    accelerator.load_state(str(path))
    logger.info("Resumed from %s.", path)
    return step


def export_model(model, directory: str | os.PathLike, *companions, keep: Sequence[str] = ()) -> None:
    """Writes `model.save_pretrained` to `directory` through a temporary folder, replacing what was there.

    `companions` are saved into the same folder: a tokenizer, a feature extractor. Files named in `keep` survive.
    """
    directory = Path(directory)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in (model, *companions):
        part.save_pretrained(partial)
    for file in (directory / name for name in keep):
        if file.is_file():
            shutil.copy2(file, partial)
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(partial, directory)


def load_text_encoder(source: str | os.PathLike) -> tuple[ClapTextEncoder, PreTrainedTokenizerBase]:
    """The text encoder and its tokenizer of a CLAP training's result, or those of a whole checkpoint.

    Args:
        source: folder or Hub id of a transformers ClapModel with its tokenizer, or folder of a pipeline.
    """
    if (Path(source) / "model_index.json").is_file():
        text_encoder = ClapTextEncoder.from_pretrained(source, subfolder="text_encoder")
        return text_encoder, AutoTokenizer.from_pretrained(source, subfolder="tokenizer")
    return ClapTextEncoder.from_clap(source), AutoTokenizer.from_pretrained(source)


def float_dtype(name: str) -> torch.dtype:
    """The dtype called "float32", "bfloat16" or "float16".

    Raises:
        ValueError: another name.
    """
    if name not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype must be float32, bfloat16 or float16, got {name!r}.")
    return getattr(torch, name)


def load_weights(model: torch.nn.Module, source: torch.nn.Module) -> None:
    """Copies all weights of `source`; the models may differ in what has no weights, as the length of the window.

    Raises:
        ValueError: the models have other weights or shapes.
    """
    try:
        model.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise ValueError(f"--init_from has other weights than the model: {error}") from error


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights in float32 and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a small text file atomically."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # processes of one run may write at once
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def log_metrics(output_dir: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Appends one line to `metrics.jsonl`."""
    with open(output_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **{name: float(value) for name, value in metrics.items()}}) + "\n")


def check_finite(losses: Mapping[str, torch.Tensor], step: int) -> None:
    """Stops a run whose losses are no longer numbers; the last checkpoint stays as it is.

    Raises:
        FloatingPointError: naming the step and the losses.
    """
    bad = [name for name, value in losses.items() if not torch.isfinite(value).all()]
    if bad:
        raise FloatingPointError(f"Step {step}: {', '.join(bad)} is not finite; the last checkpoint is unchanged.")
