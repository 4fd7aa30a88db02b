"""The page in the browser, and how each of its tabs calls the package.

The functions at the top call the pipelines. The rest is the page around them, in Gradio: controls, progress, results.
"""

import functools
import html
import math
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from stable_longform.app.studio import Cancelled, Make, Progress, Studio, Visitors
from stable_longform.music_files import write_music
from stable_longform.pipelines.inputs import check_number
from stable_longform.pipelines.pieces import check_edit
from stable_longform.pipelines.pipeline_longform_music import LongFormMusicPipeline
from stable_longform.pipelines.pipeline_longform_music_audio_to_audio import LongFormMusicAudioToAudioPipeline
from stable_longform.pipelines.pipeline_longform_music_inpaint import LongFormMusicInpaintPipeline
from stable_longform.utils.accepted_values import EDIT_METHODS, MAX_SEED
from stable_longform.utils.audio import AudioInfo, read_audio
from stable_longform.utils.files import file_sha256
from stable_longform.utils.pictures import draw_music, envelope
from stable_longform.utils.ranges import Range
from stable_longform.utils.recordings import check_file, checked_blocks
from stable_longform.utils.seeding import draw_seed
from stable_longform.utils.timecodes import SECONDS, format_seconds, parse_region, parse_seconds, parse_sections

MAX_UPLOAD = "500mb"
MAX_UPLOAD_IN_S = 900.0
MAX_RESULT_IN_S = 900.0
MAX_HISTORY = 30  # pieces kept for each visitor
MAX_KNOWN_UPLOADS = 100  # whose peaks are remembered
NUM_PEAKS = 600
PLACES, DURATIONS = Range(0, MAX_RESULT_IN_S), Range(SECONDS.low, MAX_RESULT_IN_S)
PRESETS = {
    "Ambient piano": ("Genre: Ambient|Instruments: Piano, Strings|Moods: Calm", 60),
    "Techno": ("Genre: Techno|Instruments: Synthesizer, Drums|Moods: Energetic|128 BPM", 60),
    "Rock band": ("Genre: Rock|Instruments: Electric Guitar, Bass, Drums|120 BPM", 45),
    "Jazz trio": ("Genre: Jazz|Instruments: Piano, Double Bass, Drums|Moods: Relaxed", 45),
    "Orchestra": ("Genre: Classical|Instruments: Strings, Brass, Timpani|Moods: Epic", 90),
}
SECTIONS = "0:00 Genre: Ambient|Instruments: Piano\n0:15 Genre: Rock|Instruments: Guitar, Drums\n0:30 Genre: Ambient"
STAGES = {"waiting": "Waiting for other generations", "preparing": "Preparing"}
CSS = """
footer { display: none !important; }
.gradio-container { width: 100%; max-width: 1280px !important; margin: auto; }
#status .bar { height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden; }
#status .bar div { height: 100%; background: var(--color-accent); }
.error { color: var(--error-text-color, #b91c1c); font-weight: 600; }
#picture img { width: 100%; }
#picture .icon-button-wrapper { display: none; }
@media (max-width: 640px) { .tab-container button { padding: 0 7px !important; font-size: 0.9em; } }
"""
REGIONS_CSS = """
canvas { width: 100%; height: 110px; touch-action: none; cursor: crosshair; border-radius: 8px;
         background: var(--background-fill-secondary); }
p { font-size: 0.85em; opacity: 0.75; margin: 4px 0 0; }
"""
REGIONS_HTML = (
    '<canvas aria-label="waveform"></canvas><p>Drag over the waveform to mark a region; tap one to remove it.</p>'
)
THEME_JS = """() => {
    const isDark = document.body.classList.toggle("dark");
    localStorage.setItem("stable-longform-theme", isDark ? "dark" : "light");
}"""
LOAD_JS = """() => {
    const theme = localStorage.getItem("stable-longform-theme");
    if (theme) document.body.classList.toggle("dark", theme === "dark");
}"""


# --- the pipelines; `open_pipeline` is `pipeline_class.from_pipe(pipe)` with progress


