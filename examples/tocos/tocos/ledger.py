"""Who holds what. Read once from a file and never changed afterwards."""

import json
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

SAMPLE = Path(__file__).with_name("sample.json")


class LedgerError(Exception):
    """The file does not say what a ledger says; the message names the place."""


@dataclass(frozen=True)
class Coin:
    code: str
    name: str
    decimals: int

    def as_json(self):
        return {"code": self.code, "name": self.name, "decimals": self.decimals}


@dataclass(frozen=True)
class User:
    id: int
    name: str
    #: Amounts by coin code. Decimal, because a float cannot hold 0.10 of anything.
    balances: dict

    def as_json(self):
        balances = {code: str(amount) for code, amount in sorted(self.balances.items())}
        return {"id": self.id, "name": self.name, "balances": balances}


class Ledger:
    def __init__(self, coins, users):
        self.coins = {coin.code: coin for coin in coins}
        self.users = {user.id: user for user in users}

    @classmethod
    def read(cls, path=SAMPLE):
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"), parse_float=Decimal)
        except OSError as error:
            raise LedgerError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise LedgerError(f"{path}: {error}") from error
        return cls.of(document, where=str(path))

    @classmethod
    def of(cls, document, where="ledger"):
        coins = [_coin(raw, f"{where}: coins[{at}]") for at, raw in enumerate(_list(document, "coins", where))]
        ledger = cls(coins, [])
        for at, raw in enumerate(_list(document, "users", where)):
            user = _user(raw, f"{where}: users[{at}]", ledger.coins)
            if user.id in ledger.users:
                raise LedgerError(f"{where}: users[{at}]: id {user.id} is there twice")
            ledger.users[user.id] = user
        return ledger

    def supply(self, code):
        """How much of a coin all users hold together."""
        return sum((user.balances.get(code, Decimal(0)) for user in self.users.values()), Decimal(0))


def _list(document, key, where):
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, list):
        raise LedgerError(f"{where}: `{key}` must be a list")
    return value


def _coin(raw, where):
    try:
        coin = Coin(str(raw["code"]), str(raw["name"]), int(raw["decimals"]))
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"{where}: a coin has `code`, `name` and `decimals`") from error
    if not coin.code.isalnum() or coin.decimals < 0:
        raise LedgerError(f"{where}: `code` is letters and digits, `decimals` is 0 or more")
    return coin


def _user(raw, where, coins):
    try:
        user = User(int(raw["id"]), str(raw["name"]), {})
        balances = dict(raw.get("balances", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"{where}: a user has `id`, `name` and `balances`") from error
    for code, amount in balances.items():
        if code not in coins:
            raise LedgerError(f"{where}: there is no coin `{code}`")
        user.balances[code] = _amount(amount, coins[code], f"{where}: {code}")
    return user


def _amount(raw, coin, where):
    try:
        amount = Decimal(str(raw))
    except InvalidOperation as error:
        raise LedgerError(f"{where}: `{raw}` is not an amount") from error
    if not amount.is_finite() or amount < 0 or -amount.as_tuple().exponent > coin.decimals:
        raise LedgerError(f"{where}: `{raw}` is not an amount with at most {coin.decimals} decimals")
    return amount
