"""Who is called, in a container that nobody kills: answers by path, remembers every call. Standard library only.

/ok/<n> answers 200, /flaky/<n> 503 to attempt 1 and 200 afterwards, /broken/<n> 410, /never/<n> 503, /bad/<n> 400.
GET /calls?from=<n> tells the calls from the n-th on, as JSON.
"""

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PORT = 8000
# So that a kill meets calls under way.
ANSWER_AFTER_S = 0.25
ALWAYS = {"ok": 200, "broken": 410, "never": 503, "bad": 400}

calls: list[dict[str, str | int]] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if address.path == "/calls":
            start = int(parse_qs(address.query)["from"][0])
            self._answer(200, json.dumps(calls[start:]).encode())
        else:
            self._called(address.path)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._called(urlsplit(self.path).path)

    def _called(self, path: str) -> None:
        at_ms = time.time_ns() // 1_000_000
        attempt = int(self.headers["Carillon-Attempt"].partition("/")[0])
        behaviour = path.split("/")[1]
        status = (503 if attempt == 1 else 200) if behaviour == "flaky" else ALWAYS[behaviour]
        # Before the answer: the caller may die while it waits.
        calls.append({"id": self.headers["webhook-id"], "attempt": attempt, "at_ms": at_ms, "status": status})
        time.sleep(ANSWER_AFTER_S)
        self._answer(status, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


if __name__ == "__main__":
    Server(("", PORT), Handler).serve_forever()
