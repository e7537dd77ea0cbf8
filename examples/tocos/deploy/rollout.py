"""Sets one image live on the Docker host whose socket it is given.

    python3 rollout.py IMAGE

The new container is started beside the old one, on a port of its own, and has to be healthy before
anything else happens. Then the old one gives up the public port and the new one, started again
there, takes it. When that fails, the old one is put back. Only the standard library is needed.
"""

import http.client
import json
import os
import socket
import sys
import time
from urllib.parse import quote

SOCKET = os.environ.get("DOCKER_SOCKET", "/var/run/docker.sock")
NAME = os.environ.get("TOCOS_NAME", "tocos")
PORT = os.environ.get("TOCOS_PORT", "8000")
PATIENCE = 60


class Failure(Exception):
    pass


class Engine(http.client.HTTPConnection):
    def __init__(self):
        super().__init__("docker")

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(SOCKET)


def ask(method, path, document=None, fine=()):
    """One question to the engine. Answers in `fine` are as good as success."""
    engine = Engine()
    body = json.dumps(document) if document is not None else None
    engine.request(method, path, body, {"Content-Type": "application/json"})
    answer = engine.getresponse()
    text = answer.read()
    engine.close()
    if answer.status >= 400 and answer.status not in fine:
        raise Failure(f"{method} {path}: {answer.status}: {text.decode(errors='replace').strip()}")
    return json.loads(text) if text and answer.status < 400 else None


def start(name, image, port):
    ask("DELETE", f"/containers/{name}?force=true", fine=(404,))
    ask("POST", f"/containers/create?name={name}", {
        "Image": image,
        "Labels": {"org.example.service": NAME},
        "ExposedPorts": {"8000/tcp": {}},
        "HostConfig": {
            "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]},
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "RestartPolicy": {"Name": "unless-stopped"},
        },
    })
    ask("POST", f"/containers/{name}/start")


def healthy(name):
    """Waits for the image's own health check, whose word is final."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        state = ask("GET", f"/containers/{name}/json")["State"]
        if state["Health"]["Status"] == "healthy":
            return
        if not state["Running"] or state["Health"]["Status"] == "unhealthy":
            break
        time.sleep(0.5)
    raise Failure(f"{name} did not become healthy within {PATIENCE} s")


def main(image):
    candidate, old = f"{NAME}-candidate", f"{NAME}-old"
    print(f"starting {image} beside what runs", flush=True)
    try:
        start(candidate, image, "")
        healthy(candidate)
    finally:
        ask("DELETE", f"/containers/{candidate}?force=true", fine=(404,))
    ask("DELETE", f"/containers/{old}?force=true", fine=(404,))
    had_one = ask("GET", f"/containers/{NAME}/json", fine=(404,)) is not None
    if had_one:
        ask("POST", f"/containers/{NAME}/rename?name={quote(old)}")
        ask("POST", f"/containers/{old}/stop?t=5", fine=(304,))
    try:
        start(NAME, image, PORT)
        healthy(NAME)
    except Exception:
        ask("DELETE", f"/containers/{NAME}?force=true", fine=(404,))
        if had_one:
            ask("POST", f"/containers/{old}/rename?name={quote(NAME)}")
            ask("POST", f"/containers/{NAME}/start")
            print("the version before is back", flush=True)
        raise
    ask("DELETE", f"/containers/{old}?force=true", fine=(404,))
    print(f"{NAME} is live on port {PORT}", flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (Failure, OSError) as error:
        sys.exit(f"rollout: {error}")
