"""`python3 -m tocos`: serves the API on TOCOS_LISTEN, from the ledger in TOCOS_LEDGER."""

import os
import signal
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from .api import Api
from .ledger import SAMPLE, Ledger, LedgerError


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Handler(WSGIRequestHandler):
    # A client that says nothing must not hold its thread for ever.
    timeout = 10

    def address_string(self):
        return self.client_address[0]


def main():
    host, _, port = os.environ.get("TOCOS_LISTEN", "127.0.0.1:8000").rpartition(":")
    try:
        ledger = Ledger.read(os.environ.get("TOCOS_LEDGER", SAMPLE))
    except LedgerError as error:
        sys.exit(f"tocos: {error}")
    with make_server(host, int(port), Api(ledger), Server, Handler) as server:
        # Process 1 of a container ignores SIGTERM unless it asks for it.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(f"tocos: listening on {host}:{server.server_port}", flush=True)
        server.serve_forever()


main()
