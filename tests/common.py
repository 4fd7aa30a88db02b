"""Checks that every model has to pass, and helpers to prepare models for them. Tests call them; none runs alone.

A check takes a model and its inputs, a dictionary of keyword arguments of `forward`.
"""

import copy
import struct

import torch


def randomize_weights(model: torch.nn.Module, seed: int = 0, std: float = 0.3) -> torch.nn.Module:
    """Gives every parameter random non-zero values, so that nothing that starts at zero or one hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    return model


def run(model: torch.nn.Module, inputs: dict) -> list[torch.Tensor]:
    """All tensors that the model returns."""
    return [output for output in model(**inputs, return_dict=False) if isinstance(output, torch.Tensor)]


def relative_error(output: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    output, expected = output.detach().double(), expected.detach().double()
    return float((output - expected).norm() / expected.norm())


def assert_all_equal(outputs: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """Bit for bit, shapes and dtypes included."""
    assert len(outputs) == len(expected) > 0
    for output, target in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, target, rtol=0, atol=0)


@torch.no_grad()
def check_save_load(model: torch.nn.Module, inputs: dict, tmp_path) -> torch.nn.Module:
    """Saved and loaded, a model has the same configuration, the same weights and the same output; returns it."""
    model.eval()
    model.save_pretrained(tmp_path / "model")
    loaded = type(model).from_pretrained(tmp_path / "model")
    assert not loaded.training
    names = {name for name in model.config if not name.startswith("_")}
    assert {name: loaded.config[name] for name in names} == {name: model.config[name] for name in names}
    weights, loaded_weights = model.state_dict(), loaded.state_dict()
    assert list(weights) == list(loaded_weights)
    assert_all_equal(list(loaded_weights.values()), list(weights.values()))
    assert_all_equal(run(loaded, inputs), run(model, inputs))
    return loaded


@torch.no_grad()
def check_determinism(model: torch.nn.Module, inputs: dict) -> None:
    """In evaluation a call leaves no trace: it repeats itself, on the model, on a copy, and after other calls."""
    model.eval()
    first = run(model, inputs)
    assert any(output.abs().max() > 0 for output in first)
    twin = copy.deepcopy(model)
    run(model, {name: value.flip(0) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()})
    assert_all_equal(run(model, inputs), first)
    assert_all_equal(run(twin, inputs), first)


def check_gradient_checkpointing(model: torch.nn.Module, inputs: dict) -> None:
    """Gradient checkpointing is really used and changes no gradient. Give a model without dropout."""
    model.train()
    model.disable_gradient_checkpointing()
    expected = _gradients(model, inputs)
    num_calls = 0

    def checkpoint(module, *args):
        nonlocal num_calls
        num_calls += 1
        return torch.utils.checkpoint.checkpoint(module, *args, use_reentrant=False)

    model.enable_gradient_checkpointing(checkpoint)
    gradients = _gradients(model, inputs)
    model.disable_gradient_checkpointing()
    assert num_calls > 0
    assert any(gradient is not None for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def check_half_precision(
    model: torch.nn.Module,
    inputs: dict,
    tolerance: float,
    keep_float32: tuple[str, ...] = (),
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """In half precision the outputs have that dtype and lie within a relative `tolerance` of the float32 ones.

    The inputs named in `keep_float32` are not cast.
    """
    model.eval()
    expected = run(model, inputs)
    half_inputs = {
        name: value.to(dtype)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and name not in keep_float32
        else value
        for name, value in inputs.items()
    }
    for output, target in zip(run(copy.deepcopy(model).to(dtype), half_inputs), expected, strict=True):
        assert output.dtype == dtype
        assert relative_error(output, target) <= tolerance


def _gradients(model: torch.nn.Module, inputs: dict) -> dict[str, torch.Tensor | None]:
    """Gradients of a fixed random projection of the outputs, by parameter name."""
    model.zero_grad(set_to_none=True)
    generator = torch.Generator().manual_seed(0)
    outputs = run(model, inputs)
    sum((output * torch.randn(output.shape, generator=generator)).sum() for output in outputs).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def png_size(path) -> tuple[int, int]:
    """Width and height of a PNG file."""
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:24])
