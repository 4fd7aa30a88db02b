"""Makes the clips and pictures of docs/samples.md, and the page itself.

    python examples/samples.py                     # with the embedded checkpoint, into docs/samples

Each clip is 20 seconds from one prompt, with the checkpoint's own number of steps and guidance scale. The seeds are
1, 2, 3 ...: the clips are not selected from several.
"""

from pathlib import Path

import torch

from stable_longform import TINY_CHECKPOINT, LongFormMusicPipeline
from stable_longform.utils.audio import write_clip
from stable_longform.utils.files import write_text
from stable_longform.utils.pictures import draw_music
from stable_longform.utils.scripts import SECONDS, STEPS, ScriptParser, run_main

DURATION_IN_S = 20.0
# The name of each clip's files, and its prompt.
CLIPS = {
    "piano": "Genre: Piano|Instruments: Piano|BPM: 90|Key: C major",
    "ambient": "Genre: Ambient|Instruments: Vibraphone, Warm Pad|Moods: Calm",
    "rock": "Genre: Rock|Instruments: Electric Guitar, Bass Guitar, Drums|BPM: 120",
    "techno": "techno, synth, drums, 130 BPM",
}

HEAD = """\
# Samples

What the checkpoint inside the package makes: one clip for each prompt, with the seeds 1, 2, 3 ..., none chosen from
several. It is a tiny model; [its card](../src/stable_longform/checkpoints/tiny/README.md) has its measurements. This
command makes the clips, the pictures and this page:

```bash
python examples/samples.py
```
"""

CLIP = """
## {title}

`{prompt}`

<audio controls preload="metadata" src="samples/{name}.opus"></audio>

![Waveform and spectrogram of {name}](samples/{name}.webp)

```bash
stable-longform generate "{prompt}" --duration {duration:g} --seed {seed} -o {name}.flac
```
"""


def main() -> None:
    """Writes a clip and a picture for each prompt, then the page that shows them."""
    parser = ScriptParser(__doc__)
    parser.add_argument("--checkpoint", default=TINY_CHECKPOINT, help="folder or Hub id")
    parser.add_argument("--output_dir", type=Path, default=Path("docs/samples"), help="folder for clips and pictures")
    parser.add_number("--duration", SECONDS, kind=float, default=DURATION_IN_S, help="seconds of each clip")
    parser.add_number("--num_inference_steps", STEPS, help="sampling steps; by default the checkpoint's")
    arguments = parser.parse_args()

    folder = arguments.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    pipe = LongFormMusicPipeline.from_pretrained(arguments.checkpoint)
    for seed, (name, prompt) in enumerate(CLIPS.items(), 1):
        result = pipe(
            prompt,
            duration=arguments.duration,
            num_inference_steps=arguments.num_inference_steps,
            generator=torch.Generator().manual_seed(seed),
        )
        write_clip(folder / f"{name}.opus", result.audios[0], result.sampling_rate)
        draw_music(result.audios[0], result.sampling_rate, folder / f"{name}.webp")
        print(folder / f"{name}.opus")
    write_text(folder.with_suffix(".md"), make_page(arguments.duration))


def make_page(duration_in_s: float) -> str:
    """The Markdown page beside the folder."""
    clips = [
        CLIP.format(title=name.capitalize(), name=name, prompt=prompt, duration=duration_in_s, seed=seed)
        for seed, (name, prompt) in enumerate(CLIPS.items(), 1)
    ]
    return "".join([HEAD, *clips])


if __name__ == "__main__":
    run_main(main)
