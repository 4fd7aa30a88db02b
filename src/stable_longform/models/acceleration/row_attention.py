"""Attention in blocks of rows, for long sequences in bfloat16 on a CPU.

The scores of a block stay in the cache, and both products run in the dtype of the inputs. torch's own kernel computes
in float32.
"""

import torch

MIN_KEYS = 1024  # blocks of rows are faster from this number of keys on
ROW_BLOCK = 256
CACHED_SCORES = 2**22  # values in a block of scores, for all heads computed together


def rows_are_faster(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether `attend_by_rows` is faster than torch's own attention; shapes `(B, H, S, head_dim)`."""
    return (
        type(query) is torch.Tensor
        and query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and key.shape[2] >= MIN_KEYS
        and key.shape[1] == query.shape[1]
    )


def attend_by_rows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Softmax attention of `(B, H, S, head_dim)`."""
    output = torch.empty_like(query)
    heads = max(CACHED_SCORES // (ROW_BLOCK * key.shape[2]), 1)
    query = query * query.shape[-1] ** -0.5
    for item in range(len(query)):
        for head in range(0, query.shape[1], heads):
            q, k, v = (part[item, head : head + heads] for part in (query, key, value))
            k, v = k.transpose(1, 2).contiguous(), v.contiguous()
            attended = [torch.matmul(torch.softmax(rows @ k, dim=-1), v) for rows in q.split(ROW_BLOCK, dim=1)]
            output[item, head : head + heads] = torch.cat(attended, dim=1)
    return output
