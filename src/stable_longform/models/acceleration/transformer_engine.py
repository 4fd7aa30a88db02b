"""Faster kernels for the large operations of a transformer on a CPU."""

import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import nn
from torch.overrides import TorchFunctionMode

from stable_longform.models.acceleration import onednn, row_attention

PLAIN_ATTENTION = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None, "enable_gqa": False}


class TransformerEngine(TorchFunctionMode):
    """A context in which large linear maps run in oneDNN and long attention in blocks of rows.

    An attention backend that the user has chosen is kept.

    Args:
        transformer: the model that will be called within the context.
    """

    def __init__(self, transformer: nn.Module):
        super().__init__()
        self._has_native_attention = _AttentionBackendRegistry.get_active_backend()[
            0
        ] == AttentionBackendName.NATIVE and all(
            part.processor._attention_backend is None
            for part in transformer.modules()
            if isinstance(part, AttentionModuleMixin)
        )

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Runs `function`, or a faster equivalent."""
        kwargs = kwargs or {}
        if function is F.linear and not kwargs and onednn.linear_is_faster(*args):
            return onednn.linear(*args)
        if function is F.scaled_dot_product_attention and self._has_native_attention and not args:
            settings = dict(kwargs)
            query, key, value = (settings.pop(name) for name in ("query", "key", "value"))
            if PLAIN_ATTENTION | settings == PLAIN_ATTENTION and row_attention.rows_are_faster(query, key):
                return row_attention.attend_by_rows(query, key, value)
        return function(*args, **kwargs)
