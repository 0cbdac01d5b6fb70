"""Make ``.venv`` hold exactly what ``requirements.lock`` says; do nothing when it already does.

``make`` runs this file before everything else, with whatever Python it finds. It uses the standard library
only and runs on Python 3.6 and later, so that an old Python can say what is missing instead of failing to
parse. Packages are installed by uv, itself installed by pip from its entry in the lock (30 s where pip takes
three minutes), or by pip where uv cannot be had; either way every file is checked against its hash.

``.venv/complete`` is written last. It names the lock, the Python and the folder that the environment was made
for, so a changed lock, a moved checkout and an interrupted installation are all made anew.
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

# Which lines of uv and pip are worth showing, and which of them tell why an installation failed.
PROGRESS = re.compile(
    r"\s*(Downloading .*\bMi?B\)|Prepared|Installed|Installing collected|Bytecode compiled)"
)
REASONS = (
    ("disk", r"no space left on device|disk quota exceeded"),
    ("hash", r"do not match the hashes|hash mismatch"),
    (
        "network",
        r"connection (refused|reset|timed out|aborted)|connect(ion)? ?time(d )?out|failed to establish a new connection"
        r"|name or service not known|name resolution|nodename nor servname|failed to lookup address"
        r"|network is unreachable|no route to host|read timed out|dns error|tcp connect error|error sending request",
    ),
)
SENTENCES = {
    "disk": "the disk is full; the environment needs about 8 GB",
    "hash": "a package does not match its hash in requirements.lock, so it was not installed",
    "network": "the package index cannot be reached; check the network, then run the same command again",
    "unknown": "the packages could not be installed; the lines above say why",
}


class Found(NamedTuple):
    """A Python that runs. command: the one behind any virtual environment it belongs to."""

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
    """What ``command`` prints, or None when it cannot be run or fails."""
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


def probe(name: str) -> Optional[Found]:
    """Run the Python called ``name``: version managers leave commands on the path that only fail."""
    code = (
        "import sys, importlib.util as u; print(getattr(sys, '_base_executable', sys.executable)); "
        "print(*sys.version_info[:3]); print(int(bool(u.find_spec('venv') and u.find_spec('ensurepip'))))"
    )
    answer = capture([name, "-I", "-c", code])
    if not answer:
        return None
    command, version, can_install = answer.splitlines()
    major, minor, micro = map(int, version.split())
    return Found(name, command, (major, minor, micro), can_install == "1")


def supported(python: Found) -> bool:
    return OLDEST <= python.version[:2] <= NEWEST


def choose_python(named: Optional[str]) -> Found:
    """The Python asked for, else the first suitable one on the path; one clear sentence when there is none."""
    found = [python for python in map(probe, [named] if named else NAMES) if python]
    usable = [python for python in found if supported(python)]
    for python in usable:
        if python.can_install:
            return python
    install = "install " + WANTED + ", or name one: make repro PYTHON=/path/to/python3"
    if usable:
        minor = "%d.%d" % usable[0].version[:2]
        fail(
            "Python %s has no venv module to make an environment with; install it (on Debian and Ubuntu: "
            "the package python%s-venv)" % (usable[0].describe(), minor)
        )
    if not found:
        fail(("PYTHON=%s does not run; " % named if named else "no Python was found; ") + install)
    newest = max(found, key=lambda python: python.version)
    fail(
        "Python %s is too %s; %s"
        % (newest.describe(), "old" if newest.version[:2] < OLDEST else "new", install)
    )


def check_clone() -> None:
    """DVC keeps its pipeline in step with git commits, so the folder must be the top of a git clone."""
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
            "git refuses this folder because another user owns it; `git status` tells how to allow it"
        )
    if answer.returncode or not os.path.samefile(answer.stdout.rstrip("\n"), ROOT):
        fail(
            "this folder is not a git clone, and DVC needs one; use `git clone` instead of an unpacked archive"
        )


def signature() -> Optional[str]:
    """What a finished environment must have been made for; None where ``.venv`` has no working Python."""
    version = capture(
        [
            os.path.join(VENV, "bin", "python"),
            "-I",
            "-c",
            "import sys; print(*sys.version_info[:3])",
        ]
    )
    if version is None:
        return None
    with open(LOCK, "rb") as handle:
        lock = hashlib.sha256(handle.read()).hexdigest()
    return "lock %s\npython %s\nfolder %s\n" % (lock, version.replace(" ", "."), VENV)


def complete(named: Optional[str]) -> bool:
    """Whether ``.venv`` is whole and current, and made with the Python asked for, if one was."""
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
    """Run an installer, showing its progress. Returns (reason of failure or "", all that it wrote)."""
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
        found = re.search(r"^%s==(?:.*\\\n)*.*\n" % re.escape(package), handle.read(), re.M)
    if not found:
        fail(
            "requirements.lock has no entry for %s; restore the file, or write it anew with `make lock`"
            % package
        )
    return found.group()


def build(python: Found) -> None:
    """Make ``.venv`` anew. Whatever fails or is interrupted leaves it without its stamp."""
    print("Making .venv with Python %s; this happens once" % python.describe(), flush=True)
    with contextlib.suppress(OSError):
        os.remove(STAMP)
    shutil.rmtree(VENV, ignore_errors=True)
    reason, output = install([python.command, "-I", "-m", "venv", VENV])
    if reason:
        give_up(reason, output)
    inside = os.path.join(VENV, "bin", "python")
    pip = [
        inside,
        "-I",
        "-m",
        "pip",
        "install",
        "--require-hashes",
        "--no-deps",
        "--progress-bar",
        "off",
    ]

    only_uv = os.path.join(VENV, "uv.lock")
    with open(only_uv, "w") as handle:
        handle.write(lock_entry("uv"))
    reason, output = install(pip + ["--only-binary", ":all:", "-r", only_uv])
    if reason in ("disk", "hash", "network"):
        give_up(reason, output)
    if not reason:
        # Compiled here and now: a first import is three times slower without, and some machines forbid it later.
        sync = ["pip", "sync", "--python", inside, "--require-hashes", "--compile-bytecode", LOCK]
        reason, output = install([os.path.join(VENV, "bin", "uv")] + sync)
        if reason in ("disk", "hash"):
            give_up(reason, output)
    if (
        reason
    ):  # uv does not exist for this machine, or does not know the index that pip is set up for
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
    os.makedirs(
        folder, mode=0o700, exist_ok=True
    )  # of this user alone, as pipelines/graph/workspace.py has it
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
