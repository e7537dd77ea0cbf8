"""The mirror's folder. What is served is ROOT/current.

    dnf.conf, repos.d/, vars/   the operator's: take the place of the machine's own configuration of dnf
    lock                        who works on the mirror, for as long as they do
    cache/                      what dnf knows of the upstreams
    incoming/REPO/              downloads that are not verified yet; they outlive a failure, so a rerun goes on
    pool/TRUST/REPO/            verified packages under the checksum of their upstream, each once
    next/                       the snapshot that is being put together
    snapshots/DIGEST/           Packages/ (links into the pool), repodata/ and contents.json; never changed.
                                DIGEST is the SHA-256 of repodata/repomd.xml
    gone/                       snapshots that are being removed
    current                     a link to one of the snapshots

A snapshot appears whole, by a rename after all of it is on the disk, and current changes by one rename.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from link import Refused


class Mirror:
    def __init__(self, root):
        self.root = Path(root)
        self.incoming = self.root / "incoming"
        self.pool = self.root / "pool"
        self.snapshots = self.root / "snapshots"
        self.link = self.root / "current"
        self._lock = None

    @contextlib.contextmanager
    def locked(self, holder, say):
        """Alone with the mirror. The lock is the process's: it ends with it, however that ends."""
        self.root.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                other = os.pread(lock, 4096, 0).decode(errors="replace").strip()
                say(f"waiting for {other or 'another update'}, which works on {self.root}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{holder}\n".encode(), 0)
            self._lock = lock
            self._sweep()
            yield
            os.ftruncate(lock, 0)
        finally:
            os.close(lock)

    def _sweep(self):
        """What an update that was interrupted left half done."""
        for folder in (self.pool, self.snapshots):
            folder.mkdir(exist_ok=True)
        for folder in ("next", "gone"):
            remove(self.root / folder)

    def current(self):
        """The digest of what is served, or None."""
        if not os.path.lexists(self.link):
            return None
        if not self.link.is_symlink():
            raise Refused(f"{self.link} is there and is no snapshot of mergeyard's; move it away, and run this again")
        digest = Path(os.readlink(self.link)).name
        if not (self.snapshots / digest).is_dir():
            raise Refused(f"{self.link} leads to {os.readlink(self.link)}, which is no snapshot; remove the link")
        return digest

    def contents(self, digest):
        """What a snapshot holds: file name to name-epoch:version-release.arch, checksum and size."""
        return self._about(digest)["packages"] if digest else {}

    def _about(self, digest):
        return json.loads((self.snapshots / digest / "contents.json").read_text())

    def with_contents(self, contents):
        """A snapshot that holds just this, if there is one."""
        served = self.current()
        others = (path.name for path in self.snapshots.iterdir() if path.name != served)
        for digest in [served, *others]:
            if digest and self.contents(digest) == contents:
                return digest
        return None

    def known(self, digest):
        """A snapshot to go back to."""
        if not (self.snapshots / digest).is_dir():
            there = ", ".join(f"sha256:{path.name}" for path in self._by_age()) or "none"
            raise Refused(f"the snapshot sha256:{digest} is not on the mirror any more; there are: {there}")
        return digest

    def assemble(self, contents, files, before):
        """A new snapshot of packages in the pool. What the one before knows of them is not read again."""
        folder = self.root / "next"
        packages = folder / "Packages"
        packages.mkdir(parents=True)
        for name in contents:
            os.link(files[name], f"{packages}/{name}")
        self._write_metadata(folder, before)
        metadata = sorted(path.name for path in (folder / "repodata").iterdir())
        about = {"packages": contents, "metadata": metadata}
        (folder / "contents.json").write_text(json.dumps(about, indent=1, sort_keys=True))
        if before:
            # Whoever read repomd.xml just before the switch finds what it names just after it.
            for name in self._about(before)["metadata"]:
                if not (folder / "repodata" / name).exists():
                    os.link(self.snapshots / before / "repodata" / name, folder / "repodata" / name)
        for path in (*(folder / "repodata").iterdir(), folder / "contents.json"):
            sync(path)
        for path in (folder / "repodata", packages, folder):
            sync(path)
        digest = hashlib.sha256((folder / "repodata" / "repomd.xml").read_bytes()).hexdigest()
        os.rename(folder, self.snapshots / digest)
        sync(self.snapshots)
        return digest

    def _write_metadata(self, folder, before):
        # gzip is what every client reads.
        command = ["createrepo_c", "--quiet", "--no-database", "--general-compress-type=gz"]
        if before:
            command += ["--update", "--update-md-path", str(self.snapshots / before)]
        # The child holds the lock too: nobody else touches `next` while it still writes there.
        run([*command, str(folder)], pass_fds=(self._lock,))

    def switch(self, digest):
        """Serves another snapshot, or nothing; there is no moment between."""
        served = self.current()
        if digest:
            new = self.root / "current.new"
            with contextlib.suppress(FileNotFoundError):
                new.unlink()
            new.symlink_to(Path("snapshots") / digest)
            os.replace(new, self.link)
        else:
            self.link.unlink()
        sync(self.root)
        # The time of a snapshot is when it was served last.
        for touched in (served, digest):
            if touched:
                os.utime(self.snapshots / touched)

    def collect(self, keep):
        """Lets go of snapshots beyond those to keep, and of packages that no snapshot holds."""
        served = self.current()
        before = [path for path in self._by_age() if path.name != served]
        for path in before[keep:]:
            os.rename(path, self.root / "gone")
            remove(self.root / "gone")
        for folder, _, names in os.walk(self.pool):
            for name in names:
                path = os.path.join(folder, name)
                if os.stat(path).st_nlink == 1:
                    os.unlink(path)
        remove(self.incoming)

    def _by_age(self):
        return sorted(self.snapshots.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def run(command, **options):
    """A program to its end, and what it said; what it complains of is the reason for a refusal."""
    in_english = {**os.environ, "LC_ALL": "C"}
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=in_english, **options)
    except FileNotFoundError:
        raise Refused(f"{command[0]} is not installed on the mirror; install it there") from None
    if ended.returncode != 0:
        said = (ended.stderr or ended.stdout).decode(errors="replace").strip()
        raise Refused(f"{command[0]} ended with {ended.returncode}: {said}")
    return ended.stdout.decode(errors="replace").strip()


def sync(path):
    """On the disk, not only on its way there."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def remove(folder):
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
