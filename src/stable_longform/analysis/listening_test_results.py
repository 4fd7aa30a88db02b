"""Reads the answers of a listening test from the files of webMUSHRA, pymushra and our page.

Anything that is not a valid answer of this test is reported with its file and line, and ignored: other tests, other
listeners, trials that the listener does not have, values outside the scale, incomplete lines, missing columns,
contradictory answers.

Formats: webMUSHRA's `lss.csv` has `stimuli_rating1` ... `stimuli_rating5` in the order of the questions, and no name
of the session; therefore each listener has their own test id, `TEST-lNUMBER`. pymushra's CSV (separated by
semicolons), JSON and database have one list of ratings in each row. Ours has a row for each answer.
"""

import ast
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stable_longform.analysis.listening_test import AGAIN, PREFERENCE, QUESTIONS, allowed_answers
from stable_longform.utils.ranges import shown
from stable_longform.utils.text_files import read_text

PAGE_COLUMNS = ("test_id", "listener", "trial_id", "question", "answer", "listened_in_s", "time_in_ms")
WEBMUSHRA_COLUMNS = (
    "session_test_id",
    "trial_id",
    "stimuli",
    *(f"stimuli_rating{n + 1}" for n in range(len(QUESTIONS))),
)
PYMUSHRA_COLUMNS = ("wm_testId", "wm_id", "wm_type", "responses_stimulus", "responses_stimulusRating")
COLUMNS = {"page": PAGE_COLUMNS, "webmushra": WEBMUSHRA_COLUMNS, "pymushra": PYMUSHRA_COLUMNS}
EXTENSIONS = (".csv", ".json")


@dataclass(frozen=True)
class Answer:
    """A listener's answer to a question in a trial."""

    listener: str
    trial_id: str
    question: str
    answer: str


@dataclass
class Results:
    """All answers of a test, and the reasons for ignored entries: `file:line: reason`."""

    answers: list[Answer] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def read_results(paths: Sequence[Path], test_id: str, plan: Mapping[str, Sequence[str]]) -> Results:
    """Reads result files, or those of folders: all `.csv` and `.json` files that are not hidden.

    Args:
        paths: files and folders.
        test_id: of the test.
        plan: ids of each listener's trials.

    Raises:
        ValueError: a path does not exist, or there is no result file.
    """
    results, files = Results(), []
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} is not there.")
        if not path.is_dir():
            files.append(path)
            continue
        for file in _files_of(path):
            if file.suffix.lower() in EXTENSIONS:
                files.append(file)
            else:
                results.left_out.append(f"{file}: not a {' or '.join(EXTENSIONS)} file")
    if not files:
        raise ValueError(f"No result file ({', '.join(EXTENSIONS)}) in {', '.join(map(str, paths))}.")
    found: dict[tuple[str, str, str], list[tuple[str, Answer]]] = {}
    for file in files:
        entries = list(_read_file(file))
        if not entries:
            results.left_out.append(f"{file}: no answers")
        for where, read in entries:
            if isinstance(read, str):
                results.left_out.append(f"{where}: {read}")
                continue
            reason, (_, answer) = _fault(read, test_id, plan), read
            if reason:
                results.left_out.append(f"{where}: {reason}")
                continue
            key = (answer.listener, answer.trial_id, answer.question)
            found.setdefault(key, []).append((where, answer))
    for places in found.values():
        given = {answer.answer for _, answer in places}
        if len(given) == 1:
            results.answers.append(places[0][1])
            results.left_out += [f"{where}: the same answer again" for where, _ in places[1:]]
        else:
            results.left_out += [
                f"{where}: one of {len(places)} answers that contradict each other ({', '.join(sorted(given))})"
                for where, _ in places
            ]
    return results


def _files_of(folder: Path) -> list[Path]:
    """The files in a folder and its subfolders, except hidden ones, such as a file that was being written."""
    names = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [folder / name for name in names if not any(part.startswith(".") for part in name.parts)]


def _fault(read: tuple[str, Answer], test_id: str, plan: Mapping[str, Sequence[str]]) -> str | None:
    """The reason why an entry is not a valid answer of the test, or None."""
    test, answer = read
    if test != test_id:
        return f"of another test, {test!r}"
    if answer.question not in (*QUESTIONS, PREFERENCE):
        return f"no question of this test: {answer.question!r}"
    if answer.listener not in plan:
        return f"no listener of this test: {answer.listener!r}"
    is_pair = "_" in answer.trial_id.removesuffix(AGAIN)
    if answer.trial_id not in plan[answer.listener] or (answer.question == PREFERENCE) != is_pair:
        return f"no trial of this listener with {answer.question}: {answer.trial_id!r}"
    if answer.answer not in allowed_answers(answer.question):
        return f"{answer.question} cannot be {answer.answer!r}"
    return None


