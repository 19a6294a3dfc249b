"""Refuse a change of protos/ that would break those who built against the main branch.

`python tools/breaking.py IMAGE` compares IMAGE with the descriptor set that main carries in
gen/ (`make gen-check` keeps that one true to its protos). Where both are the same, as on main
itself, it compares with what they were before main's last change of them: otherwise
the check could never fail there.
"""

import argparse
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = "gen/paymesh/descriptors.binpb"
MAIN_REFS = ("origin/main", "main")


def git(*arguments: str) -> bytes | None:
    """Run git in the project; None where it fails or there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments],  # noqa: S607 - wherever git is installed
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def committed_image(commit: str) -> bytes | None:
    """Read the descriptor set as a commit has it."""
    return git("show", f"{commit}:{COMMITTED}")


def find_base(current: bytes) -> tuple[str, bytes] | None:
    """Find what to compare with: the commit's name and its descriptor set."""
    for ref in MAIN_REFS:
        image = committed_image(ref)
        if image is None:
            continue
        if image != current:
            return ref, image
        changed = git("log", "-1", "--format=%H", ref, "--", COMMITTED)
        before = f"{changed.decode().strip()}^" if changed else ""
        older = committed_image(before) if before else None
        return None if older is None else (before, older)
    return None


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Compare the contracts with main's.")
    parser.add_argument("image", type=Path, help="the descriptor set of the present protos")
    image: Path = parser.parse_args().image
    base = find_base(image.read_bytes())
    if base is None:
        print("breaking: NOTHING TO COMPARE: no main branch here with an older descriptor set")
        return 0
    commit, content = base
    print(f"breaking: comparing with {commit}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        against = Path(scratch) / "against.binpb"
        against.write_bytes(content)
        buf = Path(sysconfig.get_path("scripts")) / "buf"
        done = subprocess.run(
            [str(buf), "breaking", str(image.resolve()), "--against", str(against)],
            cwd=ROOT,  # where buf.yaml is
            check=False,
        )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
