"""Commands that are given what they cannot use: exit code 2, one line, nothing written, no model loaded."""

import json

import numpy as np
import pytest
import soundfile
from refusals import command_fails


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a good file of audio, text, JSON, a folder and a checkpoint that cannot be loaded."""
    folder = tmp_path_factory.mktemp("files")
    soundfile.write(folder / "tone.wav", 0.3 * np.sin(np.arange(8000) / 5)[:, None].repeat(2, 1), 8000)
    soundfile.write(folder / "silent.wav", np.zeros((0, 2)), 8000)
    with soundfile.SoundFile(folder / "deep.flac", "w", 8000, 2) as file:
        file.comment = "[" * 5000  # not ours: another program's remark
        file.write(np.zeros((8000, 2)))
    (folder / "text.txt").write_text("calm piano\n")
    (folder / "empty.txt").write_text("")
    (folder / "blank.txt").write_text("\n \n\t\n")
    (folder / "latin.txt").write_bytes("für Elise".encode("latin-1"))
    (folder / "list.json").write_text("[1, 2]")
    (folder / "broken.json").write_text('{"a": ')
    (folder / "hollow").mkdir()
    (folder / "hollow" / "model_index.json").write_text('{"_class_name": "LongFormMusicPipeline"}')
    (folder / "nameless").mkdir()
    (folder / "nameless" / "model_index.json").write_text("{}")
    (folder / "garbled").mkdir()
    (folder / "garbled" / "model_index.json").write_bytes(b"\xff\xfe\x00")
    (folder / "listed").mkdir()
    (folder / "listed" / "model_index.json").write_text("[]")
    (folder / "bare").mkdir()
    (folder / "run").mkdir()
    (folder / "run" / "metrics.jsonl").write_text("nothing\n5\n[]\n")
    (folder / "weights.ckpt").write_bytes(b"no weights")
    (folder / "weights.safetensors").write_bytes(b"\xff" * 100)
    (folder / "wide.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    header = json.dumps({"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
    (folder / "cut.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (folder / "falling.txt").write_text("0:00 calm\n0:02 loud\n0:01 calm\n")
    (folder / "later.txt").write_text("0:01 calm\n")
    (folder / "before.txt").write_text("0:00 calm\n-0:01 loud\n")
    (folder / "nul.txt").write_bytes(b"0:00 calm\0 piano\n")
    (folder / "nul.csv").write_bytes(b"path,title\ntone.wav,a\0b\n")
    (folder / "folder.jsonl").mkdir()
    rows = {
        "text": {"sections": "many"},
        "names": {"sections": ["verse", "chorus"]},
        "words": {"sections": [{"start_in_s": 0}, {"start_in_s": "later"}]},
        "falling": {"sections": [{"start_in_s": 5}, {"start_in_s": 1}]},
        "nan": {"sections": [{"start_in_s": 0}, {"start_in_s": float("nan")}]},
        "elsewhere": {"path": "other.wav", "sections": [{"start_in_s": 0}, {"start_in_s": 0.5}]},
    }
    for name, row in rows.items():
        (folder / f"sections_{name}.jsonl").write_text(json.dumps({"path": "tone.wav"} | row))
    key = {"stimuli": {"s1": {"part": "10s", "prompt_id": "a", "system": "x"}}, "settings": {"test_id": "t"}}
    keys = {
        "half": json.dumps(key)[:30],
        "lists": json.dumps({"stimuli": [], "settings": [], "listeners": []}),
        "text": json.dumps(key | {"stimuli": {"s1": "x"}, "listeners": {}}),
        "trials": json.dumps(key | {"listeners": {"1": "s1"}}),
    }
    for name, text in keys.items():
        (folder / f"key_{name}").mkdir()
        (folder / f"key_{name}" / "key.json").write_text(text)
    tracks = [{"path": "tone.wav", "duration_in_s": 1, "split": split} for split in ("train", "test")]
    (folder / "set.jsonl").write_text("\n".join(map(json.dumps, tracks)))
    (folder / "mixed.jsonl").write_text('{"id": "a", "prompt": "calm"}\n{"id": "a", "prompt": "loud"}\n')
    return folder


GENERATE = {
    "no prompt": "generate",
    "a prompt and a file": "generate calm --prompt-file {0}/text.txt",
    "no such prompt file": "generate --prompt-file {0}/missing.txt",
    "an empty prompt file": "generate --prompt-file {0}/empty.txt",
    "a blank prompt file": "generate --prompt-file {0}/blank.txt",
    "latin-1 prompts": "generate --prompt-file {0}/latin.txt",
    "a folder of prompts": "generate --prompt-file {0}/bare",
    "audio as prompts": "generate --prompt-file {0}/tone.wav",
    "a zero in the prompt": "generate calm\0piano",
    "a surrogate in the prompt": "generate calm\ud800",
    "a surrogate in the negative prompt": "generate calm --negative-prompt \udfff",
    "settings of a file that is not there": "generate --from {0}/missing.wav",
    "settings of a file without": "generate --from {0}/tone.wav",
    "settings of text": "generate --from {0}/text.txt",
    "settings nested deeply": "generate --from {0}/deep.flac",
    "sections that fall": "generate --sections {0}/falling.txt",
    "sections from later on": "generate --sections {0}/later.txt",
    "a section before the start": "generate --sections {0}/before.txt",
    "a negative clock": "generate calm --duration=-0:30",
    "more seeds than there are": "generate calm --seed 9223372036854775807 --variations 2",
    "no extension": "generate calm -o out",
    "an unknown extension": "generate calm -o out.xyz",
    "a folder as output": "generate calm -o {0}",
    "no folder for the output": "generate calm -o {0}/missing/out.wav",
    "below a file": "generate calm -o {0}/text.txt/out.wav",
    "an output that exists": "generate calm -o {0}/tone.wav",
    "a sample format that is none": "generate calm -o out.wav --sample-format pcm99",
    "a format that flac has not": "generate calm -o out.flac --sample-format float",
    "a format of mp3": "generate calm -o out.mp3 --sample-format pcm24",
    "a rising interval": "generate calm --guidance-interval 0.9 0.1",
    "an interval beyond": "generate calm --guidance-interval 0.0 1.5",
    "an interval of NaN": "generate calm --guidance-interval nan 1",
    "an unknown scheduler": "generate calm --scheduler euler",
    "an unknown dtype": "generate calm --dtype int8",
    "an unknown device": "generate calm --device abacus",
    "a GPU of high number": "generate calm --device cuda:77",
    "a negative GPU": "generate calm --device cuda:-1",
    "no such checkpoint": "generate calm --checkpoint {0}/missing",
    "a file as checkpoint": "generate calm --checkpoint {0}/text.txt",
    "a folder without an index": "generate calm --checkpoint {0}/bare",
    "an index without a class": "generate calm --checkpoint {0}/nameless",
    "an index that is no JSON": "generate calm --checkpoint {0}/garbled",
    "an index that is a list": "generate calm --checkpoint {0}/listed",
    "a strange checkpoint": "generate calm --checkpoint a/b/c/d",
    "an empty checkpoint": "generate calm --checkpoint=",
    "an option twice as long": "generate calm --duration 1:2:3:4",
    "an unknown option": "generate calm --tempo 120",
    "two prompts": "generate calm loud",
    "a shortened option": "generate calm --dur 5",
    "less than a sample": "generate calm --duration 1e-9",
    "a window of less than a sample": "generate calm --window 1e-9",
    "a whole of less than a sample": "generate calm --total 1e-9",
    "prompts with a NUL": "generate --prompt-file {0}/nul.txt",
    "sections with a NUL": "generate --sections {0}/nul.txt",
    "an adapter that is not there": "generate calm --lora {0}/missing",
    "an adapter of a strange name": "generate calm --lora a/b/c/d",
    "an adapter without a name": "generate calm --lora=",
}
OTHERS = {
    "nothing to reconstruct": "reconstruct",
    "a missing recording": "reconstruct {0}/missing.wav -o out.wav",
    "no samples to reconstruct": "reconstruct {0}/silent.wav -o out.wav",
    "no samples to transform": "transform {0}/silent.wav calm -o out.wav",
    "no samples to extend": "extend {0}/silent.wav calm --to 3 -o out.wav",
    "a region that ends before it starts": "inpaint {0}/tone.wav calm --region 0.6-0.5",
    "a region beyond the end": "inpaint {0}/tone.wav calm --region 0.5-9",
    "a region of everything": "inpaint {0}/tone.wav calm --region 0-1",
    "a region with another dash": "inpaint {0}/tone.wav calm --region 0.5–0.6",
    "a region of NaN": "inpaint {0}/tone.wav calm --region nan-1",
    "regions that overlap": "inpaint {0}/tone.wav calm --region 0.2-0.6 --region 0.5-0.9",
    "nothing to extend by": "extend {0}/tone.wav calm",
    "an end before the end": "extend {0}/tone.wav calm --to 0.5",
    "no way to transform": "transform {0}/tone.wav calm --method magic",
    "nothing of it changed": "transform {0}/tone.wav calm --strength 0",
    "a description of the input without need": "transform {0}/tone.wav calm --source-prompt loud",
    "text to reconstruct": "reconstruct {0}/text.txt -o out.wav",
    "a folder to reconstruct": "reconstruct {0} -o out.wav",
    "onto itself": "reconstruct {0}/tone.wav -o {0}/tone.wav --overwrite",
    "a hollow checkpoint": "reconstruct {0}/tone.wav -o out.wav --checkpoint {0}/bare",
    "info of nothing": "info {0}/missing.wav",
    "info of text": "info {0}/text.txt",
    "info of a folder": "info {0}",
    "inspect nothing": "data inspect {0}/missing",
    "inspect an empty folder": "data inspect {0}/bare",
    "inspect another split": "data inspect {0} --split dev",
    "inspect a split that is not there": "data inspect {0} --split test",
    "a figure of another kind": "data inspect {0} --figure figure.gif",
    "a manifest of another kind": "data inspect {0} --manifest tracks.csv",
    "a manifest where none can be written": "data inspect {0} --manifest /proc/tracks.jsonl",
    "a manifest below a file": "data inspect {0} --manifest {0}/text.txt/tracks.jsonl",
    "a manifest that is a folder": "data inspect {0} --manifest {0}/folder.jsonl",
    "a figure where none can be written": "data inspect {0} --figure /proc/figure.png",
    "a mix where none can be written": "data mix /proc/out.jsonl {0}/mixed.jsonl=1",
    "inspect a table with a NUL": "data inspect {0}/nul.csv",
    "curves where none can be written": "runs show {0}/run -o /proc/curves.png",
    "a report below a file": "evaluate score {0} {0} -o {0}/text.txt/out",
    "a report where none can be written": "evaluate control {0} -o /proc/out",
    "a report in place of a file": "analyze structure {0} -o {0}/text.txt",
    "a test where none can be written": "listening-test build a={0} --prompts {0}/text.txt -o /proc/out",
    "a conversion where none can be written": "convert {0}/weights.safetensors -o /proc/out",
    "new music of less than a sample": "extend {0}/tone.wav --to 1.0000000001",
    "new music before it of less than a sample": "extend {0}/tone.wav --prepend 1e-9",
    "a variation of less than a sample": "transform {0}/tone.wav --duration 1e-9",
    "a region of less than a sample": "inpaint {0}/tone.wav --region 0.5-0.5000000001",
    "an adapter for a variation that is not there": "transform {0}/tone.wav --lora {0}/missing",
    "pieces of less than a sample": "evaluate generate {0}/text.txt out --duration 1e-9",
    "prompts with a NUL to generate from": "evaluate generate {0}/nul.csv out",
    "a manifest in no folder": "data inspect {0} --manifest {0}/missing/tracks.jsonl",
    "prompts of nothing": "data prompts {0}/missing",
    "prompts of another split": "data prompts {0} --split dev",
    "mix of nothing": "data mix out.jsonl",
    "mix without shares": "data mix out.jsonl {0}/mixed.jsonl",
    "mix with a share of text": "data mix out.jsonl {0}/mixed.jsonl=much",
    "mix with a share of 0": "data mix out.jsonl {0}/mixed.jsonl=0",
    "mix with a share of NaN": "data mix out.jsonl {0}/mixed.jsonl=nan",
    "mix with a share without end": "data mix out.jsonl {0}/mixed.jsonl=inf",
    "mix of what is no manifest": "data mix out.jsonl {0}/mixed.jsonl=1",
    "mix to another kind": "data mix out.csv {0}/mixed.jsonl=1",
    "mix of one manifest twice": "data mix out.jsonl {0}/mixed.jsonl=1 {0}/./mixed.jsonl=2",
    "runs of nothing": "runs show {0}/missing",
    "runs of a folder without metrics": "runs show {0}/bare",
    "runs of a file": "runs show {0}/text.txt",
    "curves of another kind": "runs show {0}/run -o curves.xyz",
    "convert nothing": "convert {0}/missing.ckpt -o out",
    "convert text": "convert {0}/text.txt -o out --config {0}/list.json",
    "convert what is no pickle": "convert {0}/weights.ckpt -o out --config {0}/list.json",
    "convert noise": "convert {0}/weights.safetensors -o out --config {0}/list.json",
    "convert a header too long": "convert {0}/wide.safetensors -o out --config {0}/list.json",
    "convert a file cut off": "convert {0}/cut.safetensors -o out --config {0}/list.json",
    "convert without its configuration": "convert {0}/weights.safetensors -o out",
    "convert with broken JSON": "convert {0}/weights.safetensors -o out --config {0}/broken.json",
    "convert into a folder that is full": "convert {0}/weights.safetensors -o {0} --config {0}/list.json",
    "convert a folder": "convert {0}/bare -o out",
    "export to nothing": "export -o out --to midi",
    "export into a folder that is full": "export -o {0} --to diffusers",
    "export no checkpoint": "export -o out --to diffusers --checkpoint {0}/bare",
    "score nothing": "evaluate score {0}/missing {0}/missing -o out",
    "score twice by one embedder": "evaluate score {0} {0} -o out --embedder mel44 --embedder mel44",
    "reconstruct with a codec that is not there": "evaluate reconstruct-score {0} -o out --codec no/such",
    "score by another embedder": "evaluate score {0} {0} -o out --embedder vggish",
    "score with two equal ids": "evaluate score {0} {0} -o out --prompts {0}/mixed.jsonl",
    "generate from no list": "evaluate generate {0}/missing.jsonl out",
    "generate from JSON that is a list": "evaluate generate {0}/list.json out",
    "generate from equal ids": "evaluate generate {0}/mixed.jsonl out",
    "generate from an empty list": "evaluate generate {0}/empty.txt out",
    "structure of nothing": "analyze structure {0}/missing -o out",
    "structure of a file": "analyze structure {0}/text.txt -o out",
    "structure of two equal names": "analyze structure a={0}/bare a={0}/run -o out",
    "structure of a name that is a path": "analyze structure ../a={0}/bare -o out",
    "structure of no audio": "analyze structure {0}/bare -o out",
    "truth of text": "analyze structure {0} -o out --truth {0}/sections_text.jsonl",
    "truth of names": "analyze structure {0} -o out --truth {0}/sections_names.jsonl",
    "truth of words": "analyze structure {0} -o out --truth {0}/sections_words.jsonl",
    "truth that falls": "analyze structure {0} -o out --truth {0}/sections_falling.jsonl",
    "truth of NaN": "analyze structure {0} -o out --truth {0}/sections_nan.jsonl",
    "truth of other files": "analyze structure {0} -o out --truth {0}/sections_elsewhere.jsonl",
    "copies in no audio": "analyze memorization {0}/set.jsonl -o out --generated a={0}/bare",
    "a verdict for no card": "analyze memorization {0}/set.jsonl -o out --generated a={0} --card {0}/bare",
    "copies shorter than the embedder's windows": "analyze memorization {0}/set.jsonl -o out --generated a={0} "
    "--segment 0.1",
    "a test of two equal parts": "listening-test build a={0} --prompts {0}/text.txt -o out --part 1 --part 1",
    "structure without truth": "analyze structure {0}/bare -o out --truth {0}/missing.jsonl",
    "a test of nothing": "listening-test build a={0}/missing --prompts {0}/text.txt -o out",
    "a test without prompts": "listening-test build a={0}/bare --prompts {0}/missing.txt -o out",
    "a test of another format": "listening-test build a={0}/bare --prompts {0}/text.txt -o out --format m4a",
    "a test with a wrong id": "listening-test build a={0}/bare --prompts {0}/text.txt -o out --test-id A/B",
    "a score with half a key": "listening-test score {0}/key_half {0}/run -o out",
    "a score with a key of lists": "listening-test score {0}/key_lists {0}/run -o out",
    "a score with a key of text": "listening-test score {0}/key_text {0}/run -o out",
    "a score with a key without trials": "listening-test score {0}/key_trials {0}/run -o out",
    "a score of no test": "listening-test score {0}/bare {0}/run -o out",
    "to serve no test": "listening-test serve {0}/bare --port 0",
    "an unknown group": "compose",
    "an unknown command": "data list",
}


@pytest.mark.parametrize("words", [*GENERATE.values(), *OTHERS.values()], ids=[*GENERATE, *OTHERS])
def test_commands_end_in_one_line(files, tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = sorted(files.rglob("*"))
    command_fails([word.replace("{0}", str(files)) for word in words.split(" ")], tmp_path, capsys)
    assert sorted(files.rglob("*")) == before
