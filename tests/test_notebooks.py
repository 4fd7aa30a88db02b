"""The notebooks: what is kept in the repository, and that every cell runs, with tiny settings."""

from pathlib import Path

import nbclient
import nbformat
import pytest
from soundfont import needs_soundfont

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TIMEOUT_IN_S = 600


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook, after a check of its format."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def execute(name: str, parameters: dict[str, object]) -> list[nbformat.NotebookNode]:
    """Runs a notebook with other values in its cell "parameters"; returns the code cells with their outputs."""
    notebook = read(FOLDER / name)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    names = {line.partition(" = ")[0] for line in cell.source.splitlines()}
    assert names == set(parameters)
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    client = nbclient.NotebookClient(notebook, timeout=TIMEOUT_IN_S, resources={"metadata": {"path": FOLDER}})
    client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cells: list[nbformat.NotebookNode], kind: str) -> list[str]:
    """What the cells show of a MIME type."""
    return [output.data[kind] for cell in cells for output in cell.outputs if kind in output.get("data", ())]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_without_results_and_with_links_that_exist(path):
    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
        else:
            for target in relative_links(cell.source):
                assert (path.parent / target).exists(), target
    assert path.name in (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")


def relative_links(text: str) -> list[str]:
    """Relative files that a cell links to."""
    targets = [part.partition(")")[0].partition("#")[0] for part in text.split("](")[1:]]
    return [target for target in targets if target and not target.startswith("http")]


@pytest.mark.docs
def test_generate_and_edit():
    cells = execute(
        "generate_and_edit.ipynb", {"duration_in_s": 2.0, "num_inference_steps": 1, "prompt": "Genre: Piano"}
    )
    assert len(shown(cells, "image/webp")) == 6
    texts = shown(cells, "text/plain")
    assert "[2.0, 1.0]" in texts  # the durations asked for
    assert "True" in texts  # what was not inpainted is the same


@pytest.mark.docs
@needs_soundfont
def test_train_in_ten_minutes():
    cells = execute(
        "train_in_ten_minutes.ipynb",
        {
            "num_pieces": 8,
            "piece_duration_in_s": (20, 21),
            "max_steps": 2,
            "batch_size": 1,
            "num_validation_windows": 1,
            "generated_duration_in_s": 1,
        },
    )
    assert len(shown(cells, "image/webp")) == 2  # the loss and the music
