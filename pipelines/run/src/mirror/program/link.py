"""The conversation with mergeyard: a JSON document a line on standard output, an order a line on standard input."""

import json
import os
import queue
import sys
import threading

# mergeyard sends an empty line every ten seconds. After a minute without one the link is dead, even where
# the machine has not noticed; ending then is what ends the lock.
SILENCE_SECONDS = 60

# Where dnf lets no other thread run for long, what came meanwhile has to be read first.
GRACE_SECONDS = 10


class Refused(Exception):
    """Why nothing was changed, in words for whoever wrote the list or runs the mirror."""


class Link:
    def __init__(self):
        self._orders = queue.Queue()
        self._heard = threading.Event()
        self._writing = threading.Lock()
        for work in (self._listen, self._watch):
            threading.Thread(target=work, daemon=True).start()

    def say(self, line):
        """A line for the step's log."""
        self.tell(say=line)

    def tell(self, **document):
        with self._writing:
            try:
                print(json.dumps(document), flush=True)
            except BrokenPipeError:
                os._exit(1)

    def order(self):
        """The next thing that mergeyard wants done."""
        return self._orders.get()

    def _listen(self):
        for line in sys.stdin:
            self._heard.set()
            if line.strip():
                self._orders.put(line.strip())
        # Nobody is there any more who could prove what would be switched to now.
        os._exit(1)

    def _watch(self):
        while self._heard.wait(SILENCE_SECONDS) or self._heard.wait(GRACE_SECONDS):
            self._heard.clear()
        os._exit(1)
