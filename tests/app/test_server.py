"""The server over HTTP, as a program sees it."""

import contextlib
import io
import os
import signal
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import soundfile
import torch
from tiny_pipeline import seed

from stable_longform.cli import main

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")


def post(server, **body):
    """An answer."""
    return httpx.post(f"{server.url}/v1/audio/generations", json=body, timeout=60)


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_generations_are_the_pipeline_s_own(server, pipe, format):
    answer = post(server, prompt="solo piano", duration=1.5, seed=3, response_format=format)
    assert answer.status_code == 200 and answer.headers["content-type"] == f"audio/{format}"
    samples, rate = soundfile.read(io.BytesIO(answer.content), dtype="float32")
    expected = pipe("solo piano", 1.5, generator=seed(3)).audios[0]
    assert rate == pipe.sampling_rate and samples.shape == (12000, 2)
    assert torch.allclose(torch.from_numpy(samples).T, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"duration": 99}, 400, "duration must be in [1/8000, 2.048] seconds, got 99.0."),
        ({"duration": 0}, 422, "greater than or equal to 0.001"),
        ({"duration": 1e-9}, 422, "greater than or equal to 0.001"),
        ({"prompt": "a" * 2001}, 422, "2000 characters"),
        ({"guidance_scale": 1e30}, 422, "less than or equal to 100"),
        ({"duration": "1"}, 422, "body.duration: Input should be a valid number."),
        ({"duration": True}, 422, "body.duration: Input should be a valid number."),
        ({"duration": 0, "seed": 0.5}, 422, "body.seed: Input should be a valid integer"),
        ({"prompt": 3}, 422, "string"),
        ({"num_inference_steps": 0}, 422, "greater than or equal to 1"),
        ({"seed": -1}, 422, "greater than or equal to 0"),
        ({"response_format": "exe"}, 422, "'wav' or 'flac'"),
        ({"temperature": 1}, 422, "temperature"),
        ({"x" * 60000: 1}, 422, "x: Extra inputs are not permitted."),
    ],
)
def test_bad_requests_say_what_is_wrong(server, body, status, message):
    answer = post(server, **{"duration": 1} | body)
    assert answer.status_code == status and message in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 200


BAD_BODIES = {
    "nothing": b"",
    "cut off": b"{",
    "a list": b"[]",
    "null": b"null",
    "text": b"calm piano",
    "no UTF-8": b'{"prompt": "\xff"}',
    "deep": b"[" * 60_000,
    "a surrogate": b'{"prompt": "a\\ud800", "duration": 1}',
    "NaN": b'{"duration": NaN}',
    "an infinite duration": b'{"duration": 1e999}',
    "a seed of 400 digits": b'{"seed": 1' + b"0" * 400 + b"}",
    "a seed of 5000 digits": b'{"seed": 1' + b"0" * 5000 + b"}",
    "steps of 400 digits": b'{"num_inference_steps": 1' + b"0" * 400 + b"}",
}


@pytest.mark.parametrize("content", BAD_BODIES.values(), ids=BAD_BODIES)
def test_bad_bodies_say_what_is_wrong(server, content):
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{server.url}/v1/audio/generations", content=content, headers=headers, timeout=60)
    detail = answer.json()["detail"]
    assert answer.status_code in (400, 422) and isinstance(detail, str) and "JSON compliant" not in detail
    assert "codec" not in detail and "Content-Type" not in detail and len(detail) < 200


@pytest.mark.parametrize("kind", [{}, {"Content-Type": "application/x-www-form-urlencoded"}])
def test_json_that_does_not_say_so_is_refused_with_the_header_that_is_missing(server, kind):
    """As curl sends it with -d and without -H."""
    answer = httpx.post(f"{server.url}/v1/audio/generations", content=b'{"duration": 1}', headers=kind, timeout=60)
    assert answer.status_code == 422 and "with the header Content-Type: application/json" in answer.json()["detail"]


