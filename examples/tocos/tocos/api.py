"""The REST API, as a WSGI application.

GET /users, /users/{id}, /users/{id}/coins, /coins, /coins/{code} and /healthz. Errors are problem
documents (RFC 9457). Nothing can be changed, so every other method is refused with 405.
"""

import json
from http import HTTPStatus
from urllib.parse import unquote

from . import VERSION


class Problem(Exception):
    def __init__(self, status, detail, headers=()):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, list(headers)


class Api:
    def __init__(self, ledger):
        self.ledger = ledger

    def __call__(self, environ, start_response):
        kind, headers = "application/json", []
        try:
            status, document = HTTPStatus.OK, self.answer(environ)
        except Problem as problem:
            status, headers, kind = problem.status, problem.headers, "application/problem+json"
            document = {"title": status.phrase, "status": status.value, "detail": problem.detail}
        body = json.dumps(document, ensure_ascii=False).encode()
        headers += [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        start_response(f"{status.value} {status.phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def answer(self, environ):
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            raise Problem(HTTPStatus.METHOD_NOT_ALLOWED, "this API only tells", [("Allow", "GET, HEAD")])
        # WSGI hands the path over as Latin-1, whatever the client meant.
        path = unquote(environ.get("PATH_INFO", "/").encode("latin-1").decode("utf-8", "replace"))
        match path.strip("/").split("/"):
            case ["healthz"]:
                return {"status": "ok", "version": VERSION}
            case ["users"]:
                return {"users": [user.as_json() for user in self.ledger.users.values()]}
            case ["users", id]:
                return self.user(id).as_json()
            case ["users", id, "coins"]:
                return {"coins": self.user(id).as_json()["balances"]}
            case ["coins"]:
                return {"coins": [coin.as_json() for coin in self.ledger.coins.values()]}
            case ["coins", code]:
                return self.coin(code)
            case _:
                raise Problem(HTTPStatus.NOT_FOUND, f"there is nothing at {path}")

    def user(self, id):
        user = self.ledger.users.get(int(id)) if id.isascii() and id.isdigit() else None
        if user is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"there is no user {id}")
        return user

    def coin(self, code):
        coin = self.ledger.coins.get(code.upper())
        if coin is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"there is no coin {code}")
        return coin.as_json() | {"supply": str(self.ledger.supply(coin.code))}
