"""The page and `POST /v1/audio/generations` on one address."""

import contextlib
import os
import socket
import tempfile
from pathlib import Path
from typing import Literal

import fastapi
import gradio as gr
import pydantic
import torch
import uvicorn
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse

from stable_longform.app.page import CSS, Page
from stable_longform.app.streams import MEDIA_TYPES, stream_audio
from stable_longform.app.studio import Busy, Studio
from stable_longform.app.tabs import text_to_music
from stable_longform.app.uploads import MAX_UPLOAD
from stable_longform.utils.accepted_values import MAX_GUIDANCE_SCALE, MAX_SEED, MAX_STEPS
from stable_longform.utils.timecodes import SECONDS

MAX_BODY = 2**16  # bytes of a program's request
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none from the network


class GenerationRequest(pydantic.BaseModel, extra="forbid", strict=True):
    """The fields of a request; None means the checkpoint's default."""

    prompt: str = pydantic.Field("", max_length=2000)
    duration: float = pydantic.Field(30.0, ge=SECONDS.low, description="Seconds, up to the model's window.")
    negative_prompt: str | None = pydantic.Field(None, max_length=2000)
    num_inference_steps: int | None = pydantic.Field(None, ge=1, le=MAX_STEPS)
    guidance_scale: float | None = pydantic.Field(None, ge=-MAX_GUIDANCE_SCALE, le=MAX_GUIDANCE_SCALE)
    seed: int = pydantic.Field(0, ge=0, le=MAX_SEED)
    response_format: Literal["wav", "flac"] = "wav"


class BodyLimit:
    """ASGI middleware: a request with a longer body than `MAX_BODY` is answered with 413."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        """One request."""
        num_bytes = 0

        async def receive_limited() -> dict:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > MAX_BODY:
                raise fastapi.HTTPException(413, f"The request must have at most {MAX_BODY} bytes.")
            return message

        await self.app(scope, receive_limited if scope["type"] == "http" else receive, send)


def make_app(studio: Studio, folder: Path) -> fastapi.FastAPI:
    """The server's application: below `/v1` the interface for programs, everywhere else the page.

    Args:
        studio: makes the music.
        folder: for temporary files.
    """
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/v1", make_interface(studio))
    return gr.mount_gradio_app(
        app,
        Page(studio, folder).build(),
        path="/",
        max_file_size=MAX_UPLOAD,
        css=CSS,
        theme=gr.themes.Soft(primary_hue="orange", **FONTS),
        footer_links=[],
        ssr_mode=False,
    )


def make_interface(studio: Studio) -> fastapi.FastAPI:
    """The interface for programs."""
    app = fastapi.FastAPI(title="stable-longform", docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit)

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    def health() -> dict:
        return {
            "status": "ok",
            "checkpoint": studio.checkpoint,
            "max_duration_in_s": studio.pipe.max_duration_in_s,
            "num_generations": studio.num_generations,
        }

    @app.exception_handler(ValueError)
    def refuse(request: fastapi.Request, error: ValueError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503 if isinstance(error, Busy) else 400)

    @app.exception_handler(RequestValidationError)
    def refuse_body(request: fastapi.Request, error: RequestValidationError) -> JSONResponse:
        if not request.headers.get("content-type", "").startswith("application/json"):
            detail = "The request must be JSON, with the header Content-Type: application/json."
            return JSONResponse({"detail": detail}, 422)
        found = [(".".join(map(str, part["loc"])), part["msg"]) for part in error.errors()]
        return JSONResponse({"detail": "; ".join(f"{place:.80}: {message}" for place, message in found) + "."}, 422)

    @app.exception_handler(405)
    def refuse_method(request: fastapi.Request, error: fastapi.HTTPException) -> JSONResponse:
        allowed = (error.headers or {})["Allow"]
        detail = f"{request.url.path} has no {request.method}; use {allowed}."
        return JSONResponse({"detail": detail}, 405, {"Allow": allowed})

    @app.post("/audio/generations")
    async def generate(body: GenerationRequest, request: fastapi.Request) -> StreamingResponse:
        """Generates music as a 16-bit file, sent while it is decoded; samples beyond full scale are clipped."""
        settings = body.model_dump(exclude={"seed", "response_format"})
        generator = torch.Generator().manual_seed(body.seed)
        events = studio.run(
            lambda open_pipeline: text_to_music(open_pipeline, **settings, generator=generator), body.duration
        )
        first = await _next_chunk(events, request)
        num_samples = round(body.duration * studio.pipe.sampling_rate)

        def chunks():
            with contextlib.closing(events):
                yield first
                yield from (event for event in events if isinstance(event, torch.Tensor))

        data = stream_audio(chunks(), studio.pipe.sampling_rate, first.shape[0], num_samples, body.response_format)
        return StreamingResponse(data, media_type=MEDIA_TYPES[body.response_format])

    return app


async def _next_chunk(events, request: fastapi.Request) -> torch.Tensor:
    """Waits for the first chunk, before which all errors occur. If the client disconnects, the generation stops."""
    try:
        while True:
            event = await run_in_threadpool(next, events)
            if isinstance(event, torch.Tensor):
                return event
            if await request.is_disconnected():
                raise fastapi.HTTPException(499)
    except BaseException:
        events.close()
        raise


@contextlib.contextmanager
def open_server(pipe, checkpoint: str, host: str, port: int):
    """Opens a listening `uvicorn.Server` and its socket; temporary files are deleted when it is closed.

    Args:
        pipe: the text-to-music pipeline, from which the others are made.
        checkpoint: its name.
        host: address to listen on.
        port: 0 means any free port.

    Raises:
        ValueError: the server cannot listen on the address.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.closing(listener), tempfile.TemporaryDirectory(prefix="stable-longform-") as folder:
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ValueError(f"--host {host} --port {port} cannot be listened on: {error.strerror}.") from error
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")  # read at each use, but for one constant:
        gr.routes.DEFAULT_TEMP_DIR = os.environ["GRADIO_TEMP_DIR"]  # else a folder that may belong to another user
        (Path(folder) / "results").mkdir()
        studio = Studio(pipe, checkpoint)
        try:
            app = make_app(studio, Path(folder) / "results")
            yield uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)), listener
        finally:
            studio.close()
            del os.environ["GRADIO_TEMP_DIR"]
