"""A server of the app with a tiny random model, for all tests of a file."""

import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_pipeline import tiny_pipeline

RATE = 8000


@pytest.fixture(scope="session")
def pipe():
    """Random weights; a window of 512 frames of 32 samples: 2.048 s."""
    pipe = tiny_pipeline(sampling_rate=RATE, sample_size=512)
    pipe.vae.decoder.conv2.weight_g.data *= 0.02  # well within full scale
    pipe.register_to_config(num_inference_steps=4, guidance_scale=2.0)
    return pipe


@pytest.fixture(scope="module")  # not longer: tests of other files fork, and the copies share the server's sockets
def server(pipe, tmp_path_factory):
    """The address of a running server, and the folder that its temporary files are in."""
    pytest.importorskip("gradio")
    from stable_longform.app.server import open_server

    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        with open_server(pipe, "random", "127.0.0.1", 0) as (server, listener):
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            patch.undo()
            yield SimpleNamespace(url=url, folder=Path(folder))
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
    assert list(folder.iterdir()) == []  # nothing is left behind
