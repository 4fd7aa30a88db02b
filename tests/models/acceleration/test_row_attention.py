import torch
from torch.nn.functional import scaled_dot_product_attention

from stable_longform.models.acceleration import row_attention


@torch.no_grad()
def test_attention_by_rows_is_attention(monkeypatch):
    query, key, value = torch.randn(3, 2, 6, 70, 8, dtype=torch.float64)
    key, value = key[:, :, :50], value[:, :, :50]
    expected = scaled_dot_product_attention(query, key, value)
    for row_block, cached_scores in ((256, 2**22), (16, 1), (7, 7 * 50 * 4)):
        monkeypatch.setattr(row_attention, "ROW_BLOCK", row_block)
        monkeypatch.setattr(row_attention, "CACHED_SCORES", cached_scores)
        output = row_attention.attend_by_rows(query, key, value)
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
