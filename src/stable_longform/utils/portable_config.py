"""Configurations that are saved without a path of the machine."""

import json


class PortableConfigMixin:
    """A diffusers model or pipeline whose saved configuration does not say from which folder it was loaded."""

    def to_json_string(self) -> str:
        """As in diffusers, without `_name_or_path`: it would publish a path of the machine."""
        config = json.loads(super().to_json_string())  # type: ignore[misc]
        config.pop("_name_or_path", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"
