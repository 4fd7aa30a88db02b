"""Reports of `evaluate` as results of a model card, and the command that puts them there."""

import json

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from stable_longform.cli.main import app
from stable_longform.evaluation.card_results import read_results
from stable_longform.utils.model_card import write_model_card

RECONSTRUCTION = {
    "codecs": {
        "tiny": {
            "si_sdr": 3.9,
            "stft_distance": 1.95,
            "mel_distance": 1.7,
            "chroma_agreement": None,
            "per_file": {"a": {}},
        },
        "other": {"si_sdr": 9.0, "stft_distance": 0.1, "mel_distance": 0.1, "chroma_agreement": 1.0, "per_file": {}},
    },
    "protocol": {"source": "corpus/manifest.jsonl", "split": "test"},
}
CONTROL = {
    "generated": {"num_files": 30},
    "shares": [
        {"what": "key", "generated": {"value": 0.25}},
        {"what": "genre, probe", "generated": None},
    ],
    "notes": {"partial_share": {"generated": {"median": 0.5}}, "note_share": {"generated": None}},
}


@pytest.fixture
def reports(tmp_path):
    for name, report in (("reconstruction", RECONSTRUCTION), ("control", CONTROL)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.json").write_text(json.dumps(report))
    return tmp_path


def test_results_name_what_they_were_measured_on(reports):
    assert read_results(reports / "reconstruction") == [
        ("corpus, split test, 1 recordings", "SI-SDR of the autoencoder (dB)", 3.9),
        ("corpus, split test, 1 recordings", "STFT distance of the autoencoder", 1.95),
        ("corpus, split test, 1 recordings", "mel distance of the autoencoder", 1.7),
    ]
    assert read_results(reports / "control") == [
        ("30 held-out prompts", "key as requested", 0.25),
        ("30 held-out prompts", "share of power in partials, median", 0.5),
    ]


def test_a_folder_without_a_report(reports):
    with pytest.raises(ValueError, match="has no reconstruction.json or control.json"):
        read_results(reports)
    (reports / "control" / "control.json").write_text("{}")
    with pytest.raises(ValueError, match="control.json is not a report of this version"):
        read_results(reports / "control")


def test_command(reports):
    write_model_card(reports)
    folders = [str(reports), str(reports / "reconstruction"), str(reports / "control")]
    result = CliRunner().invoke(app, ["evaluate", "card", *folders])
    assert result.exit_code == 0, result.output
    assert "| key as requested | 0.25 | 30 held-out prompts |" in result.output
    results = ModelCard.load(reports / "README.md").data.eval_results
    assert [item.metric_value for item in results] == [3.9, 1.95, 1.7, 0.25, 0.5]
