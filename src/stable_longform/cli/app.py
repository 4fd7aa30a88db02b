"""The command `stable-longform app`: the app in the browser, and its HTTP interface."""

import importlib
from typing import Annotated

import typer

from stable_longform.cli.common import end_on_sigterm, load_pipeline, resolve_checkpoint
from stable_longform.cli.options import Checkpoint, Device, Dtype, check_device
from stable_longform.utils.accepted_values import DTYPES
from stable_longform.utils.optional import require
from stable_longform.utils.ranges import check_choice


def app(
    checkpoint: Checkpoint = "tiny",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 7860,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Serves an app for musicians in the browser, and POST /v1/audio/generations for programs.

    Nothing is sent anywhere else. Music and uploads are temporary files, deleted when a visitor leaves or the app
    ends.
    """
    check_choice("--dtype", dtype, DTYPES)
    chosen = check_device(device)
    folder = resolve_checkpoint(checkpoint)
    for name in ("gradio", "matplotlib"):
        require(name, "app")
    # Imported here because the other commands don't need Gradio.
    server_module = importlib.import_module("stable_longform.app.server")
    pipe = load_pipeline(folder, chosen, DTYPES[dtype])
    pipe.set_progress_bar_config(disable=True)
    end_on_sigterm()  # uvicorn raises the signal again when it has stopped
    with server_module.open_server(pipe, checkpoint, host, port) as (server, listener):
        typer.echo(f"http://{host}:{listener.getsockname()[1]}/")
        server.run(sockets=[listener])
