"""Server reflection out of the compiled descriptor set, with comments and json names.

The standard servicer answers from the generated code, which holds neither; here
`grpcurl describe` shows the comments of the protos.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import resources

from google.protobuf import descriptor_pb2, duration_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

_Proto = descriptor_pb2.FileDescriptorProto

# What no file of ours describes and clients ask for all the same: the two services that
# every server has, and the details that every refusal carries. Without comments.
_GENERATED = (
    health_pb2.DESCRIPTOR,
    reflection_pb2.DESCRIPTOR,
    error_details_pb2.DESCRIPTOR,
    duration_pb2.DESCRIPTOR,
)


class Reflection(aio.ReflectionServicer):
    """The v1alpha servicer, answering files from gen/paymesh/descriptors.binpb."""

    def __init__(self, service_names: Iterable[str]) -> None:
        """`service_names` are the full names to list."""
        super().__init__(service_names)
        raw = resources.files("paymesh").joinpath("descriptors.binpb").read_bytes()
        files = descriptor_pb2.FileDescriptorSet.FromString(raw)
        generated = [_Proto.FromString(file.serialized_pb) for file in _GENERATED]
        self._files = {file.name: file for file in (*generated, *files.file)}
        self._file_of = {symbol: file for file in self._files.values() for symbol in _symbols(file)}

    def _file_by_filename(
        self, request: reflection_pb2.ServerReflectionRequest, filename: str
    ) -> reflection_pb2.ServerReflectionResponse:
        return self._answer(request, self._files.get(filename))

    def _file_containing_symbol(
        self, request: reflection_pb2.ServerReflectionRequest, fully_qualified_name: str
    ) -> reflection_pb2.ServerReflectionResponse:
        return self._answer(request, self._file_of.get(fully_qualified_name))

    def _answer(
        self, request: reflection_pb2.ServerReflectionRequest, file: _Proto | None
    ) -> reflection_pb2.ServerReflectionResponse:
        if file is None:
            return reflection_pb2.ServerReflectionResponse(
                original_request=request,
                error_response=reflection_pb2.ErrorResponse(
                    error_code=5,  # NOT_FOUND
                    error_message="no such file or symbol",
                ),
            )
        needed: dict[str, _Proto] = {}
        self._collect(file, needed)
        return reflection_pb2.ServerReflectionResponse(
            original_request=request,
            file_descriptor_response=reflection_pb2.FileDescriptorResponse(
                file_descriptor_proto=[f.SerializeToString() for f in needed.values()]
            ),
        )

    def _collect(self, file: _Proto, needed: dict[str, _Proto]) -> None:
        if file.name not in needed:
            needed[file.name] = file
            for dependency in file.dependency:
                self._collect(self._files[dependency], needed)


def _symbols(file: _Proto) -> Iterator[str]:
    prefix = f"{file.package}." if file.package else ""
    for service in file.service:
        yield prefix + service.name
        for method in service.method:
            yield f"{prefix}{service.name}.{method.name}"
    for extension in file.extension:
        yield prefix + extension.name
    for enum in file.enum_type:
        yield from _of_enum(enum, prefix)
    for message in file.message_type:
        yield from _of_message(message, prefix)


def _of_message(message: descriptor_pb2.DescriptorProto, prefix: str) -> Iterator[str]:
    name = prefix + message.name
    yield name
    for field in (*message.field, *message.extension):
        yield f"{name}.{field.name}"
    for oneof in message.oneof_decl:
        yield f"{name}.{oneof.name}"
    for enum in message.enum_type:
        yield from _of_enum(enum, f"{name}.")
    for nested in message.nested_type:
        yield from _of_message(nested, f"{name}.")


def _of_enum(enum: descriptor_pb2.EnumDescriptorProto, prefix: str) -> Iterator[str]:
    yield prefix + enum.name
    for value in enum.value:
        yield prefix + value.name  # values are siblings of their enum
