"""Model cards are read back as the Hub reads them."""

import re

import pytest
from huggingface_hub import ModelCard

from stable_longform.utils.model_card import OWN_MUSIC, Result, set_results, set_section, write_model_card

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


def shown(path) -> list[tuple]:
    """The evaluation results in a card's header, as the Hub reads them."""
    return [
        (result.task_type, result.dataset_name, result.metric_name, result.metric_value)
        for result in ModelCard.load(path).data.eval_results
    ]


def test_metrics_of_the_runs_are_evaluation_results(tmp_path):
    path = write_model_card(tmp_path, **ARGUMENTS)
    assert shown(path) == [("text-to-audio", OWN_MUSIC, "transformer, valid/loss", 0.1235)]
    assert ModelCard.load(path).data.model_name == tmp_path.name
    bare = tmp_path / "bare"
    bare.mkdir()
    assert ModelCard.load(write_model_card(bare)).data.eval_results is None


def test_results_go_into_the_header_and_the_text_stays(tmp_path):
    path = write_model_card(tmp_path, **ARGUMENTS)
    before, own = ModelCard.load(path), shown(path)
    set_results(tmp_path, [Result("songs", "SI-SDR", 3.91234), Result("other songs", "SI-SDR", 0.9)])
    after = ModelCard.load(path)
    assert shown(path) == own + [
        ("text-to-audio", "songs", "SI-SDR", 3.9123),
        ("text-to-audio", "other songs", "SI-SDR", 0.9),
    ]
    assert (
        after.text == before.text and after.data.license == before.data.license and after.data.tags == before.data.tags
    )
    set_results(tmp_path, [Result("songs", "tempo", 0.5)])
    set_results(tmp_path, [Result("songs", "SI-SDR", 4.0)])
    tempo, si_sdr = ("text-to-audio", "songs", "tempo", 0.5), ("text-to-audio", "songs", "SI-SDR", 4.0)
    assert shown(path) == own + [tempo, si_sdr]
    assert ModelCard.load(path).text == before.text


def test_results_that_cannot_be_shown(tmp_path):
    with pytest.raises(ValueError, match="has no card"):
        set_results(tmp_path, [Result("songs", "SI-SDR", 1.0)])
    path = write_model_card(tmp_path, **ARGUMENTS)
    before = path.read_text()
    with pytest.raises(ValueError, match="no result"):
        set_results(tmp_path, [])
    with pytest.raises(ValueError, match="SI-SDR on songs must be finite, got nan"):
        set_results(tmp_path, [Result("songs", "SI-SDR", float("nan"))])
    assert path.read_text() == before
