"""Serves the page of a listening test with the standard library, and stores the results that it sends."""

import functools
import itertools
import re
import threading
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from stable_longform.analysis.listening_test_results import PAGE_COLUMNS
from stable_longform.utils.files import write_text

MAX_RESULT_IN_BYTES = 2**20


class _Handler(SimpleHTTPRequestHandler):
    """Files of the page, and `POST results`."""

    is_writing = threading.Lock()

    def __init__(self, *args, results: Path, **kwargs):
        self.results = results
        super().__init__(*args, **kwargs)

    def do_POST(self) -> None:
        """Stores a result file; anything else is rejected."""
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != "/results" or not 0 < length <= MAX_RESULT_IN_BYTES:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        text = self.rfile.read(length).decode("utf-8", "replace").replace("\r\n", "\n")
        header, _, rows = text.partition("\n")
        listener = re.match(r"[^,]*,(\d{1,6}),", rows)
        if header != ",".join(PAGE_COLUMNS) or listener is None:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        self.results.mkdir(parents=True, exist_ok=True)
        names = (self.results / f"l{listener[1]}-{number}.csv" for number in itertools.count(1))
        with self.is_writing:  # requests have their own threads, and names must differ
            write_text(next(path for path in names if not path.exists()), text)
        self.send_response(HTTPStatus.NO_CONTENT)
        self.end_headers()

    def log_message(self, *args) -> None:
        """Logs nothing."""


def make_server(page: Path, results: Path, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """A server for the folder `page` that stores results in the folder `results`; port 0 means any free port.

    Raises:
        ValueError: the folder has no page, or the server cannot listen on the address.
    """
    if not (page / "index.html").is_file():
        raise ValueError(f"{page} has no index.html: build the test first.")
    handler = functools.partial(_Handler, directory=str(page), results=results)
    try:
        return ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise ValueError(f"--host {host} --port {port} cannot be listened on: {error.strerror}.") from error
