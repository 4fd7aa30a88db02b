"""The page in the browser, in Gradio: controls, progress, results. `tabs.py` calls the pipelines."""

import html
import secrets
import shutil
from pathlib import Path

import gradio as gr
import torch

from stable_longform.app.studio import Cancelled, Progress, Studio, Visitors
from stable_longform.app.tabs import MusicRequest, format_regions, parse_regions, read_request
from stable_longform.app.uploads import check_upload
from stable_longform.music_files import write_music
from stable_longform.utils.accepted_values import EDIT_METHODS
from stable_longform.utils.audio import read_audio
from stable_longform.utils.pictures import draw_music
from stable_longform.utils.timecodes import format_seconds

MAX_HISTORY = 30  # pieces kept for each visitor
PRESETS = {
    "Ambient piano": "Genre: Ambient|Instruments: Piano, Strings|Moods: Calm",
    "Techno": "Genre: Techno|Instruments: Synthesizer, Drums|Moods: Energetic|128 BPM",
    "Rock band": "Genre: Rock|Instruments: Electric Guitar, Bass, Drums|120 BPM",
    "Jazz trio": "Genre: Jazz|Instruments: Piano, Double Bass, Drums|Moods: Relaxed",
    "Orchestra": "Genre: Classical|Instruments: Strings, Brass, Timpani|Moods: Epic",
}
SECTIONS = "0:00 Genre: Ambient|Instruments: Piano\n0:15 Genre: Rock|Instruments: Guitar, Drums\n0:30 Genre: Ambient"
LOOP = "Loop: the end continues into the start"
CANCELLED = "<p>Cancelled.</p>"
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
        self.buttons: dict[str, gr.Button] = {}  # command -> what starts it
        self.notes: dict[str, gr.HTML] = {}  # command -> the line below its upload
        self.window_in_s = studio.pipe.max_duration_in_s

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
                    with gr.Tabs():
                        self._build_text()
                        self._build_transform()
                        self._build_inpaint()
                        self._build_extend()
                        self._build_sections()
                    self._build_settings()
                with gr.Column(scale=5, min_width=320):
                    self._build_results()
            theme.click(None, js=THEME_JS)
            blocks.load(None, js=LOAD_JS)
            self._connect()
            blocks.unload(self._forget)
        blocks.queue(max_size=40)
        return blocks

    def _build_text(self) -> None:
        """Builds the tab for text to music."""
        with gr.Tab("Text"):
            self.preset = gr.Dropdown(["", *PRESETS], label="Preset", value="")
            self.tabs["generate"] = {
                "prompt": _prompt("Genre: Ambient|Instruments: Piano, Strings"),
                "duration_in_s": self._duration(30.0),
            }
            self.buttons["generate"] = gr.Button("Generate", variant="primary")

    def _build_transform(self) -> None:
        """Builds the tab for audio to audio."""
        with gr.Tab("Transform"):
            self.tabs["transform"] = {
                "audio": self._upload("transform"),
                "prompt": _prompt("What it should become"),
                "strength": gr.Slider(
                    0.01, 1, 0.8, step=0.01, label="Strength", info="At 1 the original has no influence."
                ),
                "method": gr.Radio(list(EDIT_METHODS), value="noise", label="Method"),
                "source_prompt": gr.Textbox(
                    label="Description of the original", info="Used by invert and edit. May be empty."
                ),
            }
            self.buttons["transform"] = gr.Button("Transform", variant="primary")

    def _build_inpaint(self) -> None:
        """Builds the tab for new music in regions."""
        with gr.Tab("Inpaint"):
            audio = self._upload("inpaint")
            self.waveform = gr.HTML(
                html_template=REGIONS_HTML,
                css_template=REGIONS_CSS,
                js_on_load=(Path(__file__).parent / "regions.js").read_text(encoding="utf-8"),
                elem_id="regions",
            )
            self.tabs["inpaint"] = {
                "audio": audio,
                "regions": gr.Textbox(label="Regions to replace", placeholder="0:10-0:15, 0:20-0:21"),
                "prompt": _prompt("Prompt for the new regions"),
                "loop": gr.Checkbox(label=LOOP),
            }
            self.buttons["inpaint"] = gr.Button("Inpaint", variant="primary")

    def _build_extend(self) -> None:
        """Builds the tab for more music at either end."""
        with gr.Tab("Extend"):
            audio, prompt = self._upload("extend"), _prompt("How the music should continue")
            with gr.Row():
                end = gr.Textbox(label="Total duration", placeholder="1:30", info="Music is added at the end.")
                start = gr.Textbox(label="Seconds before", placeholder="0", info="Music is added at the start.")
            loop = gr.Checkbox(label=LOOP)
            self.tabs["extend"] = {
                "audio": audio, "prompt": prompt, "extend_to": end, "prepend_in_s": start, "loop": loop,
            }  # fmt: skip
            self.buttons["extend"] = gr.Button("Extend", variant="primary")

    def _build_sections(self) -> None:
        """Builds the tab for a prompt for each section."""
        with gr.Tab("Sections"):
            self.tabs["sections"] = {
                "sections": gr.Textbox(
                    SECTIONS, label="Sections", lines=5, info="One section per line: start time and prompt."
                ),
                "duration_in_s": self._duration(45.0),
            }
            self.buttons["sections"] = gr.Button("Generate sections", variant="primary")

    def _build_settings(self) -> None:
        """Builds the settings that all tabs share."""
        config = self.studio.pipe.config
        with gr.Accordion("Settings", open=False):
            negative = gr.Textbox(label="Negative prompt", info="What the music should not sound like.")
            with gr.Row():
                steps = gr.Slider(1, 200, config.num_inference_steps, step=1, label="Steps", min_width=140)
                guidance = gr.Slider(1, 15, config.guidance_scale, step=0.1, label="Guidance", min_width=140)
            with gr.Row():
                seed = gr.Textbox(label="Seed", placeholder="random", min_width=140)
                format = gr.Radio(["flac", "wav", "mp3"], value="flac", label="File", min_width=140)
        self.shared = {
            "negative_prompt": negative, "num_inference_steps": steps, "guidance_scale": guidance, "seed": seed,
            "format": format,
        }  # fmt: skip

    def _duration(self, usual_in_s: float) -> gr.Textbox:
        """Builds the field for the duration of generated music."""
        seconds = min(usual_in_s, self.window_in_s)
        text = format_seconds(seconds) if seconds >= 1 else f"{seconds:g}"
        return gr.Textbox(text, label="Duration", info="For example 30 or 1:30.")

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

    def _connect(self) -> None:
        """Connects the controls with their actions."""
        self.preset.input(lambda name: PRESETS.get(name, gr.skip()), self.preset, self.tabs["generate"]["prompt"])
        shared = list(self.shared.values())
        events = []
        for command, button in self.buttons.items():
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
        return self._show_end(CANCELLED)

    def _show_end(self, text: str) -> dict:
        """The changes of the page at the end of a generation, however it ended."""
        return {self.status: text, self.cancel: gr.update(visible=False)}

    def _run(self, command: str, session: str, *values_and_history):
        """Generates music with the controls' settings; yields the changes of the page."""
        *values, history = values_and_history
        names = [*self.tabs[command], *self.shared]
        controls = dict(zip(names, values, strict=True))
        try:
            wanted = read_request(self.studio.pipe, self.studio.checkpoint, command, controls)
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
            yield self._show_end(CANCELLED)
        except (ValueError, OSError, torch.OutOfMemoryError) as error:
            yield self._show_end(show_error(error, controls.get("audio")))
        else:
            yield self._show_result(path, made, wanted, history)

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
        text = f'<p role="status">Done: {format_seconds(wanted.duration_in_s)} of music.{quieter}</p>'
        return self._show_end(text) | {
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


def _as_text(name: str, value):
    """A value as text for its control."""
    if name == "regions":
        return format_regions(value)
    if name == "sections":
        return "\n".join(f"{start:g} {text}" for start, text in value)
    if name in ("seed", "duration_in_s", "extend_to", "prepend_in_s"):
        return "" if value is None else f"{value:.10g}"
    return "" if value is None else value


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
