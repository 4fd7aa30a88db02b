"""Optional packages, which only some functions need."""

import importlib
from types import ModuleType


def require(name: str, extra: str) -> ModuleType:
    """Imports a package of one of our extras.

    Raises:
        ValueError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"This needs {name}: pip install 'stable_longform[{extra}]'.") from error
