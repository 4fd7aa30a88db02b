"""Runs examples/tutorial.py, and puts what it prints, clips and pictures into docs/tutorial.md.

    python docs/update_tutorial.py

In the page, `<!-- output: STEP -->` stands above each block with the output of a step.
"""

import re
import subprocess
import sys
from pathlib import Path

from stable_longform.utils.audio import read_audio, write_clip
from stable_longform.utils.files import write_text
from stable_longform.utils.pictures import draw_music
from stable_longform.utils.scripts import ScriptParser, run_main

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "tutorial.py"
PAGE = ROOT / "docs" / "tutorial.md"
STEP = re.compile(r"^== (.+)\n", re.MULTILINE)
BLOCK = re.compile(r"<!-- output: ([^\n]+) -->\n```text\n(.*?)```\n", re.DOTALL)
CLIPS = ("first", "guidance_1", "guidance_4", "guidance_10", "techno", "inpainted", "generated/0")
# The regions that are marked in each picture.
PICTURES = {"first": [], "techno": [], "inpainted": [(4.0, 6.0)]}


def main() -> None:
    """Runs the tutorial, then writes the page and its files."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--page", type=Path, default=PAGE, help="page to update; its files go into a folder beside it")
    parser.add_argument("--work_dir", type=Path, default=ROOT / "build" / "tutorial", help="folder for the tutorial")
    parser.add_argument("--quick", action="store_true", help="use tiny settings, as a test")
    arguments = parser.parse_args()

    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    printed = arguments.work_dir / "output.txt"
    command = [sys.executable, str(SCRIPT), "--output_dir", str(arguments.work_dir), *["--quick"] * arguments.quick]
    with printed.open("wb") as file:
        subprocess.run(command, check=True, stdout=file)
    outputs = outputs_of_steps(printed.read_text(encoding="utf-8"), arguments.work_dir)
    page = replace_outputs(arguments.page.read_text(encoding="utf-8"), outputs)
    files = arguments.page.with_suffix("")
    files.mkdir(exist_ok=True)
    for name in CLIPS:
        waveform, rate = read_audio(arguments.work_dir / f"{name}.flac")
        target = files / name.replace("/", "_")
        write_clip(target.with_suffix(".opus"), waveform, rate)
        if name in PICTURES:
            draw_music(waveform, rate, target.with_suffix(".webp"), PICTURES[name])
    write_text(arguments.page, page)
    print(arguments.page)


def outputs_of_steps(output: str, work_dir: Path) -> dict[str, str]:
    """What the script has printed after each name of a step; its folder is called `tutorial`, as on the page."""
    _, *parts = STEP.split(output.replace(str(work_dir.resolve()), "tutorial"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def replace_outputs(page: str, outputs: dict[str, str]) -> str:
    """The page with the outputs of the steps in its blocks.

    Raises:
        ValueError: the page lacks a step, or has one that the script doesn't take.
    """
    shown = [step for step, _ in BLOCK.findall(page)]
    if shown != list(outputs):
        raise ValueError(f"the page must show the outputs of {list(outputs)}, in this order; got {shown}")
    return BLOCK.sub(lambda block: f"<!-- output: {block[1]} -->\n```text\n{outputs[block[1]].strip()}\n```\n", page)


if __name__ == "__main__":
    run_main(main)
