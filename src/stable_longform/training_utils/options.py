"""The options of a script, declared as fields of a dataclass: type, range, default and meaning.

The annotation of a field contains everything:

    batch_size: Annotated[int, Range(1, 65536), "Items of a process in a micro-batch."] = 4
    betas: Annotated[tuple[float, float], Range(0, 1, below=True), "Of Adam."] = (0.9, 0.999)
    mixed_precision: Annotated[Literal["no", "bf16", "fp16"], "Of the forward pass."] = "no"
    model: Annotated[dict, ArgumentsOf(DiTTransformer1D), "What differs from the paper."] = field(default_factory=dict)
    text_config: Annotated[dict, FieldsOf(TextSettings), "Of the text encoder."] = field(default_factory=...)

A `Range` applies to a number, or to each entry of a list or mapping; `NumEntries` applies to the length of a list.
"""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from stable_longform.utils.ranges import Range, shown

FINITE = Range(-math.inf)
NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class NumEntries:
    """How many entries a list may have."""

    low: int
    high: int = 1000


@dataclass(frozen=True)
class ArgumentsOf:
    """Marks a mapping as arguments of a model's class; to check them, the model is built on the meta device."""

    model_class: type


@dataclass(frozen=True)
class FieldsOf:
    """Marks a mapping with the fields of a dataclass, which are declared as options are."""

    settings_class: type


@dataclass(frozen=True)
class Option:
    """One option: its accepted values, its default and its meaning."""

    name: str
    hint: typing.Any
    marks: tuple
    is_optional: bool
    default: typing.Any = dataclasses.MISSING

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING

    def takes_text(self, text: str) -> bool:
        """Whether the command line's `text` is the value as it stands: "1.10" is a name and no number."""
        is_text = self.hint is str or typing.get_origin(self.hint) is typing.Literal
        return is_text and not (self.is_optional and text in ("", "null", "~"))

    @property
    def meaning(self) -> str:
        """What it is for: the last entry of its annotation."""
        return next((mark for mark in reversed(self.marks) if isinstance(mark, str)), "")

    @property
    def accepted(self) -> str:
        """Its accepted values, in words."""
        return self._describe() + (", or null" if self.is_optional else "")

    def convert(self, value):
        """Converts a value to the field's type: integers and "1e-3" to floats, lists to tuples.

        Raises:
            ValueError: the value is not accepted; the message names the option, the value and the accepted ones.
        """
        if value is None and self.is_optional:
            return None
        kind = typing.get_origin(self.hint) or self.hint
        if kind is dict and isinstance(value, Mapping):
            return self._convert_mapping(value)
        if kind is tuple and isinstance(value, (list, tuple)):
            return self._convert_list(value)
        if kind not in (dict, tuple):
            converted = self._convert_entry(value, self.hint)
            if converted is not None:
                return converted
        raise ValueError(f"{self.name} must be {self.accepted}, got {shown(value)}.")

    def _mark(self, kind: type):
        """The last annotation of a type, or None."""
        return next((mark for mark in reversed(self.marks) if isinstance(mark, kind)), None)

    def _describe(self) -> str:
        """Its accepted values except null."""
        kind, entries = typing.get_origin(self.hint) or self.hint, typing.get_args(self.hint)
        accepted = self._mark(Range)
        if kind is typing.Literal:
            return f"one of {', '.join(map(str, entries))}"
        if kind is dict:
            model, fields = self._mark(ArgumentsOf), self._mark(FieldsOf)
            owner = f" of arguments of {model.model_class.__name__}" if model else ""
            if fields:
                owner = f" of {', '.join(options_of(fields.settings_class))}"
            return f"a mapping{owner}" + (f" with numbers {accepted}" if accepted else "")
        if kind is not tuple:
            is_filled = kind is str and self.default != ""
            return NAMES[kind] + (f" {accepted}" if accepted else "") + (", not empty" if is_filled else "")
        number = self._mark(NumEntries)
        fixed = f"{len(entries)} " if entries[-1] is not Ellipsis else ""
        names = {int: "whole numbers", float: "numbers", str: "texts"}
        entry = names[entries[0]] if entries[0] in names else "of " + ", ".join(typing.get_args(entries[0]))
        least = f", at least {number.low} of them" if number else ""
        return f"a list of {fixed}{entry}".replace("of of", "of") + (f" {accepted}" if accepted else "") + least

    def _convert_entry(self, value, hint):
        """Converts a value of a simple type; None if it has another type."""
        if typing.get_origin(hint) is typing.Literal:
            return value if value in typing.get_args(hint) else None
        if hint is float and isinstance(value, (str, int)) and not isinstance(value, bool):  # text: "1e-3" in quotes
            try:
                value = float(value)
            except (ValueError, OverflowError):
                return None
        if hint is str:
            value = str(value) if type(value) is int else value  # but not 1.10, of which the last digit is lost
            is_empty = value == "" and self.default != ""
            return value if isinstance(value, str) and "\0" not in value and not is_empty else None
        kinds = (int, float) if hint is float else (hint,)
        if not isinstance(value, kinds) or isinstance(value, bool) != (hint is bool):
            return None
        if hint in (int, float) and value not in (self._mark(Range) or FINITE):
            return None
        return float(value) if hint is float else value

    def _convert_list(self, values) -> tuple:
        """Converts a list entry by entry."""
        hints, number = typing.get_args(self.hint), self._mark(NumEntries)
        low, high = (number.low, number.high) if number else (0, 1000)
        if hints[-1] is not Ellipsis:
            low = high = len(hints)
        entries = tuple(self._convert_entry(value, hints[0]) for value in values)
        if not low <= len(entries) <= high or None in entries:
            raise ValueError(f"{self.name} must be {self.accepted}, got {shown(list(values))}.")
        return entries

    def _convert_mapping(self, values: Mapping) -> dict:
        """Converts a mapping: to arguments of a class, or to the types of the default's entries."""
        model, fields = self._mark(ArgumentsOf), self._mark(FieldsOf)
        if model is not None:
            with torch.device("meta"):
                build_model(model.model_class, values, self.name)
            return dict(values)
        default = {} if self.is_required else self.default
        unknown = sorted(str(key) for key in values if key not in default) if default else []
        if unknown:
            raise ValueError(f"Unknown entries of {self.name}: {', '.join(unknown)}; known: {', '.join(default)}.")
        known = options_of(fields.settings_class) if fields else {}
        entries = dict(default)
        for key, value in values.items():
            if key in known:
                value = dataclasses.replace(known[key], name=f"{self.name}.{key}").convert(value)
            elif isinstance(default.get(key), float):
                entry = dataclasses.replace(self, name=f"{self.name}.{key}", hint=float, is_optional=False)
                value = entry.convert(value)
            entries[key] = value
        return entries


