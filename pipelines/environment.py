"""Make ``.venv`` hold exactly the packages of ``requirements.lock``; do nothing where it does.

``make`` runs this file before everything else, with any Python. It uses the standard library alone
and runs on Python 3.6 and later, so an old Python can say what is missing instead of failing to
parse. uv installs the packages, and pip installs uv from its entry in the lock (30 s, where pip
alone takes three minutes). Where uv cannot be had, pip installs them. Both check each file against
its hash.

``.venv/complete`` is written last. It names the lock, the Python and the folder of the environment,
so a changed lock, a moved checkout and an interrupted installation lead to a new environment.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from typing import Iterator, List, NamedTuple, NoReturn, Optional, Tuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOCK = os.path.join(ROOT, "requirements.lock")
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "complete")
OLDEST, NEWEST = (3, 11), (3, 13)
WANTED = "Python 3.11, 3.12 or 3.13"
NAMES = ("python3", "python3.13", "python3.12", "python3.11", "python")

# Lines of uv and pip to show, and lines that tell why an installation failed.
PROGRESS = re.compile(
    r"\s*(Downloading .*\bMi?B\)|Prepared|Installed|Installing collected|Bytecode compiled)"
)
REASONS = (
    ("disk", r"no space left on device|disk quota exceeded"),
    ("hash", r"do not match the hashes|hash mismatch"),
    (
        "network",
        r"connection (refused|reset|timed out|aborted)|connect(ion)? ?time(d )?out"
        r"|failed to establish a new connection"
        r"|name or service not known|name resolution|nodename nor servname|failed to lookup address"
        r"|network is unreachable|no route to host|read timed out|dns error|tcp connect error"
        r"|error sending request",
    ),
)
SENTENCES = {
    "disk": "the disk is full; the environment needs about 8 GB",
    "hash": "a package does not match its hash in requirements.lock, so it was not installed",
    "network": "the package index cannot be reached; "
    "check the network, then run the same command again",
    "unknown": "the packages could not be installed; the lines above say why",
}


class Interpreter(NamedTuple):
    """A Python that runs. command: its own path, or that behind its virtual environment."""

    name: str
    command: str
    version: Tuple[int, int, int]
    can_install: bool

    def describe(self) -> str:
        return "%d.%d.%d (%s)" % (self.version + (self.name,))


def fail(sentence: str) -> NoReturn:
    print("error: " + sentence, file=sys.stderr)
    sys.exit(1)


def capture(command: List[str]) -> Optional[str]:
    """The output of a command; None where it fails or cannot be run."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def probe(name: str) -> Optional[Interpreter]:
    """Run a Python by its name; None where it fails, as some commands of version managers do."""
    code = (
        "import sys, importlib.util as u; print(getattr(sys, '_base_executable', sys.executable)); "
        "print(*sys.version_info[:3]); "
        "print(int(bool(u.find_spec('venv') and u.find_spec('ensurepip'))))"
    )
    answer = capture([name, "-I", "-c", code])
    if not answer:
        return None
    command, version, can_install = answer.splitlines()
    major, minor, micro = map(int, version.split())
    return Interpreter(name, command, (major, minor, micro), can_install == "1")


def supported(python: Interpreter) -> bool:
    return OLDEST <= python.version[:2] <= NEWEST


def choose_python(named: Optional[str]) -> Interpreter:
    """The Python that ``named`` asks for, else the first suitable Python on the path.

    Ends with one sentence where there is none.
    """
    present = [python for python in map(probe, [named] if named else NAMES) if python]
    usable = [python for python in present if supported(python)]
    for python in usable:
        if python.can_install:
            return python
    install = "install " + WANTED + ", or name one: make repro PYTHON=/path/to/python3"
    if usable:
        minor = "%d.%d" % usable[0].version[:2]
        fail(
            "Python %s has no venv module to make an environment with; install it "
            "(on Debian and Ubuntu: the package python%s-venv)" % (usable[0].describe(), minor)
        )
    if not present:
        fail(("PYTHON=%s does not run; " % named if named else "no Python was found; ") + install)
    newest = max(present, key=lambda python: python.version)
    fail(
        "Python %s is too %s; %s"
        % (newest.describe(), "old" if newest.version[:2] < OLDEST else "new", install)
    )


