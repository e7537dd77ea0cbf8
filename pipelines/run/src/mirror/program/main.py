"""One update, dry run or rollback of a yum mirror, on the mirror, for as long as mergeyard listens."""

import os
import sys

from layout import Mirror
from link import Link, Refused


def main(request):
    os.umask(0o022)
    link = Link()
    try:
        work = {"update": update, "check": check, "rollback": rollback}[request["mode"]]
        work(request, Mirror(request["root"]), link)
    except Refused as refused:
        fail(link, str(refused))
    except OSError as error:
        # A full disk comes up anywhere.
        fail(link, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")


def fail(link, why):
    print(why, file=sys.stderr, flush=True)
    link.tell(failed=why)
    # Threads of dnf and a reader that waits for orders have nothing left to do.
    os._exit(1)


def check(request, mirror, link):
    plan = Plan(request, mirror, link)
    plan.tell(digest=None)


def update(request, mirror, link):
    with mirror.locked(request["holder"], link.say):
        plan = Plan(request, mirror, link)
        digest = mirror.with_contents(plan.contents)
        if digest is None:
            digest = mirror.assemble(plan.contents, plan.bring(), plan.before)
        plan.tell(digest=digest)
        obey(request, mirror, link, digest, plan.before)


def rollback(request, mirror, link):
    with mirror.locked(request["holder"], link.say):
        before, digest = mirror.current(), mirror.known(request["snapshot"])
        contents = mirror.contents(digest)
        tell(link, contents, mirror.contents(before), {}, digest, before)
        obey(request, mirror, link, digest, before)


class Plan:
    """What a list means today."""

    def __init__(self, request, mirror, link):
        # Here, because a mirror without dnf's module should hear so in words.
        try:
            from upstream import Upstream, file_name, full_name
        except ImportError as error:
            raise Refused(f"{sys.executable} has no module {error.name}; install python3-dnf on the mirror") from None
        self._link = link
        self._upstream = Upstream(mirror, request["upstreams"], link.say)
        wanted, needed = self._upstream.resolve(request["packages"])
        self.before = mirror.current()
        self._now = mirror.contents(self.before)
        self._packages = {file_name(package): package for package in needed.values()}
        self._entries = {entry: [full_name(package) for package in found] for entry, found in wanted.items()}
        self.contents = {
            name: {
                "package": full_name(package),
                "checksum": package.chksum[1].hex(),
                "size": package.downloadsize,
            }
            for name, package in sorted(self._packages.items())
        }

    def bring(self):
        return self._upstream.bring(self._packages)

    def tell(self, digest):
        tell(self._link, self.contents, self._now, self._entries, digest, self.before)


def tell(link, contents, now, entries, digest, before):
    """What is ready to be switched to. New is what is not served now with the same content."""
    link.tell(
        ready={
            "digest": digest and f"sha256:{digest}",
            "before": before and f"sha256:{before}",
            "entries": entries,
            "packages": [
                {
                    "name": about["package"],
                    "file": f"Packages/{name}",
                    "size": about["size"],
                    "new": now.get(name) != about,
                }
                for name, about in contents.items()
            ],
            "removed": [about["package"] for name, about in now.items() if name not in contents],
        }
    )


def obey(request, mirror, link, digest, before):
    """mergeyard writes down what it is about to do, lets it be done, proves it, and keeps it or takes it back."""
    while True:
        order = link.order()
        if order == "switch":
            mirror.switch(digest)
        elif order == "back":
            mirror.switch(before)
        elif order == "keep":
            mirror.collect(request["keep"])
            link.tell(done=order)
            return
        else:
            raise Refused(f"mergeyard sent an order that is not known here: {order}")
        link.tell(done=order)
