"""Server reflection out of the compiled descriptor set, with comments and json names.

The standard servicer answers from the generated code, which holds neither; here
`grpcurl describe` shows the comments of the protos.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import resources

from google.protobuf import descriptor_pb2, duration_pb2
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

_Proto = descriptor_pb2.FileDescriptorProto

# No message of ours has these as a field, but every refusal carries some of them, and a
# client can show only what reflection describes to it.
_ERROR_DETAILS = (error_details_pb2.DESCRIPTOR, duration_pb2.DESCRIPTOR)


class Reflection(aio.ReflectionServicer):
    """The v1alpha servicer, answering files from gen/paymesh/descriptors.binpb."""

    def __init__(self, service_names: Iterable[str]) -> None:
        """`service_names` are the full names to list."""
        super().__init__(service_names)
        raw = resources.files("paymesh").joinpath("descriptors.binpb").read_bytes()
        files = descriptor_pb2.FileDescriptorSet.FromString(raw)
        details = [_Proto.FromString(file.serialized_pb) for file in _ERROR_DETAILS]
        self._files = {file.name: file for file in (*details, *files.file)}
        self._file_of = {symbol: file for file in self._files.values() for symbol in _symbols(file)}

    def _file_by_filename(
        self, request: reflection_pb2.ServerReflectionRequest, filename: str
    ) -> reflection_pb2.ServerReflectionResponse:
        return self._answer(request, self._files.get(filename))

    def _file_containing_symbol(
        self, request: reflection_pb2.ServerReflectionRequest, fully_qualified_name: str
    ) -> reflection_pb2.ServerReflectionResponse:
        symbol = fully_qualified_name
        while symbol not in self._file_of and "." in symbol:
            symbol = symbol.rpartition(".")[0]  # a method, field or value: its parent's file
        return self._answer(request, self._file_of.get(symbol))

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
    for enum in file.enum_type:
        yield prefix + enum.name
    for extension in file.extension:
        yield prefix + extension.name
    for message in file.message_type:
        yield from _nested(message, prefix)


def _nested(message: descriptor_pb2.DescriptorProto, prefix: str) -> Iterator[str]:
    yield prefix + message.name
    for enum in message.enum_type:
        yield f"{prefix}{message.name}.{enum.name}"
    for nested in message.nested_type:
        yield from _nested(nested, f"{prefix}{message.name}.")
