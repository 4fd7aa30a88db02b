"""Result files: three tools' formats, and everything that is wrong with one is named."""

import csv
import io
import json

import pytest
from simulated_listeners import make_stimuli

from stable_longform.analysis.listening_test import AGAIN, PREFERENCE, QUESTIONS
from stable_longform.analysis.listening_test_results import PAGE_COLUMNS, Answer, read_results

STIMULI = make_stimuli(2)
NAME, OTHER = STIMULI[0].id, STIMULI[1].id
PLAN = {"7": [NAME, OTHER, f"{NAME}_{OTHER}"], "8": [OTHER]}
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
    return read_results([tmp_path / name], "t", PLAN)


@pytest.mark.parametrize(
    ("name", "text"),
    (
        ("page.csv", csv_text(page_rows())),
        ("spaced.csv", csv_text(page_rows()).replace(",", " , ")),
        ("with_bom.csv", "\ufeff" + csv_text(page_rows())),
        ("spreadsheet.csv", csv_text(page_rows(), ";")),
        ("old_spreadsheet.csv", csv_text(page_rows()).replace("\r\n", "\r")),
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
        ("a.csv", csv_text(page_rows(trial_id="s0123456789")), "no trial of this listener", 5),
        ("a.csv", csv_text(page_rows(question="mood")), "no question of this test", 5),
        ("a.csv", csv_text(page_rows(listener="")), "no listener of this test: ''", 5),
        ("a.csv", csv_text(page_rows(listener="7.0")), "no listener of this test: '7.0'", 5),  # from a spreadsheet
        ("a.csv", csv_text(page_rows(listener="8")), "no trial of this listener", 5),
        ("a.csv", csv_text(page_rows(trial_id=f"{NAME}_{OTHER}")), "no trial of this listener with", 5),
        ("a.csv", csv_text(page_rows())[:-40], "cut off", 1),
        ("a.csv", csv_text([[*row, row[4]] for row in page_rows()]), "two columns have the same name", 1),
        ("a.csv", csv_text([row[:4] for row in page_rows()]), "columns that are missing: answer", 1),
        ("a.csv", "", "columns that are missing", 1),
        ("a.csv", csv_text(page_rows()[:1]), "no answers", 1),
        ("a.csv", "x" * 200_000, "cannot be read", 1),
        ("lss.csv", csv_text([[*row, "stimuli_rating6"] for row in webmushra_rows()]), "more than 5 ratings", 1),
        ("a.json", '{"t": [1]}', "no table of pymushra", 1),
        ("a.json", "{}", "no database of pymushra", 1),
        ("lss.csv", csv_text(webmushra_rows(test="t")), "of another test", 1),
        ("lss.csv", csv_text(webmushra_rows(ratings=["4", "3", "yes", "2", "5"])), "cannot be", 2),
        ("lss.csv", csv_text(webmushra_rows(stimulus=OTHER)), "is not of stimulus", 1),
        ("lss.csv", csv_text([row[:5] for row in webmushra_rows()]), "columns that are missing", 1),
        ("py.csv", csv_text(pymushra_rows(kind="mushra"), ";"), "a trial of another kind, 'mushra'", 1),
        ("py.csv", csv_text(pymushra_rows(ratings="[4, 3"), ";"), "cannot be read", 1),
        ("py.csv", csv_text(pymushra_rows(ratings="[" * 5000), ";"), "cannot be read", 1),
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


def test_rows_after_one_that_cannot_be_read_count(tmp_path):
    """A slip of the hand costs one line, not the rest of the file."""
    header, row = pymushra_rows()
    results = read(tmp_path, "py.csv", csv_text([header, [*row[:1], "[4, 3", *row[2:]], row], ";"))
    assert set(results.answers) == EXPECTED and len(results.left_out) == 1 and "py.csv:2" in results.left_out[0]
    huge = page_rows()
    huge.insert(1, ["x" * 200_000, *huge[1][1:]])
    results = read(tmp_path, "page.csv", csv_text(huge))
    assert set(results.answers) == EXPECTED and len(results.left_out) == 1 and "page.csv:2" in results.left_out[0]


def test_files_of_a_folder(tmp_path):
    """Any case of the extension; a file that was being written when the server was killed is not read."""
    (tmp_path / "A.CSV").write_text(csv_text(page_rows()))
    (tmp_path / ".l7-1.123.csv").write_text(csv_text(page_rows(answer="1")))
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    results = read_results([tmp_path], "t", PLAN)
    assert set(results.answers) == EXPECTED and results.left_out == [
        f"{tmp_path / 'a.xlsx'}: not a .csv or .json file"
    ]


def test_folders_in_folders_are_read_but_for_hidden_ones(tmp_path):
    for folder, answer in (("monday", "4"), (".partial", "1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.csv").write_text(csv_text(page_rows(answer=answer)[:2]))
    results = read_results([tmp_path], "t", PLAN)
    assert [answer.answer for answer in results.answers] == ["4"] and results.left_out == []


def test_a_trial_that_is_heard_again_has_answers_of_its_own(tmp_path):
    """Both of a piece and of a pair of pieces; its stimulus is that of the first time."""
    pair = f"{NAME}_{OTHER}"
    plan = {"7": [NAME, NAME + AGAIN, pair, pair + AGAIN]}
    preferences = [page_rows(trial_id=pair + again, question=PREFERENCE, answer="a")[1] for again in ("", AGAIN)]
    (tmp_path / "page.csv").write_text(csv_text([PAGE_COLUMNS, *preferences]))
    (tmp_path / "lss.csv").write_text(csv_text(webmushra_rows(trial=NAME + AGAIN) + webmushra_rows()[1:]))
    results = read_results([tmp_path], "t", plan)
    again = {Answer("7", NAME + AGAIN, answer.question, answer.answer) for answer in EXPECTED}
    both = {Answer("7", pair, PREFERENCE, "a"), Answer("7", pair + AGAIN, PREFERENCE, "a")}
    assert set(results.answers) == EXPECTED | again | both and results.left_out == []


def test_answers_twice_count_once_and_contradictions_not_at_all(tmp_path):
    rows = page_rows()
    (tmp_path / "a.csv").write_text(csv_text(rows))
    changed = [row[:] for row in map(list, rows)]
    changed[1][4] = "1"
    (tmp_path / "b.csv").write_text(csv_text(changed))
    results = read_results([tmp_path], "t", PLAN)
    assert {answer.question for answer in results.answers} == set(list(QUESTIONS)[1:])
    assert sum("contradict" in line for line in results.left_out) == 2
    assert sum("the same answer again" in line for line in results.left_out) == 4


def test_paths_without_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        read_results([tmp_path / "nowhere"], "t", PLAN)
    with pytest.raises(ValueError, match="No result file"):
        read_results([tmp_path], "t", PLAN)
