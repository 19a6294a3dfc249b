"""Prints the part of requirements.lock that some packages need, with its hashes.

python tools/lock_subset.py LOCK NAME…            those packages and what they need
python tools/lock_subset.py LOCK --runtime TOML   what a pyproject.toml needs to run

The lock holds the tools of development too, which have no place in an image. It tells by
its `# via` comments who needs what, so the part has the very versions of the whole.
Standard library only: it runs before anything is installed.
"""

import re
import sys
import tomllib
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def canonical(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(lock: str) -> dict[str, str]:
    """Name → its lines in the lock: pin, hashes and comments."""
    found: dict[str, str] = {}
    name = None
    for line in lock.splitlines():
        if line and not line.startswith((" ", "#")):
            name = canonical(line.partition("==")[0])
            found[name] = ""
        if name is not None:
            found[name] += line + "\n"
    return found


def needed_by(entry: str) -> set[str]:
    """The packages that an entry's `# via` comments name."""
    comments = [
        line.strip().removeprefix("#").strip().removeprefix("via").strip()
        for line in entry.splitlines()
        if line.strip().startswith("#")
    ]
    return {canonical(match[0]) for text in comments if (match := _NAME.match(text))}


def subset(lock: str, roots: set[str]) -> str:
    """The entries of the roots and of all that they need, however indirectly.

    Raises KeyError for a root that is not in the lock.
    """
    known = entries(lock)
    chosen = {canonical(root) for root in roots}
    if missing := chosen - known.keys():
        raise KeyError(f"not in the lock: {', '.join(sorted(missing))}")
    size = 0
    while size < len(chosen):
        size = len(chosen)
        chosen |= {name for name, entry in known.items() if needed_by(entry) & chosen}
    return "".join(known[name] for name in sorted(chosen))


def runtime_roots(pyproject: str) -> set[str]:
    """The names of a project's own dependencies, without its extras."""
    dependencies = tomllib.loads(pyproject)["project"]["dependencies"]
    return {match[0] for text in dependencies if (match := _NAME.match(text))}


def main(arguments: list[str]) -> None:
    """Prints the subset; see the module."""
    lock, *names = arguments
    roots = set(names)
    if names[0] == "--runtime":
        roots = runtime_roots(Path(names[1]).read_text())
    sys.stdout.write(subset(Path(lock).read_text(), roots))


if __name__ == "__main__":
    main(sys.argv[1:])
