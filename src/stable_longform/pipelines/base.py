"""The base class of the pipelines: components, loading, timing, sampling, decoding.

A pipeline adds its `__call__`, which does three things: check, sample, decode.
"""

import contextlib
import copy
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput, logging
from transformers import PreTrainedModel

from stable_longform import noise_schedule
from stable_longform.models.autoencoder_oobleck import AutoencoderOobleck
from stable_longform.models.clap_text_encoder import ClapTextEncoder
from stable_longform.models.timing_conditioner import TimingConditioner
from stable_longform.models.transformer_dit_1d import DiTTransformer1D
from stable_longform.pipelines import inputs
from stable_longform.pipelines.conditioning import ConditioningMixin
from stable_longform.pipelines.guidance import Guidance
from stable_longform.pipelines.inputs import Generators, Prompts, Timing
from stable_longform.pipelines.lora import LongFormMusicLoraLoaderMixin
from stable_longform.pipelines.run_state import RunStateMixin
from stable_longform.pipelines.sampling import GuidedVelocity, Run, sample
from stable_longform.pipelines.stable_audio_folder import StableAudioFolderMixin
from stable_longform.pipelines.windows import WindowSizes
from stable_longform.schedulers import scheduling
from stable_longform.utils.accepted_values import MAX_STEPS
from stable_longform.utils.portable_config import PortableConfigMixin
from stable_longform.utils.ranges import check_choice

logger = logging.get_logger(__name__)

PipelineT = TypeVar("PipelineT", bound="LongFormMusicPipelineBase")
MEMORY_ALIGNMENT = 64  # bytes, as in torch's own allocations on a CPU


@dataclass
class LongFormMusicPipelineOutput(BaseOutput):
    """Output of a pipeline.

    Args:
        audios: for each item a waveform `(audio_channels, num_samples)`, trimmed to its own duration, as a tensor or
            an array. With `output_type="latent"` one tensor `(batch_size, latent_channels, latent_length)`, or, if
            windows differ, a list of tensors `(latent_channels, latent_length)`.
        sampling_rate: Hz; None if the pipeline has no autoencoder.
    """

    audios: list[Any] | torch.Tensor
    sampling_rate: int | Any


@dataclass(frozen=True)
class StepCallback:
    """A function that is called after each step.

    Args:
        function: called with the pipeline, the number of the step, its time and a dict of tensors.
        tensor_names: names of the tensors that it receives.
    """

    function: Callable
    tensor_names: list[str]


@dataclass(frozen=True)
class Request:
    """The checked arguments that all pipelines share.

    Args:
        prompts: what the music should be like.
        items: for each result the number of its prompt.
        guidance: how strongly the prompts are followed.
        generator: for the noise: None, one, or a list with one for each result.
        output_type: "pt", "np" or "latent".
        callback: called after each step, or None.
    """

    prompts: Prompts
    items: list[int]
    guidance: Guidance
    generator: torch.Generator | list[torch.Generator] | None
    output_type: str
    callback: StepCallback | None


