"""The .proto of the examples, made from the messages that tritonclient carries."""

from __future__ import annotations

import inspect
from typing import Any

from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2

METHODS = ("ServerLive", "ServerReady", "ModelReady", "ModelInfer")
"""What callers of other languages need."""

HEADER = """\
// The part of Triton's gRPC protocol (KServe v2) that the examples use. Names and numbers are
// those of grpc_service.proto in github.com/triton-inference-server/common, which is
// Copyright (c) NVIDIA CORPORATION and licensed under BSD-3-Clause; take that file for more.
syntax = "proto3";

package inference;
"""

_SCALARS = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()
}


def proto_text() -> str:
    """The whole file."""
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    methods = [service.methods_by_name[name] for name in METHODS]
    needed: dict[str, Any] = {}
    for method in methods:
        _collect(method.input_type, needed)
        _collect(method.output_type, needed)
    lines = [HEADER, "service GRPCInferenceService {"]
    lines += [
        f"  rpc {method.name}({method.input_type.name}) returns ({method.output_type.name}) {{}}"
        for method in methods
    ]
    lines.append("}")
    for message in needed.values():
        lines += ["", *_message(message, "")]
    return inspect.cleandoc("\n".join(lines)) + "\n"


def _collect(message: Any, needed: dict[str, Any]) -> None:
    """The outermost messages that a message is made of, in the order of their first use."""
    outer = message
    while outer.containing_type is not None:
        outer = outer.containing_type
    if outer.full_name in needed:
        return
    needed[outer.full_name] = outer
    for each in (outer, *outer.nested_types):
        for field in each.fields:
            if field.message_type is not None:
                _collect(field.message_type, needed)


def _message(message: Any, indent: str) -> list[str]:
    lines = [f"{indent}message {message.name} {{"]
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            lines += [*_message(nested, indent + "  "), ""]
    for field in message.fields:
        if field.containing_oneof is None:
            lines.append(f"{indent}  {_field(field)}")
    for oneof in message.oneofs:
        inner = [f"{indent}    {_field(field)}" for field in oneof.fields]
        lines += [f"{indent}  oneof {oneof.name} {{", *inner, f"{indent}  }}"]
    return [*lines, f"{indent}}}"]


def _field(field: Any) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return f"map<{_type(key)}, {_type(value)}> {field.name} = {field.number};"
    repeated = "repeated " if field.is_repeated else ""
    return f"{repeated}{_type(field)} {field.name} = {field.number};"


def _type(field: Any) -> str:
    if field.message_type is None:
        return _SCALARS[field.type]
    return str(field.message_type.full_name).removeprefix("inference.")


if __name__ == "__main__":
    print(proto_text(), end="")