def text_to_music(open_pipeline, prompt, duration: float, **settings) -> Iterator[torch.Tensor]:
    """Generates music from a prompt, or from sections `[(start in seconds, prompt), ...]`."""
    pipe = open_pipeline(LongFormMusicPipeline)
    latents = pipe(prompt, duration, output_type="latent", **settings).audios[0]
    yield from pipe.stream_latents(latents, duration)


def transform(open_pipeline, prompt: str, audio: str, duration: float, **settings) -> Iterator[torch.Tensor]:
    """Transforms a recording."""
    pipe = open_pipeline(LongFormMusicAudioToAudioPipeline)
    latents = pipe(prompt, audio, duration=duration, output_type="latent", **settings).audios[0]
    yield from pipe.stream_latents(latents, duration)


def inpaint(open_pipeline, prompt: str, audio: str, **settings) -> Iterator[torch.Tensor]:
    """Replaces regions of a recording, or, with `extend_to` and `prepend_in_s`, adds music around it."""
    pipe = open_pipeline(LongFormMusicInpaintPipeline)
    yield from pipe(prompt, audio, output_type="stream", **settings).audios[0]


# --- controls, as people fill them in, to arguments


def check_upload(path: str) -> tuple[AudioInfo, tuple[float, ...]]:
    """Reads the properties and the peaks of an uploaded file; raises a ValueError if it cannot be used."""
    if not path:
        raise ValueError("Upload an audio file first.")
    info = check_file(path, MAX_UPLOAD_IN_S)
    return info, _read_peaks(path, round(info.duration_in_s * info.sampling_rate))


@functools.lru_cache(MAX_KNOWN_UPLOADS)
def _read_peaks(path: str, num_samples: int) -> tuple[float, ...]:
    """At most `NUM_PEAKS` peaks in [0, 1]; checks the samples. An upload never changes, so it is decoded only once."""
    width = math.ceil(num_samples / (8 * NUM_PEAKS))
    blocks = (block.abs().amax(dim=0) for block in checked_blocks(path))
    peaks = envelope(torch.cat([envelope(block, math.ceil(len(block) / width)) for block in blocks]), NUM_PEAKS)
    return tuple(round(float(peak), 3) for peak in peaks / peaks.max())


