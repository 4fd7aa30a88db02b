"""Listening tests from end to end: stimuli, webMUSHRA's files, the page in a browser, results, the table."""

import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import simulated_listeners
import soundfile
import yaml
from simulated_listeners import answers_of, write_answers

from stable_longform import cli
from stable_longform.analysis.listening_test import AGAIN, QUESTIONS, Stimulus
from stable_longform.analysis.listening_test_forms import MAX_DECODED_IN_BYTES, webmushra_sessions
from stable_longform.analysis.listening_test_results import PAGE_COLUMNS, Answer
from stable_longform.analysis.listening_test_server import make_server
from stable_longform.evaluation.listening_test import ListeningTestSettings, build_test, part_name, score_test
from stable_longform.evaluation.prompt_lists import PromptRow

RATE = 44100
PROMPTS = [PromptRow("p1", "A & B </script><b>100 % + more"), PromptRow("p2", "Genre: Rock")]
SETTINGS = ListeningTestSettings("tiny", "A tiny test", (3.0, 4.0), 3, 1, 1, 1.0, "ogg", seed=5)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HAS_BROWSER = CHROMIUM is not None and importlib.util.find_spec("playwright") is not None


def write_tone(path, seconds, level, frequency=440.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)
    soundfile.write(path, np.stack([tone, 0.8 * tone], axis=1), RATE)


@pytest.fixture(scope="module")
def systems(tmp_path_factory):
    """Two systems at very different levels; one piece is too short for the second part, one is missing."""
    folder = tmp_path_factory.mktemp("systems")
    write_tone(folder / "ours" / "p1.wav", 5, 0.02)
    write_tone(folder / "ours" / "p2.wav", 3.2, 0.9, 220.0)
    write_tone(folder / "real" / "p1.wav", 6, 0.5, 330.0)
    return {name: folder / name for name in ("real", "ours")}


@pytest.fixture(scope="module")
def test_folder(systems, tmp_path_factory):
    folder = tmp_path_factory.mktemp("test")
    build_test(systems, PROMPTS, folder, SETTINGS)
    return folder


def read_key(folder):
    return json.loads((folder / "key.json").read_text(encoding="utf-8"))


def test_what_cannot_be_heard_is_named(test_folder):
    key = read_key(test_folder)
    assert key["left_out"] == {
        "3s, real, p2": "no file with that name",
        "4s, real, p2": "no file with that name",
        "4s, ours, p2": "too short: 3.20 s, less than the 4 s of the part",
    }
    assert len(key["stimuli"]) == 5


def test_stimuli_are_equally_loud_trimmed_and_not_clipped(test_folder):
    stimuli = read_key(test_folder)["stimuli"]
    levels = []
    for name, stimulus in stimuli.items():
        samples, rate = soundfile.read(test_folder / "stimuli" / f"{name}.ogg")
        assert len(samples) == round(stimulus["part_in_s"] * RATE) and rate == RATE
        assert np.abs(samples[-100:]).max() < 0.01 and np.abs(samples).max() < 1
        levels.append(pyloudnorm.Meter(rate).integrated_loudness(samples))
    assert np.ptp(levels) < 0.7 and abs(np.mean(levels) + 23) < 1


