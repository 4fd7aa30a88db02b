"""The paper's baseline: MusicGen from transformers, in its long-form mode.

MusicGen sees 30 s at a time. Longer music is generated window by window: each window starts with the last 12 s so far
and adds 18 s. As in the authors' audiocraft, the token ids are passed on, not the audio.

References: Copet et al., "Simple and controllable music generation" (2023). Paper: §4.1, MusicGen-large-stereo.
"""

import torch
from transformers import AutoProcessor, MusicgenForConditionalGeneration, StoppingCriteria, StoppingCriteriaList

DEFAULT_MODEL = "facebook/musicgen-stereo-large"


class TokenRecorder(StoppingCriteria):
    """Records the token ids of `generate`, which returns only audio. It never stops the generation."""

    def __init__(self):
        self.ids = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        """Takes the ids so far, `(num_codebooks, num_steps)`."""
        self.ids = input_ids
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def frames(self, num_frames: int, channels: int) -> torch.Tensor:
        """The codes `(num_codebooks, num_frames)`: codebook k of a channel starts k steps later than codebook 0.

        Args:
            num_frames: number of frames.
            channels: 1, or 2 with alternating codebooks.
        """
        steps = self.ids[:, 1:]  # without the start token
        return torch.stack([row[index // channels :][:num_frames] for index, row in enumerate(steps)])


class MusicGen:
    """Text to music of any duration.

    Args:
        model: transformers' MusicGen, mono or stereo.
        processor: its processor or tokenizer.
        window_in_s: seconds that the model sees.
        stride_in_s: seconds that each further window adds; less than `window_in_s`.
        guidance_scale: of classifier-free guidance.

    Raises:
        ValueError: the stride is outside (0, window_in_s).
    """

    def __init__(
        self,
        model: MusicgenForConditionalGeneration,
        processor,
        window_in_s: float = 30.0,
        stride_in_s: float = 18.0,
        guidance_scale: float = 3.0,
    ):
        if not 0 < stride_in_s < window_in_s:
            raise ValueError(f"stride_in_s must be in (0, {window_in_s}), got {stride_in_s}.")
        self.model, self.processor = model.eval(), processor
        self.window_in_s, self.stride_in_s, self.guidance_scale = window_in_s, stride_in_s, guidance_scale
        codec = model.config.audio_encoder
        self.sampling_rate, self.frame_rate = codec.sampling_rate, codec.frame_rate
        self.channels = model.config.decoder.audio_channels
        self.num_delayed = model.config.decoder.num_codebooks // self.channels

    @classmethod
    def from_pretrained(cls, name: str = DEFAULT_MODEL, device: str | torch.device = "cpu", **kwargs) -> "MusicGen":
        """Opens a folder or Hub id; `kwargs` as of the class."""
        model = MusicgenForConditionalGeneration.from_pretrained(name).to(device)
        return cls(model, AutoProcessor.from_pretrained(name), **kwargs)

    @torch.no_grad()
    def __call__(self, prompt: str, duration: float, seed: int) -> tuple[torch.Tensor, int]:
        """Generates `(waveform (channels, num_samples), sampling rate)` of `duration` seconds.

        Raises:
            ValueError: the duration is not at least one frame of the codec.
        """
        num_frames = round(duration * self.frame_rate)
        if num_frames < 1:
            raise ValueError(f"duration must be at least {1 / self.frame_rate} seconds, got {duration}.")
        window, stride = round(self.window_in_s * self.frame_rate), round(self.stride_in_s * self.frame_rate)
        text = self.processor(text=[prompt], padding=True, return_tensors="pt").to(self.model.device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            codes = self._extend(text, None, min(window, num_frames))
            while codes.shape[1] < num_frames:
                context = codes[:, stride - window :]
                longer = self._extend(text, context, min(window, num_frames - codes.shape[1] + context.shape[1]))
                codes = torch.cat([codes, longer[:, context.shape[1] :]], dim=1)
        return self._decode(codes)[:, : round(duration * self.sampling_rate)], self.sampling_rate

    def _extend(self, text, context: torch.Tensor | None, num_frames: int) -> torch.Tensor:
        """Codes `(num_codebooks, num_frames)` that begin with the context."""
        recorder = TokenRecorder()
        self.model.generate(
            **text,
            decoder_input_ids=None if context is None else context.to(self.model.device),
            do_sample=True,
            guidance_scale=self.guidance_scale,
            max_length=num_frames + self.num_delayed,
            stopping_criteria=StoppingCriteriaList([recorder]),
        )
        codes = recorder.frames(num_frames, self.channels)
        if context is not None:  # steps in which some codebooks still had context contain unused samples
            codes[:, : context.shape[1]] = context
        return codes

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Audio `(channels, num_samples)` of codes `(num_codebooks, num_frames)`."""
        codes = codes.to(self.model.device)
        decoded = [
            self.model.audio_encoder.decode(
                codes[None, None, channel :: self.channels], audio_scales=[None]
            ).audio_values
            for channel in range(self.channels)
        ]
        return torch.cat([audio.reshape(1, -1) for audio in decoded]).cpu().float()
