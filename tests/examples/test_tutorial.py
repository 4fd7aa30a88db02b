"""The tutorial: its page shows the script's code, and the script takes every step."""

import inspect
import re
import runpy
import shutil
import textwrap
from pathlib import Path

import pytest
from launch import ROOT, check_script

from stable_longform.utils.audio import read_info

SCRIPT = ROOT / "examples" / "tutorial.py"
PAGE = ROOT / "docs" / "tutorial.md"
UPDATE = runpy.run_path(str(ROOT / "docs" / "update_tutorial.py"))


def test_the_page_shows_code_of_the_script():
    functions = [value for value in runpy.run_path(str(SCRIPT)).values() if inspect.isfunction(value)]
    bodies = [textwrap.dedent("".join(inspect.getsourcelines(function)[0][1:])) for function in functions]
    page = PAGE.read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if " import " not in block]
    assert len(blocks) == 7
    assert [block for block in blocks if not any(block in body for body in bodies)] == []


def test_the_page_shows_an_output_of_every_step():
    outputs = UPDATE["BLOCK"].findall(PAGE.read_text(encoding="utf-8"))
    assert [step for step, _ in outputs] == re.findall(r'announce\("(.+)"\)', SCRIPT.read_text(encoding="utf-8"))
    assert [step for step, output in outputs if not output.strip()] == []


def test_outputs_replace_the_blocks_of_the_page(tmp_path: Path):
    page = "a\n\n<!-- output: One -->\n```text\nold\n```\n\nb\n\n<!-- output: Two -->\n```text\n```\n"
    outputs = UPDATE["outputs_of_steps"](f"== One\n{tmp_path}/1\n\n== Two\n| a |\nb\n", tmp_path)
    assert outputs == {"One": "tutorial/1\n\n", "Two": "| a |\nb\n"}
    updated = UPDATE["replace_outputs"](page, outputs)
    assert updated == page.replace("old\n", "tutorial/1\n").replace("text\n```\n", "text\n| a |\nb\n```\n")
    assert UPDATE["replace_outputs"](updated, outputs) == updated
    for wrong in ({"One": "1"}, outputs | {"Three": ""}, {"Two": "", "One": ""}):
        with pytest.raises(ValueError, match="must show the outputs of"):
            UPDATE["replace_outputs"](page, wrong)


@pytest.mark.docs
def test_every_step_writes_its_result_and_the_page_shows_it(tmp_path: Path):
    page, folder = tmp_path / "page.md", tmp_path / "tutorial"
    shutil.copy(PAGE, page)
    check_script(UPDATE["__file__"], "--quick", "--work_dir", folder, "--page", page, timeout_in_s=900)
    names = ["first", "seed_1", "seed_2", "seed_3", "guidance_1", "guidance_4", "guidance_10", "without_drums"]
    for name in [*names, "techno", "inpainted", "generated/0", "generated/1"]:
        assert read_info(folder / f"{name}.flac").duration_in_s == 8.0
    outputs = dict(UPDATE["BLOCK"].findall(page.read_text(encoding="utf-8")))
    assert outputs["A prompt"] == "(2, 352800) 44100\n"
    assert outputs["Your own sound"].endswith("\ntutorial/lora_run/curves.png\n")
    assert outputs["Evaluate"].strip() == (folder / "report" / "table.md").read_text(encoding="utf-8").strip()
    assert outputs["Inpainting"] == "changed from 4.00 s to 6.00 s\n"
    for name in UPDATE["CLIPS"]:
        clip = page.with_suffix("") / f"{name.replace('/', '_')}.opus"
        assert read_info(clip).duration_in_s == pytest.approx(8.0, abs=0.01)
