"""Repositories on a Hub, which is a server on this machine that answers as the Hub does."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest
from stable_audio import stable_audio_pipeline
from tiny_pipeline import tiny_pipeline

COMMIT = "0" * 40
SCRIPT = """
import sys
from stable_longform import LongFormMusicPipeline
for repository in sys.argv[1:]:
    pipe = LongFormMusicPipeline.from_pretrained(repository)
    print(repository, type(pipe.text_encoder).__name__, type(pipe.timing_conditioner).__name__, flush=True)
"""


class FakeHub(http.server.BaseHTTPRequestHandler):
    """Serves the folders `owner/name` below `root`: their lists of files, and the files."""

    root: Path
    requests: list[str] = []

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")
        self.requests.append(path)
        if path.startswith("api/models/"):
            owner, name, *rest = path.removeprefix("api/models/").split("/")
            return self.answer(json.dumps(self.describe(f"{owner}/{name}", rest)).encode())
        owner, name, _, _, *file = path.split("/")  # owner/name/resolve/main/file
        file = self.root / owner / name / "/".join(file)
        return self.answer(file.read_bytes() if file.is_file() else None)

    do_HEAD = do_GET

    def describe(self, repository: str, rest: list[str]):
        """The repository, or its list of files."""
        folder = self.root / repository
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        if "tree" in rest:
            sizes = {name: (folder / name).stat().st_size for name in names}
            return [{"type": "file", "path": name, "size": sizes[name], "oid": name} for name in names]
        return {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}

    def answer(self, content: bytes | None) -> None:
        """Sends a file or JSON, or that there is none."""
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        content = content or b""
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments):
        """Keeps quiet."""


@pytest.fixture
def hub(tmp_path):
    """The address of a Hub with a repository of ours and one of diffusers', which holds other files besides."""
    tiny_pipeline().save_pretrained(tmp_path / "someone" / "ours")
    stable_audio_pipeline(text_encoder_dim=7).save_pretrained(tmp_path / "someone" / "theirs")
    for repository in ("ours", "theirs"):
        (tmp_path / "someone" / repository / "model.ckpt").write_bytes(b"large")
    handler = type("Handler", (FakeHub,), {"root": tmp_path, "requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.requests
    server.shutdown()


def test_repositories_of_ours_and_of_diffusers_open(hub, tmp_path):
    address, requests = hub
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", SCRIPT, "someone/ours", "someone/theirs"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "someone/ours ClapTextEncoder TimingConditioner",
        "someone/theirs T5EncoderModel TimingConditioner",
    ]
    assert not any("model.ckpt" in request for request in requests)
