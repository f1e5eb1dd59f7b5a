"""A web server on this machine that misbehaves as told."""

import http.server
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Site:
    """Files by path, and how they are served.

    Attributes:
        etag, modified: validators to send.
        ranges: whether Range is honoured; if_range: whether If-Range is, too.
        breaks: for each request to come, after how many bytes of its body the connection breaks.
        stalls: as breaks, but it stays open, silent.
        statuses: for each request to come, the error to answer with.
        length: whether Content-Length is sent; chunked: whether in chunks.
        extra: more headers.
        requests: (method, path, headers) of all that came.
        sent: bytes of bodies that were sent.
    """

    files: dict[str, bytes]
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    if_range: bool = True
    breaks: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    length: bool = True
    chunked: bool = False
    extra: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    url: str = ""

    def ranges_asked(self):
        return [headers.get("Range") for _, _, headers in self.requests]


@contextmanager
def serving(site):
    """Serve a site; sets its url."""
    released = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            site.requests.append(("HEAD", self.path, dict(self.headers)))
            self.send_error(501)

        def do_GET(self):
            site.requests.append(("GET", self.path, dict(self.headers)))
            if site.statuses:
                self.send_error(site.statuses.pop(0))
                return
            if self.path not in site.files:
                self.send_error(404)
                return
            body, start = site.files[self.path], self.first_byte()
            if start and start >= len(body):
                self.send_error(416)
                return
            if site.chunked:
                self.protocol_version = "HTTP/1.1"
            self.send_response(206 if start is not None else 200)
            self.describe(body, start)
            self.send_body(body[start or 0 :])
            self.close_connection = True

        def first_byte(self):
            asked = self.headers.get("Range")
            condition = self.headers.get("If-Range")
            if asked is None or not site.ranges:
                return None
            if site.if_range and condition not in (None, site.etag, site.modified):
                return None
            return int(asked.removeprefix("bytes=").removesuffix("-"))

        def describe(self, body, start):
            if start is not None:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if site.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif site.length:
                self.send_header("Content-Length", str(len(body) - (start or 0)))
            for name, value in {"ETag": site.etag, "Last-Modified": site.modified}.items():
                if value:
                    self.send_header(name, value)
            for name, value in site.extra.items():
                self.send_header(name, value)
            self.end_headers()

        def send_body(self, body):
            stall = site.stalls.pop(0) if site.stalls else None
            limit = site.breaks.pop(0) if site.breaks else stall
            part = body if limit is None else body[:limit]
            if site.chunked:
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                if limit is None:
                    self.wfile.write(b"0\r\n\r\n")
            else:
                self.wfile.write(part)
            self.wfile.flush()
            site.sent += len(part)
            if stall is not None:
                released.wait(20)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        released.set()
        server.shutdown()
        server.server_close()


def wait_until(condition, seconds=20.0):
    """Wait for something another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
