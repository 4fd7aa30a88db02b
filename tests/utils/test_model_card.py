"""Model cards are read back as the Hub reads them."""

import re

import pytest
from huggingface_hub import ModelCard

from stable_longform.utils.model_card import set_section, write_model_card

ARGUMENTS = {
    "description": "A small model",
    "parts": {"vae": 12_345, "transformer": 1_056_828_544},
    "data": "Ten tracks of mine, CC-BY 4.0.",
    "training": [{"part": "autoencoder", "steps": 10}, {"part": "transformer", "steps": 20}],
    "metrics": {"transformer, valid/loss": 0.123456},
    "license": "cc-by-4.0",
}


def sections(path) -> dict[str, str]:
    parts = re.split(r"^## (.*)\n", ModelCard.load(path).text, flags=re.MULTILINE)
    return {heading: text.strip() for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_header_and_sections(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    path = write_model_card(folder, **ARGUMENTS)
    assert [file.name for file in folder.iterdir()] == ["README.md"]
    card = ModelCard.load(path)
    assert (card.data.license, card.data.pipeline_tag) == ("cc-by-4.0", "text-to-audio")
    assert card.data.library_name == "stable_longform" and "latent-diffusion" in card.data.tags
    assert card.text.strip().startswith("# my-model\n\nA small model for [Long-form")
    found = sections(path)
    assert list(found) == ["Usage", "Parts", "Training data", "Training", "Metrics", "Licence"]
    code = re.search(r"```python\n(.*?)```", found["Usage"], re.DOTALL).group(1)
    compile(code, "card", "exec")
    assert 'from_pretrained("my-model")' in code
    assert "| transformer | 1,056,828,544 |" in found["Parts"]
    assert found["Training"].splitlines()[0] == "| part | steps |" and found["Training"].count("\n") == 3
    assert "| transformer, valid/loss | 0.1235 |" in found["Metrics"]
    assert found["Training data"] == ARGUMENTS["data"] and found["Licence"] == "cc-by-4.0"


def test_a_card_that_exists_is_kept(tmp_path):
    (tmp_path / "README.md").write_text("Mine.")
    assert write_model_card(tmp_path, **ARGUMENTS).read_text() == "Mine."


def test_what_is_not_known_is_said(tmp_path):
    path = write_model_card(tmp_path)
    assert ModelCard.load(path).data.license is None
    assert all(text == "Not stated." for heading, text in sections(path).items() if heading != "Usage")


def test_wrong_input(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        write_model_card(tmp_path / "none")
    with pytest.raises(ValueError, match="must have the keys part"):
        write_model_card(tmp_path, training=[{"part": "vae"}, {"step": 3}])


def test_a_section_takes_the_place_of_the_one_before(tmp_path):
    path = write_model_card(tmp_path, **ARGUMENTS)
    before = sections(path)
    set_section(tmp_path, "Metrics", "| a |\n|---|")
    assert sections(path) == before | {"Metrics": "| a |\n|---|"}
    set_section(tmp_path, "Memorization", "first")
    set_section(tmp_path, "Memorization", "second\n\n### Details\n\nall")
    found = sections(path)
    assert list(found) == [*before, "Memorization"] and found["Memorization"] == "second\n\n### Details\n\nall"
    text = path.read_text()
    set_section(tmp_path, "Memorization", found["Memorization"])
    assert path.read_text() == text
    with pytest.raises(ValueError, match="has no card"):
        set_section(tmp_path / "none", "Metrics", "")
