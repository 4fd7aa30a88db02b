"""Result files: three tools' formats, and everything that is wrong with one is named."""

import csv
import io
import json
from dataclasses import asdict

import pytest
from simulated_listeners import make_stimuli

from stable_longform.analysis.listening_test import QUESTIONS
from stable_longform.analysis.listening_test_results import PAGE_COLUMNS, Answer, read_results

STIMULI = make_stimuli(2)
BY_ID = {stimulus.id: asdict(stimulus) for stimulus in STIMULI}
NAME, OTHER = STIMULI[0].id, STIMULI[1].id
RATINGS = ["4", "3", "5", "2", "yes"]
EXPECTED = {Answer("7", NAME, question, value) for question, value in zip(QUESTIONS, RATINGS, strict=True)}


def csv_text(rows, delimiter=","):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue()


def page_rows(**changes):
    rows = [PAGE_COLUMNS]
    for question, value in zip(QUESTIONS, RATINGS, strict=True):
        row = {"test_id": "t", "listener": "7", "trial_id": NAME, "question": question, "answer": value}
        row |= {"listened_in_s": "31.5", "time_in_ms": "40000"} | changes
        rows.append([row[name] for name in PAGE_COLUMNS])
    return rows


def webmushra_rows(test="t-l7", trial=NAME, stimulus=NAME, ratings=RATINGS):
    names = [f"stimuli_rating{number}" for number in range(1, 6)]
    return [
        ["session_test_id", "trial_id", *names, "stimuli", "rating_time"],
        [test, trial, *ratings, stimulus, 40000],
    ]


def pymushra_rows(kind="likert_single_stimulus", ratings="[4, 3, 5, 2, 'yes']"):
    header = ["responses_stimulus", "responses_stimulusRating", "responses_time", "questionaire_uuid", "wm_type"]
    return [
        [*header, "wm_id", "wm_testId", "wm_date"],
        [NAME, ratings, 40000, "0-1", kind, NAME, "t-l7", "2026-01-01"],
    ]


def read(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_results([tmp_path / name], "t", BY_ID)


@pytest.mark.parametrize(
    ("name", "text"),
    (
        ("page.csv", csv_text(page_rows())),
        ("spaced.csv", csv_text(page_rows()).replace(",", " , ")),
        ("with_bom.csv", "\ufeff" + csv_text(page_rows())),
        ("spreadsheet.csv", csv_text(page_rows(), ";")),
        ("lss.csv", csv_text(webmushra_rows())),
        ("pymushra.csv", csv_text(pymushra_rows(), ";")),
        ("records.json", json.dumps([dict(zip(*pymushra_rows(ratings=[4, 3, 5, 2, "yes"]), strict=True))])),
        (
            "database.json",
            json.dumps(
                {"t-l7": {"1": {
                    "id": NAME, "testId": "t-l7", "type": "likert_single_stimulus",
                    "responses": [{"stimulus": NAME, "stimulusRating": [4, 3, 5, 2, "yes"], "time": 40000}],
                }}}
            ),
        ),
    ),
)  # fmt: skip
def test_all_formats_say_the_same(tmp_path, name, text):
    results = read(tmp_path, name, text)
    assert set(results.answers) == EXPECTED and results.left_out == []


@pytest.mark.parametrize(
    ("name", "text", "reason", "count"),
    (
        ("a.csv", csv_text(page_rows(test_id="another")), "of another test, 'another'", 5),
        ("a.csv", csv_text(page_rows(answer="6")), "cannot be '6'", 5),
        ("a.csv", csv_text(page_rows(answer="4.5")), "cannot be '4.5'", 5),
        ("a.csv", csv_text(page_rows(answer="NA")), "cannot be 'NA'", 5),
        ("a.csv", csv_text(page_rows(trial_id="s0123456789")), "no trial of this test", 5),
        ("a.csv", csv_text(page_rows(question="mood")), "no question of this test", 5),
        ("a.csv", csv_text(page_rows(listener="")), "no listener", 5),
        ("a.csv", csv_text(page_rows())[:-40], "cut off", 1),
        ("a.csv", csv_text([[*row, row[4]] for row in page_rows()]), "two columns have the same name", 1),
        ("a.csv", csv_text([row[:4] for row in page_rows()]), "columns that are missing: answer", 1),
        ("a.csv", "", "columns that are missing", 1),
        ("lss.csv", csv_text(webmushra_rows(test="t")), "of another test", 1),
        ("lss.csv", csv_text(webmushra_rows(ratings=["4", "3", "yes", "2", "5"])), "cannot be", 2),
        ("lss.csv", csv_text(webmushra_rows(stimulus=OTHER)), "is not of stimulus", 1),
        ("lss.csv", csv_text([row[:5] for row in webmushra_rows()]), "columns that are missing", 1),
        ("py.csv", csv_text(pymushra_rows(kind="mushra"), ";"), "a trial of another kind, 'mushra'", 1),
        ("py.csv", csv_text(pymushra_rows(ratings="[4, 3"), ";"), "cannot be read", 1),
        ("py.csv", csv_text(pymushra_rows(ratings="[4, 3]"), ";"), "5 ratings are needed", 1),
        ("a.json", '{"t": {"1": ', "cannot be read", 1),
        ("a.json", '{"t": {"1": {"id": "x"}}}', "no trial of pymushra", 1),
        ("a.json", "[3]", "no response of pymushra", 1),
        ("a.json", "5", "no database of pymushra", 1),
    ),
)
def test_what_is_no_answer_is_named_and_counted(tmp_path, name, text, reason, count):
    results = read(tmp_path, name, text)
    found = [line for line in results.left_out if reason in line and name in line]
    assert len(found) == count, results.left_out
    assert all(answer in EXPECTED for answer in results.answers)


def test_answers_twice_count_once_and_contradictions_not_at_all(tmp_path):
    rows = page_rows()
    (tmp_path / "a.csv").write_text(csv_text(rows))
    changed = [row[:] for row in map(list, rows)]
    changed[1][4] = "1"
    (tmp_path / "b.csv").write_text(csv_text(changed))
    results = read_results([tmp_path], "t", BY_ID)
    assert {answer.question for answer in results.answers} == set(list(QUESTIONS)[1:])
    assert sum("contradict" in line for line in results.left_out) == 2
    assert sum("the same answer again" in line for line in results.left_out) == 4


def test_paths_without_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        read_results([tmp_path / "nowhere"], "t", BY_ID)
    with pytest.raises(ValueError, match="No result file"):
        read_results([tmp_path], "t", BY_ID)