def test_a_long_body_is_refused_whether_or_not_it_says_its_length(server):
    long = b'{"prompt": "' + b"a" * 2**20 + b'"}'
    for content in (long, (long[start : start + 2**14] for start in range(0, len(long), 2**14))):
        answer = httpx.post(f"{server.url}/v1/audio/generations", content=content, timeout=60)
        assert answer.status_code == 413 and "at most 65536 bytes" in answer.text


def test_clients_at_the_same_time_get_their_own_music(server, pipe):
    with ThreadPoolExecutor(3) as executor:
        answers = list(executor.map(lambda number: post(server, prompt="piano", duration=1, seed=number), range(3)))
    for number, answer in enumerate(answers):
        samples, _ = soundfile.read(io.BytesIO(answer.content), dtype="float32")
        expected = pipe("piano", 1.0, generator=seed(number)).audios[0]
        assert torch.allclose(torch.from_numpy(samples).T, expected, atol=1e-4)


def test_health(server):
    fields = httpx.get(f"{server.url}/v1/openapi.json").json()["components"]["schemas"]["GenerationRequest"]
    assert {"prompt", "duration", "seed"} <= set(fields["properties"])
    assert httpx.head(f"{server.url}/v1/health").status_code == 200
    assert httpx.get(f"{server.url}/v1/health").json() == {
        "status": "ok", "checkpoint": "random", "max_duration_in_s": 2.048, "num_generations": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "audio/generations", 405, "/v1/audio/generations has no GET; use POST."),
        ("PUT", "audio/generations", 405, "/v1/audio/generations has no PUT; use POST."),
        ("DELETE", "health", 405, "/v1/health has no DELETE; use GET."),
        ("POST", "audio/generation", 404, "Not Found"),
    ],
)
def test_other_methods_and_addresses_are_not_the_page_s(server, method, path, status, detail):
    answer = httpx.request(method, f"{server.url}/v1/{path}")
    assert (answer.status_code, answer.json()["detail"]) == (status, detail)


def test_a_client_that_leaves_stops_its_generation(server):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/v1/audio/generations", json={"duration": 2, "num_inference_steps": 1000}, timeout=0.5
        )
    answer = post(server, duration=1)
    assert answer.status_code == 200
    assert httpx.get(f"{server.url}/v1/health").json()["num_generations"] == 0


def test_a_port_that_is_taken_is_refused_before_the_model_is_used(server):
    from stable_longform.app.server import open_server  # slow to import, and only there with the extra

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port} cannot be listened on"):
            with open_server(None, "none", "127.0.0.1", port):
                pass


def test_gradio_s_folder_of_another_user_is_not_used(pipe, tmp_path, monkeypatch):
    from stable_longform.app.server import open_server

    (tmp_path / "gradio").write_text("not a folder")
    monkeypatch.setattr("gradio.routes.DEFAULT_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))  # restored for the other server
    with open_server(pipe, "random", "127.0.0.1", 0) as (server, _):
        server.config.load()
    assert (tmp_path / "gradio").read_text() == "not a folder"


def test_a_server_that_is_terminated_leaves_no_files(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))  # restored for the other server
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    seen = []

    def terminate():
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/v1/health")
                seen.extend((tmp_path / "temporary").iterdir())
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.1)

    thread, handler = threading.Thread(target=terminate, daemon=True), signal.getsignal(signal.SIGTERM)
    thread.start()
    try:
        with pytest.raises(SystemExit) as ended:
            main(["app", "--checkpoint", str(tmp_path / "checkpoint"), "--port", str(port)])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert not ended.value.code and seen and list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "nowhere/at/all"], "is not a checkpoint"),
        (["--port", "70000"], "--port"),
        (["--dtype", "int8"], "--dtype must be one of"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_the_command_refuses_bad_options_in_a_line(options, message, capsys):
    assert main(["app", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