def _read_file(path: Path) -> Iterator[tuple[str, tuple[str, Answer] | str]]:
    """The position of each entry of a file, with the test and the answer, or the reason why there is none."""
    try:
        text = read_text(path)
        if path.suffix.lower() == ".json":
            yield from _read_pymushra_json(path, json.loads(text))
            return
        file = io.StringIO(text, newline=None)  # old spreadsheets end lines with a carriage return
        header = file.readline()
        file.seek(0)
        rows = csv.DictReader(file, delimiter=";" if header.count(";") > header.count(",") else ",")
        rows.fieldnames = columns = [name.strip() for name in rows.fieldnames or ()]
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        yield str(path), f"cannot be read: {error}"
        return
    missing = {kind: [name for name in needed if name not in columns] for kind, needed in COLUMNS.items()}
    kind = min(missing, key=lambda name: len(missing[name]) / len(COLUMNS[name]))
    if missing[kind]:
        yield str(path), f"columns that are missing: {', '.join(missing[kind])}"
        return
    if len(set(columns)) < len(columns):
        yield str(path), "two columns have the same name"
        return
    if kind == "webmushra" and f"stimuli_rating{len(QUESTIONS) + 1}" in columns:
        yield str(path), f"of another test, with more than {len(QUESTIONS)} ratings a trial"
        return
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield f"{path}:{rows.line_num + 1}", f"cannot be read: {error}"
            continue
        if row is None:
            return
        where = f"{path}:{rows.line_num}"
        if None in row or None in row.values():
            yield where, "a line that was cut off, or has another number of columns"
        else:
            yield from _read_row(where, kind, {name: value.strip() for name, value in row.items()})


def _read_row(where: str, kind: str, row: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, Answer] | str]]:
    """The answers in a row of a table."""
    if kind == "page":
        yield where, (row["test_id"], Answer(row["listener"], row["trial_id"], row["question"], row["answer"]))
    elif kind == "webmushra":
        ratings = [row[f"stimuli_rating{number + 1}"] for number in range(len(QUESTIONS))]
        yield from _split_ratings(where, row["session_test_id"], row["trial_id"], row["stimuli"], ratings)
    elif row["wm_type"] != "likert_single_stimulus":
        yield where, f"a trial of another kind, {row['wm_type']!r}"
    else:
        try:
            ratings = ast.literal_eval(row["responses_stimulusRating"])
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            yield where, f"ratings that cannot be read: {shown(row['responses_stimulusRating'])}"
        else:
            yield from _split_ratings(where, row["wm_testId"], row["wm_id"], row["responses_stimulus"], ratings)


def _read_pymushra_json(path: Path, content) -> Iterator[tuple[str, tuple[str, Answer] | str]]:
    """Answers of pymushra's database (tables of numbered trials) or of its JSON export (a list of responses)."""
    if isinstance(content, list):
        for number, row in enumerate(content, 1):
            if not isinstance(row, dict) or any(name not in row for name in PYMUSHRA_COLUMNS):
                yield f"{path}:{number}", "no response of pymushra"
                continue
            trial = row["wm_testId"], row["wm_id"], row["responses_stimulus"], row["responses_stimulusRating"]
            yield from _split_ratings(f"{path}:{number}", *trial)
        return
    tables = content.values() if isinstance(content, dict) else ()
    if not tables:
        yield str(path), "no database of pymushra"
    for table in tables:
        if not isinstance(table, dict):
            yield str(path), "a table that is no table of pymushra"
            continue
        for number, trial in table.items():
            where = f"{path}:{number}"
            try:
                for response in trial["responses"]:
                    rating = response["stimulusRating"]
                    yield from _split_ratings(where, trial["testId"], trial["id"], response["stimulus"], rating)
            except (KeyError, TypeError):
                yield where, "no trial of pymushra"


def _split_ratings(where: str, test_id, trial_id, stimulus, ratings) -> Iterator[tuple[str, tuple[str, Answer] | str]]:
    """Splits a row with all ratings of a trial into answers."""
    match = re.fullmatch(r"(.+)-l(\d+)", str(test_id))
    if match is None:
        yield where, f"of another test, {str(test_id)!r}"
    elif not isinstance(ratings, list) or len(ratings) != len(QUESTIONS):
        yield where, f"{len(QUESTIONS)} ratings are needed, got {ratings!r}"
    elif str(stimulus) != str(trial_id).removesuffix(AGAIN):
        yield where, f"trial {trial_id!r} is not of stimulus {stimulus!r}"
    else:
        for question, rating in zip(QUESTIONS, ratings, strict=True):
            yield where, (match[1], Answer(match[2], str(trial_id), question, str(rating).strip()))
