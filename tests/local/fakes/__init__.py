"""A stand-in for a service: answers /readyz on its admin port. CARILLON_FAKE makes it crash or never be ready."""

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Admin(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        unready = os.environ.get("CARILLON_FAKE") == "unready"
        body = b"broker: connecting" if unready else os.environ["CARILLON_REPLICA"].encode()
        self.send_response(503 if unready else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def run() -> None:
    print(os.environ["CARILLON_REPLICA"], "began")
    if os.environ.get("CARILLON_FAKE") == "crash":
        sys.exit("CARILLON_FAKE: is 'crash', which no service can live with")
    HTTPServer(("127.0.0.1", int(os.environ["CARILLON_ADMIN_PORT"])), Admin).serve_forever()