def options_of(config_class: type) -> dict[str, Option]:
    """The options of a dataclass by name, in the order of its fields."""
    hints = typing.get_type_hints(config_class, include_extras=True)
    return {field.name: _read_option(field, hints[field.name]) for field in dataclasses.fields(config_class)}


def _read_option(field: dataclasses.Field, hint) -> Option:
    """Makes an option from a field and its type; `Annotated` and `| None` may be nested either way."""
    marks, is_optional = (), False
    while True:
        if typing.get_origin(hint) is typing.Annotated:
            marks = (*hint.__metadata__, *marks)
            hint = hint.__origin__
        elif typing.get_origin(hint) in (typing.Union, types.UnionType):
            (hint,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
            is_optional = True
        else:
            break
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return Option(field.name, hint, marks, is_optional, default)


def build_model(model_class: type, arguments: Mapping, name: str):
    """Constructs `model_class(**arguments)` from the configuration field `name`.

    Raises:
        ValueError: the class does not have an argument, or rejects a value.
    """
    known = [key for key in inspect.signature(model_class).parameters if key != "self"]
    unknown = [str(key) for key in arguments if key not in known]
    if unknown:
        raise ValueError(f"Unknown entries of {name}: {', '.join(unknown)}; known: {', '.join(known)}.")
    try:
        return model_class(**arguments)
    except TypeError as error:
        raise ValueError(f"{name} has a value of the wrong type: {error}.") from error
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from error