def test_damaged_stimuli_are_written_again(systems, tmp_path):
    """Whatever file of an earlier run is cut off: the second run gives the same test, and leaves the rest alone."""
    settings = replace(SETTINGS, extension="wav", is_audio_inside=False)
    build_test(systems, PROMPTS, tmp_path, settings)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    audio, notes = (sorted((tmp_path / "stimuli").glob(f"*.{kind}")) for kind in ("wav", "json"))
    damaged = [audio[0], notes[1], *(tmp_path / "work").glob("*.json")]
    for path in damaged:
        path.write_bytes(files[path][: len(files[path]) // 2])
    kept = audio[2].stat().st_mtime_ns
    build_test(systems, PROMPTS, tmp_path, settings)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    assert audio[2].stat().st_mtime_ns == kept


def test_webmushra_has_one_safe_page_a_stimulus(test_folder):
    folder = test_folder / "webmushra"
    assert not [path for path in folder.rglob("*") if path.suffix not in ("", ".yaml", ".ogg")]
    configs = sorted((folder / "configs").glob("*.yaml"))
    assert [path.stem for path in configs] == [f"tiny_l{n}_{s}" for n in (1, 2, 3) for s in (1, 2)]
    key = read_key(test_folder)
    heard = []
    for path in configs[:2]:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert config["testId"] == "tiny-l1"
        first, *pages, last = config["pages"]
        assert (first["type"], last["type"], last["writeResults"]) == ("generic", "finish", True)
        for page in pages:
            assert page["type"] == "likert_single_stimulus" and len(page["response"]) == len(QUESTIONS)
            assert re.fullmatch(r"[A-Za-z0-9_-]+", page["id"])
            ((stimulus, audio),) = page["stimuli"].items()
            assert stimulus == page["id"].removesuffix(AGAIN) and (folder / audio).is_file()
            assert "<script" not in page["content"] and "real" not in page["content"]
            heard.append(page["id"])
    assert heard == [trial for trial in key["listeners"]["1"] if trial.count("_") == trial.count(AGAIN)]


def test_sessions_hold_what_a_browser_can_decode():
    trials = [{"id": f"s{n}", "audio": f"s{n}", "part": "4m45s"} for n in range(20)]
    trials += [{"id": f"t{n}", "audio": f"t{n}", "part": "2m"} for n in range(3)]
    durations = {trial["audio"]: 285.0 for trial in trials}
    sessions = webmushra_sessions(trials, durations)
    assert [trial for session in sessions for trial in session] == trials
    assert [len(session) for session in sessions] == [9, 9, 2, 3]
    assert 9 * 285 * 48000 * 8 <= MAX_DECODED_IN_BYTES < 10 * 285 * 48000 * 8


def test_the_page_is_whole_safe_and_blind(test_folder):
    text = (test_folder / "page" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)\s*=\s*["']?https?:""", text) and text.count("</script>") == 1
    assert "data:" not in text and [path.name for path in (test_folder / "page").iterdir()] == ["index.html"]
    plan = json.loads(re.search(r"^const PLAN = (.*);$", text, re.MULTILINE)[1])
    assert plan["listeners"].keys() == {"1", "2", "3"} and '"real"' not in json.dumps(plan)
    assert plan["listeners"]["1"][0]["prompt"] in {row.prompt for row in PROMPTS}


def test_a_second_build_goes_on_with_what_is_there(systems, test_folder, tmp_path):
    shutil.copytree(test_folder, tmp_path / "again")
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "again" / "stimuli").glob("*.ogg")}
    victim = next(iter((tmp_path / "again" / "stimuli").glob("*.ogg")))
    victim.unlink()
    build_test(systems, PROMPTS, tmp_path / "again", SETTINGS)
    second = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "again" / "stimuli").glob("*.ogg")}
    assert {name for name in first if first[name] != second[name]} == {victim.name}
    assert read_key(tmp_path / "again") == read_key(test_folder)


def test_every_bad_file_is_named_and_mono_is_said(tmp_path, capsys):
    """Through the command: none of them becomes a stimulus, a mono file does."""
    tone = 0.5 * np.sin(np.arange(4 * RATE) / 9)
    broken = np.stack([tone, tone], axis=1)
    broken[1000] = np.nan
    (tmp_path / "ours").mkdir()
    for name, audio in (("mono", tone), ("silent", 0 * tone), ("empty", tone[:0]), ("short", tone[:RATE])):
        soundfile.write(tmp_path / "ours" / f"{name}.wav", audio, RATE)
    soundfile.write(tmp_path / "ours" / "nan.wav", broken, RATE, subtype="FLOAT")
    (tmp_path / "ours" / "text.wav").write_text("no audio")
    names = ("mono", "silent", "empty", "short", "nan", "text", "missing")
    rows = [json.dumps({"id": name, "prompt": name}) for name in names]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    command = ["listening-test", "build", f"ours={tmp_path / 'ours'}", "--prompts", str(tmp_path / "prompts.jsonl")]
    assert cli.main([*command, "--part", "3", "--format", "ogg", "-o", str(tmp_path / "test")]) == 0
    said = capsys.readouterr().err
    assert "1 stimuli, 6 left out" in said and "used: 3s, ours, mono: mono" in said
    for name, reason in (("silent", "silent"), ("empty", "empty"), ("short", "too short"), ("nan", "not finite"),
                         ("text", "unreadable"), ("missing", "no file with that name")):  # fmt: skip
        assert re.search(f"left out: 3s, ours, {name}: .*{reason}", said), name


