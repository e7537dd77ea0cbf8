"""Asks a running service the questions its users ask.

    python3 smoke.py http://candidate:8000
"""

import json
import sys
import urllib.error
import urllib.request


def ask(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def main(base):
    users, coins = ask(f"{base}/users")["users"], ask(f"{base}/coins")["coins"]
    for user in users:
        ask(f"{base}/users/{user['id']}/coins")
    try:
        ask(f"{base}/users/0")
        sys.exit("smoke: a user that does not exist was told")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            sys.exit(f"smoke: an unknown user is answered with {error.code}")
    print(f"smoke: {len(users)} users, {len(coins)} coins, version {ask(base + '/healthz')['version']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
