"""The tutorial: its page shows the script's code, and the script takes every step."""

import inspect
import re
import runpy
import textwrap
from pathlib import Path

import pytest
from launch import ROOT, check_script

from stable_longform.utils.audio import read_info

SCRIPT = ROOT / "examples" / "tutorial.py"


def test_the_page_shows_code_of_the_script():
    functions = [value for value in runpy.run_path(str(SCRIPT)).values() if inspect.isfunction(value)]
    bodies = [textwrap.dedent("".join(inspect.getsourcelines(function)[0][1:])) for function in functions]
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if " import " not in block]
    assert len(blocks) == 7
    assert [block for block in blocks if not any(block in body for body in bodies)] == []


@pytest.mark.docs
def test_every_step_writes_its_result(tmp_path: Path):
    check_script(SCRIPT, "--quick", "--output_dir", tmp_path, timeout_in_s=900)
    names = ["first", "seed_1", "seed_2", "seed_3", "guidance_1", "guidance_4", "guidance_10", "without_drums"]
    for name in [*names, "techno", "inpainted", "generated/0", "generated/1"]:
        assert read_info(tmp_path / f"{name}.flac").duration_in_s == 4.0
    assert (tmp_path / "report" / "table.md").is_file()
