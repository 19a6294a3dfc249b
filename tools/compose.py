"""Judge docker-compose.yml: by the Compose Specification, and by Docker itself where it is.

`python tools/compose.py` (in `make lint`) validates the file against the specification's
schema, which needs neither an engine nor a network. Where `docker compose` is installed,
its own reading of the file counts too; where it is not, that is said.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = ROOT / "docker-compose.yml"
VALIDATOR = Path(sys.executable).with_name("check-jsonschema")
TIMEOUT_S = 60


def by_schema(path: Path) -> int:
    """The exit code of the validator, which has said what is wrong."""
    command = [str(VALIDATOR), "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, timeout=TIMEOUT_S, check=False).returncode


def docker_compose() -> list[str] | None:
    """The command `docker compose`, or None where it is not installed."""
    docker = shutil.which("docker")
    if docker is None:
        return None
    command = [docker, "compose"]
    asked = subprocess.run(
        [*command, "version"], capture_output=True, timeout=TIMEOUT_S, check=False
    )
    return command if asked.returncode == 0 else None


def by_docker(path: Path) -> int:
    """The exit code of `docker compose config`; 0, said aloud, where there is none."""
    command = docker_compose()
    if command is None:
        print("skipped: docker compose is not installed; the schema alone judged", path.name)
        return 0
    arguments = ["--file", str(path), "config", "--quiet"]
    return subprocess.run([*command, *arguments], timeout=TIMEOUT_S, check=False).returncode


def main(arguments: list[str]) -> int:
    """Checks the file that is given, or docker-compose.yml."""
    path = Path(arguments[0]) if arguments else COMPOSE
    return by_schema(path) or by_docker(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
