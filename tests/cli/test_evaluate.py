"""`stable-longform evaluate`: the commands from end to end with a tiny checkpoint and the embedder without weights."""

import json
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import save_file
from tiny_minilm import save_tiny_minilm
from tiny_pipeline import tiny_pipeline

from stable_longform.cli import main
from stable_longform.metrics.embedders import minilm, musicnn
from stable_longform.metrics.embedders.features import CACHE_VARIABLE

HEADER_5 = "| autoencoder | STFT distance | mel distance | SI-SDR (dB) | files | left out |"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A saved tiny pipeline with a window of 8.2 s at 8 kHz."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_pipeline(sample_size=2048).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def prompts(tmp_path):
    """Three prompts, each with a reference."""
    rows = [{"id": name, "prompt": f"solo {name}", "reference": str(number)} for number, name in enumerate("abc")]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def real(tmp_path, make_audio):
    """A folder of three recordings of 4 s."""
    folder = tmp_path / "real"
    folder.mkdir()
    for number in range(3):
        soundfile.write(folder / f"{number}.wav", make_audio(4 * 44100, 2, 44100, number).T.numpy(), 44100)
    return folder


def run(capsys, *arguments):
    """Exit code and standard output of `evaluate`."""
    code = main(["evaluate", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_generate_then_score(capsys, tmp_path, checkpoint, prompts, real):
    options = "--checkpoint", checkpoint, "--steps", 2, "--duration", 4, "--device", "cpu"
    code, out = run(capsys, "generate", prompts, tmp_path / "out", *options)
    assert code == 0 and out.strip() == str(tmp_path / "out")
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert sorted(files) == ["a.wav", "b.wav", "c.wav", "protocol.json"]
    assert soundfile.info(tmp_path / "out" / "a.wav").duration == 4.0
    (tmp_path / "out" / "b.wav").unlink()
    assert run(capsys, "generate", prompts, tmp_path / "out", *options)[0] == 0
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert {name for name in files if again[name] != files[name]} == {"b.wav"}
    assert run(capsys, "generate", prompts, tmp_path / "out", *options, "--seed", 1)[0] == 2

    code, out = run(
        capsys, "score", tmp_path / "out", real, "-o", tmp_path / "report", "--embedder", "mel44",
        "--prompts", prompts, "--trim", 3.5, "--device", "cpu",
    )  # fmt: skip
    assert code == 0 and "| fd_mel44 |" in out
    report = json.loads((tmp_path / "report" / "scores.json").read_text())
    assert report["protocol"]["generation"]["num_inference_steps"] == 2
    assert report["protocol"]["reading"]["trim_in_s"] == 3.5
    assert len(report["protocol"]["prompts_sha256"]) == 64


def test_a_tail_is_written_and_judged(capsys, tmp_path, checkpoint):
    """Files are longer than what the model is asked for, and `control` knows by how much."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("BPM: 120\nGenre: Rock|BPM: 90|Key: A minor\n", encoding="utf-8")
    options = "--checkpoint", checkpoint, "--steps", 1, "--duration", 5, "--device", "cpu"
    assert run(capsys, "generate", prompts, tmp_path / "out", *options, "--tail", 3)[0] == 0
    assert soundfile.info(tmp_path / "out" / "1.wav").duration == 8.0
    code, out = run(capsys, "control", tmp_path / "out", "-o", tmp_path / "report")  # prompts from the files' tags
    assert code == 0 and "| tempo within 4 % |" in out and " % of 2 |" in out and " % of 1 |" in out
    report = json.loads((tmp_path / "report" / "control.json").read_text())
    assert report["protocol"]["excerpt_in_s"] == 5.0 and report["protocol"]["generation"]["tail_in_s"] == 3.0
    assert report["endings"]["num_files"] == 2 and report["generated"]["items"]["2"]["asked"]["key"] == [9, "minor"]


def test_durations_beyond_the_model_are_told_before_any_work(capsys, tmp_path, checkpoint):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "a", "prompt": "p"}\n{"id": "b", "prompt": "p", "duration": 9}', encoding="utf-8")
    options = "--checkpoint", checkpoint, "--steps", "1", "--duration", "4", "--device", "cpu"
    assert main(["evaluate", "generate", str(prompts), str(tmp_path / "out"), *options]) == 2
    assert "b: the model makes 8.192 s at most, got 9 s" in capsys.readouterr().err
    assert main(["evaluate", "generate", str(prompts), str(tmp_path / "out"), *options, "--tail", "6"]) == 2
    assert "a: the model makes 2.192 s at most, got 4 s" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tag_text(capsys, tmp_path, monkeypatch, prompts, real):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    folder = tmp_path / "generated"
    folder.mkdir()
    for name, source in (("a", 1), ("b", 2), ("c", 0)):
        (folder / f"{name}.wav").write_bytes((real / f"{source}.wav").read_bytes())
    arguments = ["score", folder, real, "-o", tmp_path / "report", "--embedder", "musicnn_mtt", "--tag-text"]
    arguments += ["--device", "cpu"]
    assert run(capsys, *arguments, "--prompts", prompts)[0] == 2  # no weights yet
    torch.manual_seed(0)
    for dataset in musicnn.TAGS:
        musicnn.weights_path(dataset).parent.mkdir(parents=True, exist_ok=True)
        save_file(musicnn.MusiCNN().state_dict(), musicnn.weights_path(dataset))
    save_tiny_minilm(minilm.weights_dir())
    code, out = run(capsys, "prepare")  # all is there: nothing is downloaded
    assert code == 0 and out.split() == [str(musicnn.weights_path(name)) for name in musicnn.TAGS] + [
        str(minilm.weights_dir())
    ]
    assert run(capsys, *arguments)[0] == 2  # no prompts
    code, out = run(capsys, *arguments, "--prompts", prompts)
    assert code == 0 and "| tag_text_musicnn_mtt |" in out
    report = json.loads((tmp_path / "report" / "scores.json").read_text())
    (score,) = [score for score in report["scores"] if score["metric"] == "tag_text_musicnn_mtt"]
    assert sorted(score["per_file"]) == ["a", "b", "c"] and -1 <= score["value"] <= 1 and score["value"] != 0
    assert report["protocol"]["text_embedder"]["network"] == "minilm"
    assert run(capsys, *arguments, "--prompts", prompts) == (0, out)  # from the features that were kept


def test_reconstruct_score(capsys, tmp_path, checkpoint, real):
    arguments = "reconstruct-score", real, "-o", tmp_path / "report", "--checkpoint", checkpoint, "--trim", 1
    code, out = run(capsys, *arguments)
    lines = out.splitlines()
    assert code == 0 and lines[0] == HEADER_5
    row = lines[2].split(" | ")
    assert row[0] == f"| {checkpoint}" and row[4] == "3"
    assert "| DAC (paper) | 0.96 | 0.52 | 10.83 | 706 | – |" in lines
    header, _, values = lines[-3:]
    assert header.startswith("| autoencoder | SI-SDR of all channels (dB) | chroma agreement | power in partials |")
    values = [float(value) for value in values.strip("| ").split(" | ")[1:]]
    assert all(-1 <= value <= 1 for value in values[1:]) and values[0] < 0  # its weights are random
    assert run(capsys, *arguments)[1] == out


def test_reconstruct_score_of_a_split_by_an_autoencoder_alone(capsys, tmp_path, checkpoint, real, tiny_manifest):
    arguments = ["reconstruct-score", tiny_manifest, "-o", tmp_path / "report", "--trim", 1]
    arguments += ["--checkpoint", f"{checkpoint}/vae"]
    code, out = run(capsys, *arguments, "--split", "train", "--limit", 1)
    assert code == 0 and out.splitlines()[2].split(" | ")[4] == "1"
    (name,) = json.loads((tmp_path / "report" / "reconstruction.json").read_text())["codecs"][f"{checkpoint}/vae"][
        "per_file"
    ]
    assert Path(name).is_relative_to(Path(tiny_manifest).parent)
    code, _ = run(capsys, *arguments, "--split", "nothing")
    assert code == 2


def test_visqol_is_a_column_more(capsys, tmp_path, checkpoint, real, visqol_in_numpy):
    arguments = "reconstruct-score", real, "-o", tmp_path / "report", "--checkpoint", checkpoint, "--trim", 1.2
    code, out = run(capsys, *arguments, "--visqol")
    lines = out.splitlines()
    assert code == 0 and lines[0] == HEADER_5.replace("| files", "| ViSQOL | files")
    assert 1 <= float(lines[2].split(" | ")[4]) < 4.74
    assert "| DAC (paper) | 0.96 | 0.52 | 10.83 | – | 706 | – |" in lines


def test_time_and_params(capsys, tmp_path, checkpoint):
    code, out = run(
        capsys, "time", "-o", tmp_path / "time", "--checkpoint", checkpoint, "--duration", 1, "--steps", 1,
        "--runs", 1, "--device", "cpu",
    )  # fmt: skip
    assert code == 0 and out.splitlines()[2].startswith("| 1 | ")
    assert json.loads((tmp_path / "time" / "time.json").read_text())["protocol"]["num_inference_steps"] == 1
    code, out = run(capsys, "params", "--checkpoint", checkpoint)
    assert code == 0 and "| 1,056,828,544 | 1.1B |" in out


def test_truth_that_says_nothing_is_told(capsys, tmp_path, real):
    manifest = real / "manifest.jsonl"
    manifest.write_text('{"path": "0.wav", "duration_in_s": 4, "split": "train", "title": "x"}\n', encoding="utf-8")
    assert main(["evaluate", "control", str(real), "-o", str(tmp_path / "x"), "--truth", str(manifest)]) == 2
    assert "has no piece whose tempo, key, genre or instruments are known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("score", "missing", "missing", "-o", "x", "--embedder", "mel44"), "missing is not a folder"),
        (("score", ".", ".", "-o", "x", "--embedder", "vggish"), "embedder must be one of"),
        (("score", ".", ".", "-o", "x", "--embedder", "passt"), "passt needs its weights"),
        (("score", ".", ".", "-o", "x", "--embedder", "mel44=x"), "mel44 takes no source"),
        (("generate", "missing.txt", "x"), "missing.txt cannot be read"),
        (("control", "missing", "-o", "x"), "missing is not a folder"),
        (("control", ".", "-o", "x", "--trim", "0"), "'--trim': must be a number of seconds in [0.001, 10^6]"),
        (("control", ".", "-o", "x", "--truth", "missing.jsonl"), "missing.jsonl"),
        (
            ("generate", "missing.txt", "x", "--duration", "nan"),
            "'--duration': must be a number of seconds in [0.001, 10^6]",
        ),
        ((), "Missing command"),
    ],
)
def test_bad_input_ends_in_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
