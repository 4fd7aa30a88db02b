"""Models that are exported and loaded."""

import pytest
from common import assert_all_equal
from safetensors.torch import load_file

from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.training_utils.pretrained import export_model, load_weights


def test_export_model_replaces(tmp_path, tiny_autoencoder_config):
    target = tmp_path / "autoencoder"
    target.mkdir()
    (target / "leftover.txt").write_text("from before")
    (target / "README.md").write_text("mine")
    model = AutoencoderOobleck(**tiny_autoencoder_config)
    export_model(model, target, keep=("README.md", "ATTRIBUTION.md"))
    assert {path.name for path in tmp_path.iterdir()} == {"autoencoder"}
    assert not (target / "leftover.txt").exists() and (target / "README.md").read_text() == "mine"
    loaded = AutoencoderOobleck.from_pretrained(target)
    assert_all_equal(list(loaded.state_dict().values()), list(model.state_dict().values()))


def test_weights_are_split_into_shards(tmp_path, tiny_autoencoder_config):
    model = AutoencoderOobleck(**tiny_autoencoder_config)
    export_model(model, tmp_path / "autoencoder", max_shard_size="4KB")
    shards = [load_file(path).values() for path in (tmp_path / "autoencoder").glob("*.safetensors")]
    assert len(shards) > 1
    assert all(len(shard) == 1 or sum(weight.nbytes for weight in shard) <= 4000 for shard in shards)
    loaded = AutoencoderOobleck.from_pretrained(tmp_path / "autoencoder")
    assert_all_equal(list(loaded.state_dict().values()), list(model.state_dict().values()))


def test_weights_of_another_shape_are_refused(tiny_autoencoder_config):
    model = AutoencoderOobleck(**tiny_autoencoder_config)
    source = AutoencoderOobleck(**tiny_autoencoder_config)
    load_weights(model, source)
    assert_all_equal(list(model.state_dict().values()), list(source.state_dict().values()))
    wider = AutoencoderOobleck(**tiny_autoencoder_config | {"decoder_channels": 6})
    with pytest.raises(ValueError, match="other weights"):
        load_weights(model, wider)
