"""Generate gen/ from protos/: messages, stubs, their types and the descriptor set.

`python tools/gen.py` brings gen/ up to date, `--out DIR` writes the same tree elsewhere
(`make gen-check` compares the two). The same input always gives the same bytes.
"""

import argparse
import shutil
import sys
import sysconfig
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2
from google.rpc import status_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GEN = ROOT / "gen"

VALIDATE_PROTO = "buf/validate/validate.proto"
PACKAGE_DOC = '"""Generated from protos/ by tools/gen.py: never edited by hand."""\n'


class GenerationError(Exception):
    """protoc refused its input; it has already said why on stderr."""


def write_validate_set(path: Path) -> None:
    """Write the descriptors of buf/validate/validate.proto for --descriptor_set_in.

    No wheel ships that .proto. protovalidate carries its descriptor in a private module,
    so its version is pinned, and the runtime and the generated code can't disagree.
    """
    known = (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2)
    descriptors = descriptor_pb2.FileDescriptorSet()
    for module in known:
        module.DESCRIPTOR.CopyToProto(descriptors.file.add())
    descriptors.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    path.write_bytes(descriptors.SerializeToString(deterministic=True))


def run_protoc(protos: Path, scratch: Path, *arguments: str) -> None:
    """Run protoc with everything our protos import on its path."""
    validate_set = scratch / "validate.binpb"
    if not validate_set.exists():
        write_validate_set(validate_set)
    # googleapis-common-protos ships its .proto files beside the modules: <base>/google/rpc.
    google_rpc_base = Path(status_pb2.__file__).parents[2]
    with as_file(files("grpc_tools") / "_proto") as well_known:
        status = protoc.main(
            [
                "protoc",
                f"--descriptor_set_in={validate_set}",
                f"-I{protos}",
                f"-I{well_known}",
                f"-I{google_rpc_base}",
                *arguments,
            ]
        )
    if status != 0:
        raise GenerationError(f"protoc ended with {status}")


def proto_names(protos: Path) -> list[str]:
    """List the .proto files below a folder, as protoc names them, in a stable order."""
    return sorted(path.relative_to(protos).as_posix() for path in protos.rglob("*.proto"))


def write_image(protos: Path, out: Path, scratch: Path) -> None:
    """Write the descriptor set of all protos with comments: buf's input, reflection's answer."""
    run_protoc(
        protos,
        scratch,
        f"--descriptor_set_out={out}",
        "--include_imports",
        "--include_source_info",
        *proto_names(protos),
    )


def plugin(name: str) -> str:
    """Name a protoc plugin of this very environment, whatever PATH says."""
    suffix = ".exe" if sys.platform == "win32" else ""
    return f"--plugin={name}={Path(sysconfig.get_path('scripts')) / (name + suffix)}"


def names_with_services(image: Path) -> list[str]:
    """List the files of an image that define a service; the others need no gRPC module."""
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    return sorted(file.name for file in descriptors.file if file.service)


def generate(protos: Path, out: Path, scratch: Path) -> None:
    """Write the whole generated tree into an empty folder."""
    package = out / "paymesh"
    package.mkdir()
    image = package / "descriptors.binpb"
    write_image(protos, image, scratch)
    # buf.validate too: our modules import it, and no wheel has it for google.protobuf.
    run_protoc(
        protos,
        scratch,
        plugin("protoc-gen-mypy"),
        f"--python_out={out}",
        f"--mypy_out=quiet:{out}",
        *proto_names(protos),
        VALIDATE_PROTO,
    )
    run_protoc(
        protos,
        scratch,
        plugin("protoc-gen-mypy_grpc"),
        f"--grpc_python_out={out}",
        # Not only_async: the services use async stubs, the command line sync ones.
        f"--mypy_grpc_out=quiet:{out}",
        *names_with_services(image),
    )
    (package / "__init__.py").write_text(PACKAGE_DOC, encoding="utf-8")
    (package / "py.typed").touch()
    (out / "buf" / "py.typed").touch()


def replace_tree(source: Path, target: Path) -> None:
    """Make target equal to source, leaving files alone that are right already."""
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    present = {
        path.relative_to(target)
        for path in target.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for name in sorted(present - wanted):
        (target / name).unlink()
    for name in sorted(wanted):
        data = (source / name).read_bytes()
        destination = target / name
        if not destination.exists() or destination.read_bytes() != data:
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, destination)
    for folder in sorted((path for path in target.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--protos", type=Path, default=PROTOS, help="the folder of .proto files")
    parser.add_argument("--out", type=Path, default=GEN, help="the folder to make")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        fresh = scratch / "gen"
        fresh.mkdir()
        try:
            generate(arguments.protos, fresh, scratch)
        except GenerationError as error:
            print(error, file=sys.stderr)
            return 1
        replace_tree(fresh, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
