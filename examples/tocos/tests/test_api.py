import json
import unittest
from wsgiref.util import setup_testing_defaults

from tocos.api import Api
from tocos.ledger import Ledger


def ask(path, method="GET"):
    """The status, the headers and the document that a request is answered with."""
    environ, told = {}, {}
    setup_testing_defaults(environ)
    environ.update(PATH_INFO=path, REQUEST_METHOD=method)

    def start_response(status, headers):
        told.update(status=int(status.split()[0]), headers=dict(headers))

    body = b"".join(Api(Ledger.read())(environ, start_response))
    return told["status"], told["headers"], json.loads(body) if body else None


class ApiTest(unittest.TestCase):
    def test_users_and_their_coins(self):
        status, headers, document = ask("/users")
        self.assertEqual((status, headers["Content-Type"]), (200, "application/json"))
        self.assertEqual([user["name"] for user in document["users"]], ["Ada", "Grace", "Radia"])
        self.assertEqual(ask("/users/2/coins")[2], {"coins": {"TOC": "99.99"}})

    def test_a_coin_and_how_much_of_it_there_is(self):
        self.assertEqual(ask("/coins/toc")[2]["supply"], "220.49")

    def test_what_is_not_there_is_a_problem_document(self):
        for path in ["/", "/users/4", "/users/x", "/users/²", "/coins/BTC", "/users/1/coins/TOC", "/../etc/passwd"]:
            status, headers, document = ask(path)
            self.assertEqual((status, headers["Content-Type"]), (404, "application/problem+json"), path)
            self.assertEqual(document["status"], 404)

    def test_nothing_can_be_changed(self):
        status, headers, _ = ask("/users", "POST")
        self.assertEqual((status, headers["Allow"]), (405, "GET, HEAD"))

    def test_head_says_the_length_and_nothing_else(self):
        status, headers, document = ask("/users", "HEAD")
        self.assertEqual((status, document), (200, None))
        self.assertGreater(int(headers["Content-Length"]), 0)

    def test_it_says_that_it_lives(self):
        self.assertEqual(ask("/healthz")[2]["status"], "ok")


if __name__ == "__main__":
    unittest.main()
