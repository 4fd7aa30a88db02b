"""The command `stable-longform doctor`: what is installed and available."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path

import soundfile
import torch
import typer
from packaging.requirements import Requirement

import stable_longform
from stable_longform.cli.options import CHECKPOINT_VARIABLE, DEVICE_VARIABLE, Json
from stable_longform.utils.audio import SUBTYPES
from stable_longform.utils.environment import package_version

PACKAGE = "stable_longform"
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "soundfile", "soxr", "typer")


def doctor(is_json: Json = False) -> None:
    """Shows versions, devices, extras and audio formats; include its output in bug reports."""
    report = {
        "program": f"{PACKAGE} {stable_longform.__version__}",
        "python": f"{platform.python_version()}, {platform.platform()}",
        "versions": {name: package_version(name) or "not installed" for name in LIBRARIES},
        "libsndfile": soundfile.__libsndfile_version__,
        "devices": _devices(),
        "extras": _extras(),
        "audio formats": ", ".join(SUBTYPES),
        "environment": {name: os.environ.get(name) for name in (CHECKPOINT_VARIABLE, DEVICE_VARIABLE, "HF_HOME")},
        "embedded checkpoint": "there" if Path(stable_longform.TINY_CHECKPOINT).is_dir() else "missing",
    }
    if is_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    for name, value in report.items():
        if not isinstance(value, dict):
            typer.echo(f"{name}: {value}")
            continue
        typer.echo(f"{name}:")
        for part, text in value.items():
            typer.echo(f"  {part}: {'-' if text is None else text}")


def _devices() -> dict[str, str]:
    """Values of `--device` with their descriptions."""
    devices = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"}
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        for number in range(torch.accelerator.device_count()):
            devices[f"{accelerator.type}:{number}"] = _describe_accelerator(accelerator.type, number)
    return devices


def _describe_accelerator(kind: str, number: int) -> str:
    """The name and memory of a device, if torch knows them."""
    if kind != "cuda":
        return kind
    properties = torch.cuda.get_device_properties(number)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _extras() -> dict[str, str]:
    """Extras of this package, and which of their requirements are missing."""
    try:
        texts = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return {"unknown": f"{PACKAGE} was not installed with pip"}
    extras: dict[str, list[str]] = {}
    for requirement in map(Requirement, texts):
        for extra in importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or ():
            environment = {"extra": extra}
            if requirement.marker is None or not requirement.marker.evaluate(environment):
                continue
            version = package_version(requirement.name)
            is_missing = version is None or not requirement.specifier.contains(version, prereleases=True)
            extras.setdefault(extra, []).extend([str(requirement).partition(";")[0]] if is_missing else [])
    return {
        extra: "all there" if not missing else f"missing {', '.join(missing)}: pip install '{PACKAGE}[{extra}]'"
        for extra, missing in extras.items()
    }
