"""Settings of the commands `transform`, `inpaint` and `extend`, and their checks."""

from dataclasses import dataclass

from stable_longform.cli.options import check_count, check_range, check_seconds, check_text
from stable_longform.pipelines.pieces import check_crossfade, check_edit
from stable_longform.utils.accepted_values import EDIT_METHODS, MAX_REPEATS
from stable_longform.utils.audio import AudioInfo
from stable_longform.utils.ranges import check_choice


@dataclass(frozen=True)
class TransformSettings:
    """Arguments of `LongFormMusicAudioToAudioPipeline`."""

    strength: float = 0.8
    method: str = "noise"
    source_prompt: str | None = None

    def check(self, info: AudioInfo) -> None:
        """Raises a ValueError for values outside their ranges; `info` is of the input."""
        check_range("--strength", self.strength, 0, 1)
        if self.strength == 0:
            raise ValueError("--strength must be greater than 0; for 0, use `stable-longform reconstruct`.")
        check_choice("--method", self.method, EDIT_METHODS)
        if self.source_prompt is not None:
            check_text("--source-prompt", self.source_prompt)
            if self.method == "noise":
                raise ValueError("--source-prompt is for --method invert and --method edit.")


@dataclass(frozen=True)
class InpaintSettings:
    """Arguments of `LongFormMusicInpaintPipeline`, for both of its commands."""

    regions: list[tuple[float, float]] | None = None
    extend_to: float | None = None
    prepend_in_s: float = 0.0
    loop: bool = False
    context_in_s: float | None = None
    crossfade_in_s: float | None = None
    num_repeats: int = 3

    def check(self, info: AudioInfo) -> None:
        """Raises a ValueError for values outside their ranges; `info` is of the input."""
        if self.context_in_s is not None:
            check_seconds("--context", self.context_in_s)
        check_count("--repeats", self.num_repeats, 1, MAX_REPEATS)
        if not isinstance(self.loop, bool):
            raise ValueError(f"--loop must be true or false, got {self.loop!r}.")
        parts, _ = check_edit(info, self.regions, self.extend_to, self.prepend_in_s, self.loop, ("--to", "--prepend"))
        check_crossfade(self.crossfade_in_s, parts, "--crossfade")

    def duration_in_s(self, info: AudioInfo) -> float:
        """Duration of the result in seconds."""
        return self.extend_to or info.duration_in_s + self.prepend_in_s