def test_silence_and_bad_settings_are_refused(tmp_path):
    soundfile.write(tmp_path / "p1.wav", np.zeros((5 * RATE, 2)), RATE)
    with pytest.raises(ValueError, match="No music can be used: 3s, ours, p1: silent"):
        build_test({"ours": tmp_path}, PROMPTS[:1], tmp_path / "out", SETTINGS)
    for changes, message in (
        ({"test_id": "a b"}, "small letters"),
        ({"parts_in_s": ()}, "at least 1 second"),
        ({"extension": "mp3"}, "flac, wav, ogg"),
        ({"num_listeners": 0}, "at least one listener"),
    ):
        with pytest.raises(ValueError, match=message):
            ListeningTestSettings(**changes)
    assert [part_name(seconds) for seconds in (120.0, 285.0, 30.0)] == ["2m", "4m45s", "30s"]


def test_the_server_serves_the_page_and_keeps_results(test_folder, tmp_path):
    with make_server(test_folder / "page", tmp_path / "results") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        assert b"PLAN" in urllib.request.urlopen(f"{address}/index.html").read()
        text = ",".join(PAGE_COLUMNS) + "\r\ntiny,2,s0,musicality,4,3.0,5000\r\n"
        with ThreadPoolExecutor(8) as executor:  # at the same time
            list(executor.map(lambda _: urllib.request.urlopen(f"{address}/results", text.encode()).close(), range(8)))
        for path, body in (
            ("results", b"hello"),
            ("elsewhere", text.encode()),
            ("results", text.split("2,")[0].encode()),
        ):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(f"{address}/{path}", body)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/../key.json")
        server.shutdown()
    names = [path.name for path in sorted((tmp_path / "results").iterdir())]
    assert names == [f"l2-{number}.csv" for number in range(1, 9)]
    assert all((tmp_path / "results" / name).read_text() == text.replace("\r\n", "\n") for name in names)
    with pytest.raises(ValueError, match="no index.html"):
        make_server(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="--host 999.1.1.1 --port 0 cannot be listened on"):
        make_server(test_folder / "page", tmp_path, "999.1.1.1")


