"""What the mirror's dnf knows of its upstream repositories, and the way of packages from there into the pool."""

import hashlib
import os
import re
import shutil
import time

import dnf
import dnf.callback
import dnf.exceptions
import dnf.lock
import dnf.subject
import hawkey

from layout import run, sync
from link import Refused

# What names of packages are made of; whatever else metadata may say, no path comes out of it.
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~^-]*")


class Upstream:
    def __init__(self, mirror, names, say):
        self._mirror, self._say = mirror, say
        self._base = dnf.Base()
        try:
            self._configure()
            self._choose(names)
        except dnf.exceptions.Error as error:
            raise Refused(f"the configuration of the mirror's dnf cannot be read: {one_line(error)}") from None
        self._load()

    def _configure(self):
        conf, root = self._base.conf, self._mirror.root
        if (root / "dnf.conf").exists():
            conf.config_file_path = str(root / "dnf.conf")
            conf.reposdir = [str(root / "repos.d")]
            conf.varsdir = [str(root / "vars")]
        conf.read()
        conf.substitutions.update_from_etc(conf.installroot, varsdir=conf.varsdir)
        if not conf.substitutions.get("releasever"):
            # A machine that is no rpm distribution has none.
            conf.substitutions.pop("releasever", None)
        # Its own, so that it is neither in the way of dnf on this machine nor in need of root.
        conf.cachedir = str(root / "cache")
        conf.persistdir = str(root / "cache" / "state")
        conf.deltarpm = False
        conf.keepcache = True

    def _choose(self, names):
        repos = self._base.repos
        self._base.read_all_repos()
        for name in names:
            if name not in repos:
                known = ", ".join(sorted(repo.id for repo in repos.all())) or "none"
                raise Refused(
                    f"there is no upstream `{name}` in the configuration of the mirror's dnf; it has: {known}"
                )
        for repo in list(repos.all()):
            if names and repo.id in names:
                repo.enable()
            elif names:
                repo.disable()
        self._repos = list(repos.iter_enabled())
        if not self._repos:
            raise Refused("the mirror's dnf has no enabled repository to download from; enable one")

    def _load(self):
        for repo in self._repos:
            # A part that cannot be read would look like packages that went away.
            repo.skip_if_unavailable = False
            # dnf counts an age in whole seconds, and an age of 0 is never too old for it.
            repo._repo.expire()
            repo.pkgdir = str(self._mirror.incoming / repo.id)
            try:
                # A dry run and an update may be at it at once.
                with dnf.lock.build_metadata_lock(self._base.conf.cachedir, False):
                    repo.load()
            except dnf.exceptions.RepoError as error:
                raise Refused(f"upstream {described(repo)} cannot be read: {one_line(error)}") from None
        try:
            self._base.fill_sack(load_system_repo=False)
        except dnf.exceptions.RepoError as error:
            broken = [described(repo) for repo in self._repos if f"'{repo.id}'" in str(error)]
            broken = ", ".join(broken or map(described, self._repos))
            raise Refused(f"the metadata of upstream {broken} is malformed: {one_line(error)}") from None

    def resolve(self, entries):
        """For each entry the packages it names, and all of them with everything they need."""
        newest = self._base.sack.query().available().filter(latest_per_arch_by_priority=True)
        by_name = {}
        for package in newest.filter(name=entries):
            by_name.setdefault(package.name, []).append(package)
        wanted = {entry: self._preferred(by_name.get(entry) or self._matching(entry)) for entry in entries}
        unknown = [entry for entry, packages in wanted.items() if not packages]
        if unknown:
            where = ", ".join(map(described, self._repos))
            raise Refused("\n".join(f"no package is named `{entry}` in {where}" for entry in unknown))
        roots = {str(package): package for packages in wanted.values() for package in packages}
        return wanted, self._closure([roots[name] for name in sorted(roots)])

    def _matching(self, entry):
        query = dnf.subject.Subject(entry).get_best_query(self._base.sack, with_filenames=False)
        return list(query.available().filter(latest_per_arch_by_priority=True))

    def _preferred(self, packages):
        """As dnf installs: of one name what is made for this machine, where there is such a one."""
        substitutions = self._base.conf.substitutions
        native = {substitutions["arch"], substitutions["basearch"], "noarch"}
        kept = {}
        for package in sorted(packages, key=lambda one: (one.repo.priority, one.repo.cost, one.reponame)):
            kept.setdefault(str(package), package)
        at_home = {package.name for package in kept.values() if package.arch in native}
        return [package for package in kept.values() if package.arch in native or package.name not in at_home]

    def _closure(self, packages):
        """All that these need, by name. A mirror may hold what no one machine can have together, so what
        does not go together is looked at in halves."""
        goal = hawkey.Goal(self._base.sack)
        for package in packages:
            goal.install(package)
        if goal.run(ignore_weak_deps=not self._base.conf.install_weak_deps):
            return {str(package): package for package in goal.list_installs()}
        if len(packages) == 1:
            why = "; ".join(line for problem in goal.problem_rules() for line in problem)
            raise Refused(
                f"{packages[0]} from {described(packages[0].repo)} cannot be mirrored with all it needs: {why}"
            )
        half = len(packages) // 2
        return {**self._closure(packages[:half]), **self._closure(packages[half:])}

    def _place(self, package):
        """Where it lies in the pool. What was let in unsigned is not what a signature was asked for."""
        kind, digest = package.chksum
        trust = "signed" if package.repo.gpgcheck else "unsigned"
        return f"{self._mirror.pool}/{trust}/{package.reponame}/{hawkey.chksum_name(kind)}-{digest.hex()}.rpm"

    def bring(self, packages):
        """Where each lies in the pool, which has all of them afterwards."""
        places = {name: self._place(package) for name, package in packages.items()}
        missing = [package for name, package in packages.items() if not is_whole(places[name], package)]
        if missing:
            self._download(missing)
        return places

    def _download(self, missing):
        try:
            self._base.download_packages(missing, Progress(self._say))
        except dnf.exceptions.DownloadError as error:
            raise Refused(self._undelivered(missing, error)) from None
        by_repo = {}
        for package in missing:
            by_repo.setdefault(package.repo, []).append((package, self._arrived(package)))
        for repo, arrived in by_repo.items():
            if repo.gpgcheck:
                self._check_signatures(repo, arrived)
            for package, path in arrived:
                self._admit(package, path)

    def _undelivered(self, packages, error):
        where = {package.localPkg(): package.remote_location() for package in packages if not package._is_local_pkg()}
        where |= {str(package): package.remote_location() for package in packages if not package._is_local_pkg()}
        lines = []
        for what, reasons in error.errmap.items():
            lines.append(f"{what} ({where.get(str(what), 'upstream')}): {'; '.join(map(str, reasons))}")
        return "a package could not be downloaded: " + "\n".join(lines or [str(error)])

    def _arrived(self, package):
        path = package.localPkg()
        if package._is_local_pkg():
            incoming = self._mirror.incoming / package.reponame
            incoming.mkdir(parents=True, exist_ok=True)
            path = shutil.copyfile(path, incoming / os.path.basename(path))
        kind, expected = package.chksum
        actual = hashlib.new(hawkey.chksum_name(kind))
        with open(path, "rb") as file:
            while batch := file.read(1 << 20):
                actual.update(batch)
            size = file.tell()
        if (size, actual.digest()) != (package.downloadsize, expected):
            os.unlink(path)
            raise Refused(
                f"{package} from {described(package.repo)} is not what its metadata says: "
                f"{size} bytes, {hawkey.chksum_name(kind)} {actual.hexdigest()}, "
                f"where {package.downloadsize} bytes, {expected.hex()} should be"
            )
        return str(path)

    def _check_signatures(self, repo, arrived):
        if not repo.gpgkey:
            raise Refused(f"upstream {described(repo)} wants signatures (gpgcheck) and names no gpgkey; add it")
        # Made anew each time, so that a key that the operator took away is trusted no longer.
        keyring = self._mirror.incoming / f"keys-{repo.id}"
        shutil.rmtree(keyring, ignore_errors=True)
        keyring.mkdir(parents=True)
        for number, url in enumerate(repo.gpgkey):
            key = keyring / f"key-{number}"
            try:
                with self._base.urlopen(url, repo=repo) as remote:
                    key.write_bytes(remote.read())
            except (OSError, ValueError) as error:
                raise Refused(f"the key {url} of upstream {described(repo)} cannot be read: {error}") from None
            run(["rpmkeys", "--dbpath", str(keyring), "--import", str(key)])
        check = ["rpmkeys", "--dbpath", str(keyring), "--define", "_pkgverify_level all", "--checksig"]
        for package, path in arrived:
            try:
                said = run([*check, path])
            except Refused as refused:
                said = str(refused)
            # An rpm that is too old for that level is content with no signature at all.
            if not said.endswith(": digests signatures OK"):
                os.unlink(path)
                raise Refused(
                    f"{package} from {described(repo)} has no valid signature of the keys of that upstream: {said}"
                )

    def _admit(self, package, path):
        try:
            said = str(self._base.sack.add_cmdline_package(path))
        except (OSError, hawkey.Exception) as error:
            raise Refused(f"{package} from {described(package.repo)} is no package: {error}") from None
        if said != str(package):
            raise Refused(f"{package} from {described(package.repo)} calls itself {said}")
        place = self._place(package)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.chmod(path, 0o644)
        sync(path)
        os.replace(path, place)


