import unittest
from decimal import Decimal

from tocos.ledger import Ledger, LedgerError

COINS = [{"code": "TOC", "name": "Toco", "decimals": 2}]


def ledger(*users):
    return Ledger.of({"coins": COINS, "users": list(users)})


class LedgerTest(unittest.TestCase):
    def test_the_sample_reads(self):
        self.assertEqual(Ledger.read().users[1].balances["TOC"], Decimal("120.50"))

    def test_amounts_are_exact(self):
        tenths = [{"id": id, "name": "x", "balances": {"TOC": "0.10"}} for id in range(3)]
        self.assertEqual(ledger(*tenths).supply("TOC"), Decimal("0.30"))

    def test_what_is_wrong_is_named_with_its_place(self):
        for user, says in [
            ({"name": "x"}, "users[0]"),
            ({"id": 1, "name": "x", "balances": {"BTC": 1}}, "no coin `BTC`"),
            ({"id": 1, "name": "x", "balances": {"TOC": "1.001"}}, "at most 2 decimals"),
            ({"id": 1, "name": "x", "balances": {"TOC": "-1"}}, "not an amount"),
            ({"id": 1, "name": "x", "balances": {"TOC": "NaN"}}, "not an amount"),
        ]:
            with self.subTest(user=user), self.assertRaises(LedgerError) as raised:
                ledger(user)
            self.assertIn(says, str(raised.exception))

    def test_an_id_belongs_to_one_user(self):
        with self.assertRaisesRegex(LedgerError, "twice"):
            ledger({"id": 1, "name": "x"}, {"id": 1, "name": "y"})

    def test_a_file_that_is_not_there_is_named(self):
        with self.assertRaisesRegex(LedgerError, "/nowhere"):
            Ledger.read("/nowhere")


if __name__ == "__main__":
    unittest.main()