def test_simulated_listeners_give_table_4(tmp_path, capsys):
    """From result files to the table: a careless listener, one who stopped, a file of another test."""
    stimuli = [
        Stimulus(f"s{number:010x}", "2m", str(number // 3), ("real", "ours", "baseline")[number % 3])
        for number in range(18)
    ]
    answers = {str(n): answers_of(stimuli, n, careless=n == 9) for n in range(1, 10)}
    answers["3"] = answers["3"][:40]
    key = {"settings": {"test_id": "big"}, "stimuli": {s.id: asdict(s) for s in stimuli}}
    key["listeners"] = {n: list(dict.fromkeys(a.trial_id for a in answers_of(stimuli, int(n)))) for n in answers}
    (tmp_path / "key.json").write_text(json.dumps(key))
    (tmp_path / "results").mkdir()
    for listener, given in answers.items():
        write_answers(tmp_path / "results" / f"{listener}.csv", "big", given)
    (tmp_path / "results" / "other.csv").write_text("name,age\nx,3\n")
    output = tmp_path / "report"
    assert cli.main(["listening-test", "score", str(tmp_path), str(tmp_path / "results"), "-o", str(output)]) == 0
    report = json.loads((output / "scores.json").read_text())
    means = {system: scores["musicality"]["mean"] for system, scores in report["ratings"]["2m"].items()}
    assert means["real"] > means["ours"] + 0.5 > means["baseline"] + 1.0
    strengths = {name: row["strength"] for name, row in report["preferences"]["2m"]["strengths"].items()}
    assert strengths["real"] > strengths["ours"] > strengths["baseline"]
    assert list(report["screened"]) == ["9"] and list(report["unfinished"]) == ["3"] and len(report["left_out"]) == 1
    table = capsys.readouterr().out
    assert "real, 2m" in table and "1 listeners left out" in table and "other.csv" in table and " ± " in table
    with pytest.raises(ValueError, match=r"is not the key.json of a listening test"):
        score_test(output / "scores.json", [tmp_path / "results"], output)
    with pytest.raises(ValueError, match="No answer can be used"):
        score_test(tmp_path / "key.json", [tmp_path / "results" / "other.csv"], output)


def test_a_key_that_was_edited_by_hand_is_refused(tmp_path):
    stimuli = {name: {"part": "2m", "prompt_id": "p", "system": system} for name, system in (("sa", "x"), ("sb", "y"))}
    good = {"settings": {"test_id": "t"}, "stimuli": stimuli, "listeners": {"1": ["sa", "sb", "sa_again", "sa_sb"]}}
    write_answers(tmp_path / "1.csv", "t", [Answer("1", "sa", "musicality", "4")])
    (tmp_path / "key.json").write_text(json.dumps(good))
    assert score_test(tmp_path / "key.json", [tmp_path / "1.csv"], tmp_path / "out")["num_answers"] == 1
    for change, message in (
        ({"listeners": {"1": ["sc"]}}, "the trial 'sc' must be a stimulus"),
        ({"listeners": {"1": ["sa_sa"]}}, "the trial 'sa_sa' must be a stimulus, or two of different systems"),
        ({"listeners": {"1": [None]}}, "the trial None must be"),
        ({"stimuli": {}}, "the trial 'sa' must be"),
        (
            {"stimuli": stimuli | {"sb": stimuli["sb"] | {"system": None}}},
            "the stimulus sb must have part, prompt_id, system",
        ),
        (
            {"stimuli": stimuli | {"sb": stimuli["sb"] | {"part": [1]}}},
            "the stimulus sb must have part, prompt_id, system",
        ),
    ):
        (tmp_path / "key.json").write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=message):
            score_test(tmp_path / "key.json", [tmp_path / "1.csv"], tmp_path / "out")


def rate(page):
    """Hears and answers the trial that is shown, with the keyboard alone."""
    pieces = page.locator(".player").count()
    for number in range(pieces):
        page.keyboard.press("ab"[number] if pieces == 2 else "Space")
        page.wait_for_function(f"players[{number}].isHeard", timeout=20000)
    page.wait_for_function("!fieldsets[0].disabled")
    for pressed in "0" if pieces == 2 else "4235n":
        page.keyboard.press(pressed)
    assert page.locator("input:checked").count() == (1 if pieces == 2 else 5)
    page.keyboard.press("Enter")


def test_simulated_listeners_take_a_test_that_was_built(test_folder, tmp_path, monkeypatch, capsys):
    """The script answers every trial of every listener, and refuses what it can't simulate."""
    arguments = ["simulated_listeners", "--test", str(test_folder), "--num_careless", "0"]
    arguments += ["--output_dir", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*arguments, "--means", "real=5", "ours=1"])
    simulated_listeners.main()
    assert capsys.readouterr().out.startswith("Simulated listeners; no human took part.\n")
    report = json.loads((tmp_path / "scores.json").read_text())
    assert report["left_out"] == [] and report["unfinished"] == {} and report["screened"] == {}
    means = {system: scores["musicality"]["mean"] for system, scores in report["ratings"]["3s"].items()}
    assert means["real"] > 4 and means["ours"] < 2
    for specs, message in ((["real=5"], "must name ours, real"), (["real=5", "ours=0"], "'ours=0'")):
        monkeypatch.setattr("sys.argv", [*arguments, "--means", *specs])
        with pytest.raises(ValueError, match=message):
            simulated_listeners.main()