class LongFormMusicPipelineBase(
    StableAudioFolderMixin,
    ConditioningMixin,
    RunStateMixin,
    PortableConfigMixin,
    DiffusionPipeline,
    LongFormMusicLoraLoaderMixin,
):
    """Components and methods of every pipeline.

    Any component except the timing conditioner may be None. Without text encoder and tokenizer, the pipeline samples
    from embeddings; without autoencoder, it returns latents; without transformer, it encodes prompts or decodes.

    Args:
        vae: `AutoencoderOobleck`.
        text_encoder: `ClapTextEncoder`; its next-to-last layer is the text condition. Paper: §2.4. A transformers
            encoder such as `T5EncoderModel` works as well, with the tokenizer's `model_max_length` tokens.
        tokenizer: of the text encoder.
        timing_conditioner: `TimingConditioner` for the start and the total duration in seconds. Paper: §2.2.
        transformer: `DiTTransformer1D`; its `sample_size` is the longest window in latent frames.
        scheduler: from `scheduling.make_scheduler`, or another that `scheduling.check_scheduler` accepts. Each call
            works on a copy.
        mask_text_padding: hide padding tokens of the prompt from the transformer. The paper's code does not.
        zero_text_padding: set the features of padding tokens to zero, as models with T5 (Stable Audio Open) are
            trained. The paper's code, with CLAP, does not.
        guidance_interval: default of the calls, two rising times in [0, 1]. The paper's: (0, 1).
        window_in_s: the windows that the model was trained on, in seconds. A call uses the smallest that holds its
            duration. None: only the longest, as in the paper.
        num_inference_steps: default of the calls; a model that was distilled to few steps sets it here.
        guidance_scale: default of the calls; 1 (no guidance) for a distilled model.
        prediction_type: what the transformer predicts: "v_prediction", as in the paper, or "flow_prediction" for
            rectified flow. The scheduler must have the same prediction type.

    Raises:
        ValueError: a setting is out of range, or the transformer does not support a window.
    """

    model_cpu_offload_seq = "text_encoder->timing_conditioner->transformer->vae"
    _optional_components = ["vae", "text_encoder", "tokenizer", "transformer", "scheduler"]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        vae: AutoencoderOobleck,
        text_encoder: ClapTextEncoder | PreTrainedModel,
        tokenizer,
        timing_conditioner: TimingConditioner,
        transformer: DiTTransformer1D,
        scheduler,
        mask_text_padding: bool = False,
        zero_text_padding: bool = False,
        guidance_interval: list[float] | tuple[float, float] = (0.0, 1.0),
        window_in_s: list[float] | tuple[float, ...] | None = None,
        num_inference_steps: int = 100,
        guidance_scale: float = 7.0,
        prediction_type: str = noise_schedule.V_PREDICTION,
    ):
        super().__init__()
        check_choice("prediction_type", prediction_type, noise_schedule.PREDICTION_TYPES)
        windows_in_s = None if window_in_s is None else inputs.check_windows(window_in_s)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            timing_conditioner=timing_conditioner,
            transformer=transformer,
            scheduler=scheduler,
        )
        self.register_to_config(
            mask_text_padding=inputs.check_flag("mask_text_padding", mask_text_padding),
            zero_text_padding=inputs.check_flag("zero_text_padding", zero_text_padding),
            guidance_interval=list(inputs.check_interval(guidance_interval)),
            window_in_s=windows_in_s,
            num_inference_steps=inputs.check_count("num_inference_steps", num_inference_steps, MAX_STEPS),
            guidance_scale=inputs.check_guidance_scale(guidance_scale),
            prediction_type=prediction_type,
        )
        if vae is not None and transformer is not None:
            for seconds in windows_in_s or ():
                self._window_sizes.length(seconds)
        for component in self.components.values():
            _align(component)
        self._runs: dict[int, Run] = {}  # the latest run of each thread

    @classmethod
    def from_pretrained(
        cls: type[PipelineT], pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> PipelineT:
        """Opens a folder or a Hub repository; arguments as in diffusers' `DiffusionPipeline.from_pretrained`.

        Checkpoints saved by diffusers' `StableAudioPipeline` open too; their components become ours.

        With `dtype=torch.bfloat16` or `torch.float16` the autoencoder stays in float32, because half precision is
        audible there. To have it in half precision too, pass `dtype={"default": torch.bfloat16}`.
        """
        if "torch_dtype" in kwargs:  # the older name
            kwargs.setdefault("dtype", kwargs.pop("torch_dtype"))
        if kwargs.get("dtype") in (torch.bfloat16, torch.float16):
            kwargs["dtype"] = {"default": kwargs["dtype"], "vae": torch.float32}
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_pipe(cls: type[PipelineT], pipeline: DiffusionPipeline, **kwargs: Any) -> PipelineT:
        """Makes a pipeline that shares the components and the configuration of another one.

        Args:
            pipeline: with the components of this class.
            kwargs: components and settings of `__init__` that replace the other pipeline's, and `dtype`. Without
                `dtype` nothing is cast; diffusers would cast the shared components to float32.
        """
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        components, settings = cls._get_signature_keys(cls)
        config = {name: pipeline.config[name] for name in settings if name in pipeline.config}
        shared = {name: part for name, part in pipeline.components.items() if name in components}
        pipe = cls(**shared | config | kwargs)
        return pipe if dtype is None else pipe.to(dtype)

    @property
    def sampling_rate(self) -> int | Any:
        """Sampling rate of the generated audio in Hz; None without an autoencoder."""
        return None if self.vae is None else self.vae.config.sampling_rate

    @property
    def max_duration_in_s(self) -> float:
        """The model's longest window in seconds: the longest duration it can generate."""
        self._require("max_duration_in_s", "vae", "transformer")
        return self._window_sizes.max_in_s

    def use_scheduler(self, name: str) -> None:
        """Replaces the scheduler by another one of `accepted_values.SCHEDULER_NAMES`, with the same prediction type.

        "dpmsolver++" is the paper's, "sde-dpmsolver++" its stochastic variant, "sde-dpmsolver++-3m" the stochastic
        variant of third order. "ddim", which is DPM-Solver++ of first order, and "ping-pong" are for models that were
        distilled to few steps.
        """
        self._require("Sampling", "scheduler")
        self.scheduler = scheduling.scheduler_by_name(name, self.scheduler)

    def enable_vae_tiling(self, tile_latent_length: int | None = None, memory_in_bytes: int | None = None) -> None:
        """Decodes in chunks, with the same result (the default); see `AutoencoderOobleck.enable_tiling`."""
        self.vae.enable_tiling(tile_latent_length, memory_in_bytes)

    def disable_vae_tiling(self) -> None:
        """Decodes each item as a whole."""
        self.vae.disable_tiling()

    def enable_vae_slicing(self) -> None:
        """Makes the autoencoder process batches one item at a time. Decoding here always does."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Undoes `enable_vae_slicing`."""
        self.vae.disable_slicing()

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None):
        """As in diffusers: each layer's weights are on the accelerator only while it runs.

        Raises:
            ValueError: the device is the CPU, from which nothing would be offloaded.
        """
        if device is not None and torch.device(device).type == "cpu":
            raise ValueError(
                f"Sequential offload moves weights from the CPU to an accelerator, got device={device!r}."
            )
        super().enable_sequential_cpu_offload(gpu_id, device)

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor, duration: float) -> torch.Tensor:
        """Decodes one item's latents `(latent_channels, latent_length)` to `(audio_channels, num_samples)`.

        Only the frames that `duration` seconds need are computed, in chunks; `num_samples` is the duration times the
        sampling rate, rounded.

        Raises:
            ValueError: the duration is shorter than a sample, or the audio is not finite.
        """
        num_samples, num_frames = self._decoded_lengths(duration)
        audio = self.vae.decode(latents[None].to(self.vae.dtype), num_frames).sample[0, :, :num_samples]
        return check_finite("audio that is", audio, self.vae)

    @torch.no_grad()
    def stream_latents(self, latents: torch.Tensor, duration: float) -> Iterator[torch.Tensor]:
        """Decodes like `decode_latents`, but yields chunks `(audio_channels, n)` as they are computed."""
        remaining, num_frames = self._decoded_lengths(duration)
        for chunk in self.vae.decode_stream(latents[None].to(self.vae.dtype), num_frames):
            yield check_finite("audio that is", chunk[0, :, :remaining], self.vae)
            remaining -= chunk.shape[-1]

    @property
    def _window_sizes(self) -> WindowSizes:
        """The windows of the model, at the autoencoder's latent rate."""
        config = self.transformer.config
        return WindowSizes(config.sample_size, config.patch_size, self.vae.latent_rate)

    def _require(self, purpose: str, *names: str) -> None:
        """Raises a ValueError unless the pipeline has these components."""
        for name in names:
            if getattr(self, name) is None:
                raise ValueError(f"{purpose} needs a {name}, which this pipeline was opened without.")

    def _decoded_lengths(self, duration: float) -> tuple[int, int]:
        """The number of samples of a duration, and the number of frames needed to decode them."""
        self._require("Decoding", "vae")
        num_samples = round(inputs.check_number("duration", duration) * self.sampling_rate)
        if num_samples < 1:
            raise ValueError(f"duration must be at least 1/{self.sampling_rate} s, a sample, got {duration}.")
        return num_samples, math.ceil(num_samples / self.vae.hop_length)

    # --- check

    def _check_guidance(self, scale: float | None, rescale: float, interval: tuple[float, float] | None) -> Guidance:
        """Checks the guidance; None: the default in the pipeline's configuration."""
        return Guidance(
            inputs.check_guidance_scale(self.config.guidance_scale if scale is None else scale),
            inputs.check_number("guidance_rescale", rescale, 0, 1),
            inputs.check_interval(self.config.guidance_interval if interval is None else interval),
        )

    def _check_callback(self, function: Callable | None, tensor_names: Sequence[str]) -> StepCallback | None:
        """Checks the function that is called after each step, and the names of the tensors that it receives."""
        tensor_names = inputs.check_callback(function, tensor_names, self._callback_tensor_inputs)
        return None if function is None else StepCallback(function, tensor_names)

    def _check_request(
        self,
        prompts: Prompts,
        guidance: Guidance,
        callback: StepCallback | None,
        num_waveforms_per_prompt: int,
        generator: Generators,
        output_type: str,
        output_types: Sequence[str] = inputs.OUTPUT_TYPES,
    ) -> Request:
        """Checks the number and the form of the results, see `LongFormMusicPipeline.__call__`."""
        batch_size = inputs.check_batch_size(len(prompts), num_waveforms_per_prompt)
        inputs.check_output_type(output_type, output_types)
        if output_type != "latent":
            self._require(f"output_type={output_type!r}", "vae")
        items = np.repeat(np.arange(len(prompts)), num_waveforms_per_prompt).tolist()
        generator = inputs.check_generator(generator, batch_size)
        return Request(prompts, items, guidance, generator, output_type, callback)

    def _check_timing(
        self,
        duration: float | Sequence[float] | None,
        seconds_start: float | Sequence[float],
        seconds_total: float | Sequence[float] | None,
        num_prompts: int,
        window_in_s: float | None,
        latent_length: int | None,
    ) -> tuple[Timing, list[int]]:
        """Checks the timing; returns it and the number of latent frames of each prompt's window.

        Args:
            duration: see `inputs.check_timing`.
            seconds_start: see `inputs.check_timing`.
            seconds_total: see `inputs.check_timing`.
            num_prompts: number of prompts.
            window_in_s: the requested window, or None.
            latent_length: frames of the given noise, which sets the window, or None.
        """
        timing = (duration, seconds_start, seconds_total, num_prompts)
        latest = self.timing_conditioner.config.max_value
        if self.vae is None:
            if duration is None or window_in_s is not None:
                raise ValueError(
                    "Without a vae the pipeline does not know how many seconds its latents last: give duration, "
                    "and not window_in_s."
                )
            length = latent_length or self.transformer.config.sample_size
            return inputs.check_timing(*timing, latest, latest), [length] * num_prompts
        sizes = self._window_sizes
        if window_in_s is not None:
            length = sizes.length(inputs.check_number("window_in_s", window_in_s))
            if latent_length not in (None, length):
                raise ValueError(f"window_in_s={window_in_s} has {length} frames, the latents have {latent_length}.")
            latent_length = length
        checked = inputs.check_timing(
            *timing, sizes.seconds(latent_length or sizes.max_length), latest, self.sampling_rate
        )
        if latent_length is not None:
            return checked, [latent_length] * num_prompts
        return checked, [sizes.smallest(seconds, self.config.window_in_s or ()) for seconds in checked.durations]

    def _check_noise(self, latents: torch.Tensor | None, request: Request) -> int | None:
        """Checks the given noise and returns its number of frames, which sets the window; None without noise."""
        if latents is None:
            return None
        config = self.transformer.config
        inputs.check_latents(latents, len(request.items), config.in_channels, config.sample_size, config.patch_size)
        return latents.shape[-1]

    def _check_scheduler(self, num_inference_steps: int | None, timesteps: Sequence[float] | None = None):
        """A copy of the scheduler with its steps set. Several threads can generate at once, each with its own copy.

        Args:
            num_inference_steps: None: the pipeline's default, unless `timesteps` are given.
            timesteps: times in (0, 1], or None.
        """
        self._require("Sampling", "transformer", "scheduler")
        if timesteps is not None:
            if num_inference_steps is not None:
                raise ValueError("Give num_inference_steps or timesteps, not both.")
            timesteps = inputs.check_times("timesteps", timesteps)
        else:
            steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
            num_inference_steps = inputs.check_count("num_inference_steps", steps, MAX_STEPS)
        scheduler = copy.deepcopy(self.scheduler)
        scheduling.set_timesteps(
            scheduler, num_inference_steps, self._execution_device, timesteps, self.config.prediction_type
        )
        return scheduler

    # --- sample

    def _encode_audio(self, waveform: torch.Tensor, latent_length: int) -> torch.Tensor:
        """Encodes a waveform: the mean of its posterior `(latent_channels, latent_length)`, in float32.

        The waveform is padded with silence or cut off at the end of the latents.
        """
        num_samples = latent_length * self.vae.hop_length
        waveform = torch.nn.functional.pad(waveform[:, :num_samples], (0, max(num_samples - waveform.shape[1], 0)))
        posterior = self.vae.encode(waveform[None].to(self._execution_device, self.vae.dtype)).latent_dist
        return check_finite("latents that are", posterior.mode()[0].float(), self.vae)

    @contextlib.contextmanager
    def _running(self, guidance: Guidance, num_timesteps: int) -> Iterator[Run]:
        """The state of a generation in this thread. When it ends, offloaded models are moved back."""
        run = self._runs[threading.get_ident()] = Run(guidance, num_timesteps)
        try:
            yield run
        finally:
            run.is_running, run.current_timestep = False, None
            self.maybe_free_model_hooks()

    def _draw_noise(self, latent_lengths: Sequence[int], generator: Generators) -> list[torch.Tensor]:
        """Unit Gaussian noise `(latent_channels, latent_length)` in float32 for each item, in their order.

        An item's noise is drawn at once in the size of its window. With a list, each item has its own generator. The
        noise is drawn on the generator's device, or on the CPU without a generator.
        """
        channels = self.transformer.config.in_channels
        generators = generator if isinstance(generator, list) else [generator] * len(latent_lengths)
        return [
            torch.randn(channels, length, generator=g, device="cpu" if g is None else g.device, dtype=torch.float32)
            for length, g in zip(latent_lengths, generators, strict=True)
        ]

    def _draw_noise_like(self, latents: torch.Tensor, generator: Generators) -> torch.Tensor:
        """Unit Gaussian noise in the shape of latents, `(batch_size, latent_channels, latent_length)`."""
        return torch.stack(self._draw_noise([latents.shape[-1]] * len(latents), generator))

    def _noise(
        self, latents: torch.Tensor | None, latent_lengths: Sequence[int], request: Request
    ) -> list[torch.Tensor]:
        """The given noise, or drawn noise, for each item."""
        return self._draw_noise(latent_lengths, request.generator) if latents is None else list(latents.float())

    def _sample(
        self,
        keys: Sequence,
        sample_items: Callable[[list[int], Callable[..., torch.Tensor], Generators], torch.Tensor],
        scheduler,
        run: Run,
        request: Request,
        num_paths: int = 1,
    ) -> list[torch.Tensor]:
        """Samples the latents `(latent_channels, latent_length)` of each item; items with the same key together.

        Args:
            keys: a sortable key for each item; items with the same key have the same number of frames.
            sample_items: called as `sample_items(items, follow, generator)` with the numbers of the items of one key,
                the sampling loop `follow(velocity, latents, path, **hooks)`, see `sampling.sample`, and their
                generators; returns their latents `(B, latent_channels, latent_length)`. `path` is a scheduler to use
                instead of the given one, for steps without callback.
            scheduler: with its steps set. Each loop works on a copy, without the memory of another window's steps.
            run: the state of the generation.
            request: the arguments of the call.
            num_paths: how often `sample_items` goes through the schedule.
        """
        groups: dict[Any, list[int]] = {}
        for item, key in enumerate(keys):
            groups.setdefault(key, []).append(item)
        results: list = [None] * len(keys)
        with self.progress_bar(total=num_paths * run.num_timesteps * len(groups)) as progress:
            for _, items in sorted(groups.items()):
                generator = request.generator
                generator = [generator[item] for item in items] if isinstance(generator, list) else generator

                def follow(velocity, latents: torch.Tensor, path=None, generator=generator, **hooks) -> torch.Tensor:
                    hook = self._step_hook(velocity, progress, request.callback if path is None else None)
                    steps = copy.deepcopy(scheduler if path is None else path)
                    return sample(velocity, steps, latents, run, generator, after_step=hook, **hooks)

                latents = sample_items(items, follow, generator)
                models = self.transformer, self.text_encoder, self.timing_conditioner
                check_finite("latents that are", latents, *models, guidance=run.guidance)
                for item, result in zip(items, latents, strict=True):
                    results[item] = result
        return results

    def _step_hook(self, velocity: GuidedVelocity, progress, callback: StepCallback | None):
        """Returns the function that runs after each step: it calls the callback and moves the progress bar."""

        def after_step(step: int, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
            if callback is not None:
                tensors = {
                    "latents": latents,
                    "prompt_embeds": velocity.conditioning.prompt_embeds,
                    "negative_prompt_embeds": velocity.conditioning.negative_prompt_embeds,
                }
                result = callback.function(self, step, t, {name: tensors[name] for name in callback.tensor_names})
                changed = inputs.check_callback_result(result, tensors)
                latents = changed.pop("latents", latents)
                if changed:
                    velocity.change(**changed)
            progress.update()
            return latents

        return after_step

    # --- decode

    def _decode(
        self, latents: list[torch.Tensor], durations: Sequence[float], output_type: str
    ) -> list[torch.Tensor] | list[np.ndarray] | torch.Tensor:
        """The results as `output_type` says."""
        if output_type == "latent":
            return torch.stack(latents) if len({item.shape for item in latents}) == 1 else latents
        audios = [self.decode_latents(item, seconds) for item, seconds in zip(latents, durations, strict=True)]
        return [audio.cpu().float().numpy() for audio in audios] if output_type == "np" else audios


def _align(component) -> None:
    """Copies weights to aligned memory if they lie at unaligned addresses of a mapped file.

    Kernels treat unaligned weights differently, so the last bits of a result could change after saving and loading.
    """
    for tensor in (*component.parameters(), *component.buffers()) if isinstance(component, torch.nn.Module) else ():
        if tensor.device.type == "cpu" and tensor.data_ptr() % MEMORY_ALIGNMENT:
            tensor.data = tensor.data.clone()


def check_finite(
    what: str, tensor: torch.Tensor, model: Any, *others: torch.nn.Module | None, guidance: Guidance | None = None
) -> torch.Tensor:
    """Returns a result of `model`; if it is not finite, raises a ValueError with the likely cause.

    The cause may also be in the weights of `others`, whose results are inputs of `model`.
    """
    if tensor.isfinite().all():
        return tensor
    parts = [part for part in (model, *others) if part is not None]
    weights = ((part, key, weight) for part in parts for key, weight in part.named_parameters())
    broken = next(((part, key) for part, key, weight in weights if not weight.isfinite().all()), None)
    if broken is not None:
        cause = f"the weights of its {type(broken[0]).__name__} are not: {broken[1]}. Take another checkpoint."
    elif model.dtype == torch.float16:
        cause = "float16 overflows. Take bfloat16 or float32."
    elif guidance is not None:
        cause = f"guidance_scale={guidance.scale:g}, latents or embeddings are too large."
    else:
        cause = "the latents are too large."
    raise ValueError(f"The model returned {what} not finite, most likely because {cause}")