def check_clone() -> None:
    """Check that this folder is the top of a git clone, which DVC needs."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--show-toplevel"],
            cwd=ROOT,
            env=dict(os.environ, LC_ALL="C"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
    except OSError:
        fail("git was not found, and DVC needs it; install git")
    if "dubious ownership" in answer.stderr:
        fail(
            "git refuses this folder because another user owns it; "
            "`git status` tells how to allow it"
        )
    if answer.returncode or not os.path.samefile(answer.stdout.rstrip("\n"), ROOT):
        fail(
            "this folder is not a git clone, and DVC needs one; "
            "use `git clone` instead of an unpacked archive"
        )


def signature() -> Optional[str]:
    """The content of the stamp of a current environment; None where its Python does not run."""
    code = "import sys; print(*sys.version_info[:3])"
    version = capture([os.path.join(VENV, "bin", "python"), "-I", "-c", code])
    if version is None:
        return None
    with open(LOCK, "rb") as handle:
        lock = hashlib.sha256(handle.read()).hexdigest()
    return "lock %s\npython %s\nfolder %s\n" % (lock, version.replace(" ", "."), VENV)


def complete(named: Optional[str]) -> bool:
    """Whether ``.venv`` is complete, current, and made with the Python that ``named`` asks for."""
    try:
        with open(STAMP) as handle:
            stamp = handle.read()
    except OSError:
        return False
    if stamp != signature():
        return False
    asked = probe(named) if named else None
    return named is None or (asked is not None and "\npython %d.%d.%d\n" % asked.version in stamp)


def install(command: List[str]) -> Tuple[str, str]:
    """Run an installer and show its progress; returns (reason of failure or "", its output)."""
    try:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        return "unknown", "%s: %s\n" % (command[0], error.strerror)
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if PROGRESS.match(line):
            print("  " + line.strip()[:100], flush=True)
    output = "".join(lines)
    if process.wait() == 0:
        return "", output
    return next(
        (name for name, pattern in REASONS if re.search(pattern, output, re.I)), "unknown"
    ), output


def give_up(reason: str, output: str) -> NoReturn:
    if reason == "unknown":
        print("".join(output.splitlines(True)[-20:]), file=sys.stderr)
    fail(SENTENCES[reason])


def lock_entry(package: str) -> str:
    """The lines of ``requirements.lock`` that pin ``package``, with its hashes."""
    with open(LOCK) as handle:
        entry = re.search(r"^%s==(?:.*\\\n)*.*\n" % re.escape(package), handle.read(), re.M)
    if not entry:
        fail(
            "requirements.lock has no entry for %s; "
            "restore the file, or write it anew with `make lock`" % package
        )
    return entry.group()


def build(python: Interpreter) -> None:
    """Make ``.venv`` anew. A failure or an interrupt leaves it without its stamp."""
    print("Making .venv with Python %s; this happens once" % python.describe(), flush=True)
    with contextlib.suppress(OSError):
        os.remove(STAMP)
    shutil.rmtree(VENV, ignore_errors=True)
    reason, output = install([python.command, "-I", "-m", "venv", VENV])
    if reason:
        give_up(reason, output)
    inside = os.path.join(VENV, "bin", "python")
    pip = [inside, "-I", "-m", "pip", "install"]
    pip += ["--require-hashes", "--no-deps", "--progress-bar", "off"]
    only_uv = os.path.join(VENV, "uv.lock")
    with open(only_uv, "w") as handle:
        handle.write(lock_entry("uv"))
    reason, output = install(pip + ["--only-binary", ":all:", "-r", only_uv])
    if reason in ("disk", "hash", "network"):
        give_up(reason, output)
    if not reason:
        # Compiled now: otherwise a first import is three times slower, and some machines forbid
        # to compile later.
        sync = ["pip", "sync", "--python", inside, "--require-hashes", "--compile-bytecode", LOCK]
        reason, output = install([os.path.join(VENV, "bin", "uv")] + sync)
        if reason in ("disk", "hash"):
            give_up(reason, output)
    if reason:  # there is no uv for this machine, or it does not know the index of pip's settings
        print("uv cannot be used here; installing with pip, which takes some minutes", flush=True)
        reason, output = install(pip + ["-r", LOCK])
        if reason:
            give_up(reason, output)

    part = STAMP + ".part"
    with open(part, "w") as handle:
        handle.write(signature() or "")
    os.replace(part, STAMP)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold off a second ``make`` in the same checkout until this one has installed."""
    folder = os.path.join(ROOT, ".prosmin")
    os.makedirs(folder, mode=0o700, exist_ok=True)  # as in pipelines/graph/private.py
    with open(os.path.join(folder, "environment.lock"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def main() -> None:
    check_clone()
    named = os.environ.get("PYTHON") or None
    if complete(named):
        return
    python = choose_python(named)
    with alone():
        if not complete(named):
            build(python)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted; the next call starts the installation again", file=sys.stderr)
        sys.exit(130)