@pytest.mark.browser
@pytest.mark.skipif(not HAS_BROWSER, reason="needs chromium and playwright")
def test_a_listener_in_a_browser(test_folder, tmp_path):
    """From the first sound to the downloaded CSV, with a reload in the middle, and the score of it."""
    from playwright.sync_api import sync_playwright

    key = read_key(test_folder)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(accept_downloads=True).new_page()
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto((test_folder / "page" / "index.html").resolve().as_uri())
        page.keyboard.type("9")
        page.keyboard.press("Enter")
        assert page.locator("main h1").inner_text() == "A tiny test"  # there is no listener 9
        page.fill("#listener", "2")
        page.keyboard.press("Enter")
        assert page.locator("button.primary").is_disabled() and page.locator("fieldset input").first.is_disabled()
        assert page.locator(".prompt").inner_text() in key["prompts"].values()
        rate(page)
        rate(page)
        page.screenshot(path=tmp_path / "page.png")
        page.reload()
        page.fill("#listener", "2")
        page.keyboard.press("Enter")
        assert page.locator("progress").get_attribute("value") == "2"
        for _ in key["listeners"]["2"][2:]:
            rate(page)
        with page.expect_download() as download:
            page.click("#download")
        download.value.save_as(tmp_path / download.value.suggested_filename)
        browser.close()
    assert faults == [] and (tmp_path / "tiny-l2.csv").is_file()
    rows = list(csv.DictReader((tmp_path / "tiny-l2.csv").open(newline="", encoding="utf-8")))
    assert list(dict.fromkeys(row["trial_id"] for row in rows)) == key["listeners"]["2"]
    assert all(float(row["listened_in_s"]) >= 0.4 for row in rows)
    report = score_test(test_folder / "key.json", [tmp_path / "tiny-l2.csv"], tmp_path / "report")
    assert report["left_out"] == [] and report["unfinished"] == {} and report["num_answers"] == len(rows)
    scores = report["ratings"]["3s"]["ours"]
    assert [scores[name]["mean"] for name in QUESTIONS] == [4, 2, 3, 5, 0]
    assert set(report["preferences"]) <= {"3s", "4s"} and report["preferences"]


def test_a_server_that_is_terminated_ends_quietly(test_folder, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]

    def fail(*_):
        raise AssertionError("SIGTERM did not reach the command")

    def terminate():
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html").close()
            except urllib.error.URLError:
                time.sleep(0.05)
            else:
                break
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.signal(signal.SIGTERM, fail)
    threading.Thread(target=terminate, daemon=True).start()
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main(["listening-test", "serve", str(test_folder), "--port", str(port)])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert not ended.value.code and capsys.readouterr().out == f"http://127.0.0.1:{port}/\n"


def test_the_commands_build_and_refuse(systems, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": row.id, "prompt": row.prompt}) + "\n" for row in PROMPTS))
    folders = [f"{name}={folder}" for name, folder in systems.items()]
    command = ["listening-test", "build", *folders, "--prompts", str(prompts), "-o", str(tmp_path / "test")]
    assert cli.main([*command, "--part", "3", "--listeners", "2", "--separate-audio"]) == 0
    captured = capsys.readouterr()
    page = Path(captured.out.strip())
    assert page.is_file() and "left out: 3s, real, p2: no file with that name" in captured.err
    assert len(list((page.parent / "audio").glob("*.flac"))) == 3
    for arguments, message in (
        (["build", "nowhere", "--prompts", str(prompts), "-o", str(tmp_path / "x")], "nowhere is not a folder"),
        ([*command[1:], "--test-id", "A b"], "small letters"),
        (["score", str(tmp_path), str(prompts), "-o", str(tmp_path / "x")], "is not the key.json"),
        (["serve", str(tmp_path)], "no index.html"),
    ):
        assert cli.main(["listening-test", *arguments]) == 2
        assert message in capsys.readouterr().err