def parse_regions(text: str) -> list[tuple[float, float]]:
    """Parses regions such as `0:10-0:15, 0:20-0:21` to seconds."""
    try:
        return [parse_region(part.strip(), PLACES) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(f"Regions: {error}") from error


def format_regions(regions: list) -> str:
    """The inverse of `parse_regions`, in seconds."""
    return ", ".join(f"{start:g}-{stop:g}" for start, stop in regions)


def parse_duration(name: str, text: str, accepted: Range = DURATIONS) -> float:
    """Parses a duration such as `1:30` to seconds."""
    try:
        return parse_seconds(text, accepted)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def parse_seed(text: str) -> int:
    """Parses a seed; an empty text gives a random one."""
    if not text.strip():
        return draw_seed()
    if not text.strip().isdecimal() or int(text) > MAX_SEED:
        raise ValueError(f"Seed must be a whole number in [0, {MAX_SEED}], got {text!r}.")
    return int(text)


# --- the page


def show_status(progress: Progress) -> str:
    """The progress as a line of text and a bar."""
    share, text = 0.0, STAGES.get(progress.stage, "")
    if progress.stage == "sampling":
        text = f"Sampling, step {progress.done} of {progress.total}"
    elif progress.stage == "decoding":
        text = f"Decoding, {format_seconds(progress.done)} of {format_seconds(progress.total)}"
    if progress.total:
        share = progress.done / progress.total
    if progress.remaining_in_s is not None:
        text += f", about {format_seconds(progress.remaining_in_s)} left"
    return f'<p role="status">{text}</p><div class="bar"><div style="width: {share:.1%}"></div></div>'


def show_error(error: Exception, upload: str | None = None) -> str:
    """An error as a sentence, with the user's own name of an upload."""
    text = " ".join(str(error).split())
    if upload:
        text = text.replace(str(upload), Path(upload).name)
    if text.split(" ")[0].isalpha():
        text = text[0].upper() + text[1:]
    return f'<p class="error" role="alert">{html.escape(text)}</p>'


@dataclass(frozen=True)
class MusicRequest:
    """A request for music.

    Args:
        make: takes a function that opens a pipeline class, and yields decoded chunks.
        made: the settings for the tags of the file.
        title: of the music.
        regions: new parts of the result, in seconds, to be marked.
        duration_in_s: of the result.
    """

    make: Make
    made: dict
    title: str
    regions: list[tuple[float, float]]
    duration_in_s: float


class Page:
    """The controls of the page and what they do.

    Args:
        studio: makes the music.
        folder: for the results, with a subfolder for each visitor until they leave.
    """

    def __init__(self, studio: Studio, folder: Path):
        self.studio, self.folder = studio, folder
        self.visitors = Visitors()
        self.tabs: dict[str, dict] = {}  # command -> controls by the names of its arguments
        self.notes: dict[str, gr.HTML] = {}  # command -> the line below its upload
        config = studio.pipe.config
        self.window_in_s = studio.pipe.max_duration_in_s
        self.default_steps, self.default_guidance = config.num_inference_steps, config.guidance_scale

    def build(self) -> gr.Blocks:
        """Builds the whole page."""
        with gr.Blocks(title="stable-longform", analytics_enabled=False, delete_cache=(600, 7200)) as blocks:
            with gr.Row():
                gr.Markdown(
                    f"# stable-longform\nModel **{html.escape(Path(self.studio.checkpoint).name)}**, "
                    f"up to {format_seconds(self.window_in_s)} per generation"
                )
                theme = gr.Button("Light / dark", size="sm", elem_id="theme", min_width=110, scale=0)
            with gr.Row():
                with gr.Column(scale=6, min_width=320):
                    buttons = self._build_controls()
                with gr.Column(scale=5, min_width=320):
                    self._build_results()
            theme.click(None, js=THEME_JS)
            blocks.load(None, js=LOAD_JS)
            self._connect(buttons)
            blocks.unload(self._forget)
        blocks.queue(max_size=40)
        return blocks

    def _build_controls(self) -> dict[str, gr.Button]:
        """Builds the tabs and their shared settings; returns the button of each tab."""
        buttons = {}
        with gr.Tabs():
            with gr.Tab("Text"):
                self.preset = gr.Dropdown(["", *PRESETS], label="Preset", value="")
                prompt = _prompt("Genre: Ambient|Instruments: Piano, Strings")
                duration = gr.Textbox(
                    format_seconds(min(30.0, self.window_in_s)), label="Duration", info="For example 30 or 1:30."
                )
                if self.window_in_s < 1:
                    duration.value = f"{self.window_in_s:g}"
                self.tabs["generate"] = {"prompt": prompt, "duration_in_s": duration}
                buttons["generate"] = gr.Button("Generate", variant="primary")
            with gr.Tab("Transform"):
                audio, prompt = self._upload("transform"), _prompt("What it should become")
                strength = gr.Slider(
                    0.01, 1, 0.8, step=0.01, label="Strength", info="At 1 the original has no influence."
                )
                method = gr.Radio(list(EDIT_METHODS), value="noise", label="Method")
                source = gr.Textbox(label="Description of the original", info="Used by invert and edit. May be empty.")
                self.tabs["transform"] = {
                    "audio": audio, "prompt": prompt, "strength": strength, "method": method, "source_prompt": source,
                }  # fmt: skip
                buttons["transform"] = gr.Button("Transform", variant="primary")
            with gr.Tab("Inpaint"):
                audio = self._upload("inpaint")
                self.waveform = gr.HTML(
                    html_template=REGIONS_HTML,
                    css_template=REGIONS_CSS,
                    js_on_load=(Path(__file__).parent / "regions.js").read_text(encoding="utf-8"),
                    elem_id="regions",
                )
                regions = gr.Textbox(label="Regions to replace", placeholder="0:10-0:15, 0:20-0:21")
                prompt, loop = (
                    _prompt("Prompt for the new regions"),
                    gr.Checkbox(label="Loop: the end continues into the start"),
                )
                self.tabs["inpaint"] = {"audio": audio, "prompt": prompt, "regions": regions, "loop": loop}
                buttons["inpaint"] = gr.Button("Inpaint", variant="primary")
            with gr.Tab("Extend"):
                audio, prompt = self._upload("extend"), _prompt("How the music should continue")
                with gr.Row():
                    extend_to = gr.Textbox(
                        label="Total duration", placeholder="1:30", info="Music is added at the end."
                    )
                    prepend = gr.Textbox(label="Seconds before", placeholder="0", info="Music is added at the start.")
                loop = gr.Checkbox(label="Loop: the end continues into the start")
                self.tabs["extend"] = {
                    "audio": audio, "prompt": prompt, "extend_to": extend_to, "prepend_in_s": prepend, "loop": loop,
                }  # fmt: skip
                buttons["extend"] = gr.Button("Extend", variant="primary")
            with gr.Tab("Sections"):
                sections = gr.Textbox(
                    SECTIONS, label="Sections", lines=5, info="One section per line: start time and prompt."
                )
                duration = gr.Textbox(format_seconds(min(45.0, self.window_in_s)), label="Duration")
                self.tabs["sections"] = {"sections": sections, "duration_in_s": duration}
                buttons["sections"] = gr.Button("Generate sections", variant="primary")
        with gr.Accordion("Settings", open=False):
            negative = gr.Textbox(label="Negative prompt", info="What the music should not sound like.")
            with gr.Row():
                steps = gr.Slider(1, 200, self.default_steps, step=1, label="Steps", min_width=140)
                guidance = gr.Slider(1, 15, self.default_guidance, step=0.1, label="Guidance", min_width=140)
            with gr.Row():
                seed = gr.Textbox(label="Seed", placeholder="random", min_width=140)
                format = gr.Radio(["flac", "wav", "mp3"], value="flac", label="File", min_width=140)
        self.shared = {
            "negative_prompt": negative, "num_inference_steps": steps, "guidance_scale": guidance, "seed": seed,
            "format": format,
        }  # fmt: skip
        return buttons

    def _upload(self, command: str) -> gr.Audio:
        """Builds an upload field with a line for its properties or its error."""
        audio = gr.Audio(type="filepath", sources=["upload"], label="Music", editable=False, buttons=[])
        self.notes[command] = gr.HTML(elem_classes="note")
        return audio

    def _build_results(self) -> None:
        """Builds the progress, the result and the history."""
        self.status = gr.HTML("<p>No music yet.</p>", elem_id="status")
        self.cancel = gr.Button("Cancel", variant="stop", size="sm", visible=False)
        self.player = gr.Audio(label="Music", interactive=False, elem_id="player", buttons=[])
        self.picture = gr.Image(show_label=False, elem_id="picture", interactive=False, visible=False, buttons=[])
        self.download = gr.DownloadButton("Download", visible=False, size="sm")
        self.history = gr.State([])
        self.choice = gr.Radio([], label="Results of this session", visible=False, type="index")
        with gr.Accordion("How it was made", open=False, visible=False) as self.made:
            self.values = gr.JSON(show_label=False)
            self.reuse = gr.Button("Use these settings", size="sm")
        self.results = [
            self.status, self.cancel, self.player, self.picture, self.download, self.history, self.choice, self.made,
            self.values,
        ]  # fmt: skip

    def _connect(self, buttons: dict[str, gr.Button]) -> None:
        """Connects the controls with their actions."""
        self.preset.input(
            lambda name: PRESETS.get(name, (gr.skip(),))[0], self.preset, self.tabs["generate"]["prompt"]
        )
        shared = list(self.shared.values())
        events = []
        for command, button in buttons.items():
            controls = list(self.tabs[command].values())
            events.append(
                button.click(
                    self._runner(command),
                    [*controls, *shared, self.history],
                    self.results,
                    concurrency_limit=8,
                    concurrency_id="music",
                    trigger_mode="once",
                    show_progress="hidden",
                    api_visibility="private",
                )
            )
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        # Only when the generation's updates no longer arrive, or one of them could replace the text.
        stopped = self.cancel.click(None, cancels=events, queue=False, **quiet)
        stopped.then(self._show_cancelled, None, [self.status, self.cancel], queue=False, **quiet)
        audio, regions = self.tabs["inpaint"]["audio"], self.tabs["inpaint"]["regions"]
        for command, note in self.notes.items():
            if command != "inpaint":
                self.tabs[command]["audio"].change(_look_at, self.tabs[command]["audio"], note, **quiet)
        reading = audio.change(_show_upload, [audio, regions], [self.notes["inpaint"], self.waveform], **quiet)
        for event in (reading.then, regions.blur):  # a region may be typed while the waveform is read
            event(_mark, [regions, self.waveform], self.waveform, queue=False, **quiet)
        audio.clear(lambda: "", None, regions, queue=False, **quiet)
        self.waveform.input(
            lambda music: format_regions(music["regions"]), self.waveform, regions, queue=False, **quiet
        )
        shown = [self.player, self.picture, self.download, self.values]
        self.choice.input(self._show, [self.history, self.choice], shown, **quiet)
        every = [*self._every_control().values()]
        self.reuse.click(self._fill_in, self.values, every, **quiet)

    # --- making music

    def _runner(self, command: str):
        """`_run` for a tab, as a function with the argument `request` that Gradio looks for."""

        def run(request: gr.Request, *values):
            with self.visitors.generation(request.session_hash) as is_only_one:
                if is_only_one:
                    yield from self._run(command, request.session_hash, *values)

        return run

    def _show_cancelled(self, request: gr.Request):
        """Ends a generation for the visitor; its thread may have to finish a step."""
        self.visitors.release(request.session_hash)
        return "<p>Cancelled.</p>", gr.update(visible=False)

    def _run(self, command: str, session: str, *values_and_history):
        """Generates music with the controls' settings; yields the changes of the page."""
        *values, history = values_and_history
        names = [*self.tabs[command], *self.shared]
        texts = ["" if value is None else value for value in values]  # an empty field is None
        controls = dict(zip(names, texts, strict=True))
        try:
            wanted = self._read(command, controls)
            yield {self.status: show_status(Progress("waiting")), self.cancel: gr.update(visible=True)}
            folder = self.folder / session
            folder.mkdir(exist_ok=True)
            path = folder / f"{command}-{wanted.made['seed']}-{secrets.token_hex(3)}.{controls['format']}"
            events, chunks = self.studio.run(wanted.make, wanted.duration_in_s), []
            try:
                for event in events:
                    if isinstance(event, torch.Tensor):
                        chunks.append(event)
                    else:
                        yield {self.status: show_status(event)}  # also if it says the same: here Gradio can cancel
            finally:
                events.close()
            made = write_music(path, chunks, self.studio.pipe.sampling_rate, wanted.title, wanted.made)
        except Cancelled:
            yield {self.status: "<p>Cancelled.</p>", self.cancel: gr.update(visible=False)}
        except (ValueError, OSError, torch.OutOfMemoryError) as error:
            yield {self.status: show_error(error, controls.get("audio")), self.cancel: gr.update(visible=False)}
        else:
            yield self._show_result(path, made, wanted, history)

    def _read(self, command: str, controls: dict) -> MusicRequest:
        """Reads the controls; raises a ValueError for what cannot be used."""
        if any("\0" in value for value in controls.values() if isinstance(value, str)):
            raise ValueError("Texts must not have NUL characters.")  # no tag can hold them
        seed, prompt = parse_seed(controls["seed"]), controls.get("prompt", "").strip()
        settings = {
            "negative_prompt": controls["negative_prompt"].strip() or None,
            "num_inference_steps": int(check_number("Steps", controls["num_inference_steps"])),
            "guidance_scale": check_number("Guidance", controls["guidance_scale"]),
        }
        made = {
            "prompt": prompt,
            "seed": seed,
            "checkpoint": self.studio.checkpoint,
            "dtype": _dtype(self.studio.pipe),
        }
        info = None
        if "audio" in controls:
            audio = controls["audio"]
            info, _ = check_upload(audio)
            made |= {"command": command, "input": Path(audio).name, "input_sha256": file_sha256(audio)}
            settings["audio"] = audio
        tabs: dict[str, tuple[Callable, Callable]] = {
            "generate": (text_to_music, self._read_text),
            "sections": (text_to_music, self._read_text),
            "transform": (transform, self._read_transform),
            "inpaint": (inpaint, _read_regions),
            "extend": (inpaint, _read_extension),
        }
        make, read = tabs[command]
        own, regions, duration = read(controls, info)
        made |= {name: value for name, value in settings.items() if name != "audio"} | own
        arguments = settings | own | {"generator": torch.Generator().manual_seed(seed)}
        arguments["prompt"] = sections = arguments.pop("sections", None) or prompt
        if make is not inpaint:
            arguments["duration"] = duration
        title = prompt or " / ".join(text for _, text in sections)
        return MusicRequest(
            functools.partial(make, **arguments), made | {"duration_in_s": duration}, title, regions, duration
        )

    def _read_text(self, controls: dict, info: None) -> tuple[dict, list, float]:
        """Returns the sections, if there are any, no regions, and the duration in seconds."""
        duration = parse_duration("Duration", controls["duration_in_s"])
        if duration > self.window_in_s:
            raise ValueError(f"Duration must be at most {self.window_in_s:g} seconds, got {duration:g}.")
        if "sections" not in controls:
            return {}, [], duration
        sections = parse_sections(controls["sections"], "Sections")
        if not sections:
            raise ValueError("Sections: enter at least one line, for example 0:00 piano.")
        return {"sections": sections}, [], duration

    def _read_transform(self, controls: dict, info: AudioInfo) -> tuple[dict, list, float]:
        """Returns the method's arguments, no regions, and the duration in seconds."""
        duration = info.duration_in_s
        if duration > self.window_in_s:
            raise ValueError(f"Music to transform must be at most {self.window_in_s:g} s long, got {duration:g} s.")
        own = {"strength": check_number("Strength", controls["strength"]), "method": controls["method"]}
        if own["method"] != "noise":
            own["source_prompt"] = controls["source_prompt"].strip() or None
        return own, [], duration

    def _show_result(self, path: Path, made: dict, wanted: MusicRequest, history: list) -> dict:
        """The changes of the page when the music is finished; `made` is what its tags say."""
        picture = path.with_suffix(".png")
        draw_music(read_audio(path)[0], self.studio.pipe.sampling_rate, picture, wanted.regions)
        number = history[-1]["number"] + 1 if history else 1
        what = f"{made.get('command', 'generate')} · {wanted.title[:60] or 'no prompt'}"
        label = f"{number}. {format_seconds(wanted.duration_in_s)} · {what} · seed {made['seed']}"
        entry = {"number": number, "label": label, "path": str(path), "picture": str(picture), "values": made}
        for old in history[: len(history) + 1 - MAX_HISTORY]:
            Path(old["path"]).unlink(missing_ok=True)
            Path(old["picture"]).unlink(missing_ok=True)
        history = [*history, entry][-MAX_HISTORY:]
        choices = [entry["label"] for entry in history]
        quieter = " The volume was lowered to avoid clipping." if made["gain"] < 1 else ""
        return {
            self.status: f'<p role="status">Done: {format_seconds(wanted.duration_in_s)} of music.{quieter}</p>',
            self.cancel: gr.update(visible=False),
            self.player: str(path),
            self.picture: gr.update(value=str(picture), visible=True),
            self.download: gr.update(value=str(path), visible=True),
            self.history: history,
            self.choice: gr.update(choices=choices, value=choices[-1], visible=True),
            self.made: gr.update(visible=True),
            self.values: made,
        }

    # --- the rest

    def _show(self, history: list, number: int | None) -> tuple:
        """Shows an entry of the history."""
        entry = history[number or 0]
        return entry["path"], entry["picture"], entry["path"], entry["values"]

    def _every_control(self) -> dict[tuple[str, str], gr.components.Component]:
        """All controls that can be filled in with the settings of a piece."""
        own = {(tab, name): control for tab, controls in self.tabs.items() for name, control in controls.items()}
        shared = {("", name): control for name, control in self.shared.items()}
        return {key: control for key, control in (own | shared).items() if key[1] not in ("audio", "format")}

    def _fill_in(self, made: dict) -> dict:
        """Fills in the controls with the settings of a piece."""
        tab = made.get("command", "sections" if made.get("sections") else "generate")
        changes = {}
        for (owner, name), control in self._every_control().items():
            if owner in ("", tab) and name in made:
                changes[control] = _as_text(name, made[name])
        return changes

    def _forget(self, request: gr.Request) -> None:
        """Removes the music of a visitor who has left."""
        shutil.rmtree(self.folder / request.session_hash, ignore_errors=True)


def _prompt(placeholder: str) -> gr.Textbox:
    return gr.Textbox(label="Prompt", placeholder=placeholder, lines=2, max_length=2000)


def _dtype(pipe) -> str:
    return str(pipe.transformer.dtype).removeprefix("torch.")


def _as_text(name: str, value):
    """A value as text for its control."""
    if name == "regions":
        return format_regions(value)
    if name == "sections":
        return "\n".join(f"{start:g} {text}" for start, text in value)
    if name in ("seed", "duration_in_s", "extend_to", "prepend_in_s"):
        return "" if value is None else f"{value:.10g}"
    return "" if value is None else value


def _read_regions(controls: dict, info: AudioInfo) -> tuple[dict, list, float]:
    """Returns the arguments of the pipeline, the new regions, and the duration of the result in seconds."""
    regions, loop = parse_regions(controls["regions"]), bool(controls["loop"])
    if not regions:
        raise ValueError("Mark a region on the waveform, or type it, for example 0:10-0:15.")
    return {"regions": regions, "loop": loop}, *check_edit(info, regions, loop=loop)


def _read_extension(controls: dict, info: AudioInfo) -> tuple[dict, list, float]:
    """Returns the arguments of the pipeline, the new parts, and the duration of the result in seconds."""
    extend_to, before = controls["extend_to"].strip(), controls["prepend_in_s"].strip()
    if not (extend_to or before):
        raise ValueError("Enter a total duration, seconds before, or both.")
    own: dict[str, Any] = {
        "extend_to": parse_duration("Total duration", extend_to) if extend_to else None,
        "prepend_in_s": parse_duration("Seconds before", before or "0", PLACES),
        "loop": bool(controls["loop"]),
    }
    names = ("Total duration", "Seconds before")
    return own, *check_edit(info, **own, names=names, max_duration_in_s=MAX_RESULT_IN_S)


def _look_at(path: str | None) -> str:
    """Describes an upload, or says why it cannot be used."""
    return _show_upload(path, "")[0]


def _show_upload(path: str | None, regions: str) -> tuple[str, dict | None]:
    """What `_look_at` says, and the waveform with the regions that were typed before."""
    if path is None:
        return "", None
    try:
        info, peaks = check_upload(path)
    except ValueError as error:
        return show_error(error, path), None
    channels = "stereo" if info.channels == 2 else "mono"
    note = f"<p>{format_seconds(info.duration_in_s)}, {info.sampling_rate} Hz, {channels}.</p>"
    return note, _mark(regions, {"peaks": peaks, "duration": info.duration_in_s})


def _mark(text: str, music: dict | None):
    """Marks the typed regions on the waveform."""
    try:
        regions = parse_regions(text)
    except ValueError:
        regions = []  # the error is shown when music is requested
    return gr.skip() if music is None else music | {"regions": [list(region) for region in regions]}