class Progress(dnf.callback.DownloadProgress):
    """Each package that came, and once in a while how far a large one is."""

    BETWEEN_SECONDS = 5

    def __init__(self, say):
        self._say, self._came, self._files = say, 0, 0
        self._said = time.monotonic()

    def start(self, total_files, total_size, total_drpms=0):
        self._files = total_files
        self._say(f"packages to download: {total_files}, {bytes_of(total_size)}")

    def progress(self, payload, done):
        if time.monotonic() - self._said > self.BETWEEN_SECONDS:
            self._said = time.monotonic()
            self._say(f"{payload}: {bytes_of(done)} of {bytes_of(payload.download_size)}")

    def end(self, payload, status, msg):
        if status is None or status == dnf.callback.STATUS_ALREADY_EXISTS:
            self._came += 1
            self._said = time.monotonic()
            self._say(f"{self._came}/{self._files} {payload}, {bytes_of(payload.download_size)}")


def is_whole(path, package):
    try:
        return os.stat(path).st_size == package.downloadsize
    except FileNotFoundError:
        return False


def described(repo):
    urls = [url for url in (repo.metalink, repo.mirrorlist, *repo.baseurl) if url]
    return f"{repo.id} ({', '.join(urls) or 'no URL'})"


def one_line(error):
    return " ".join(str(error).split())


def file_name(package):
    name = f"{package.name}-{package.version}-{package.release}.{package.arch}.rpm"
    if not FILE_NAME.fullmatch(name):
        raise Refused(f"upstream {described(package.repo)} has a package whose name is no name: {name!r}")
    return name


def full_name(package):
    """name-epoch:version-release.arch, the epoch always said."""
    return f"{package.name}-{package.epoch}:{package.version}-{package.release}.{package.arch}"


def bytes_of(size):
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
