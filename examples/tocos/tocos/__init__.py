"""Users and the coins they hold, told as JSON."""

VERSION = "0.1.0"
