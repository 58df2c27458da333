"""Reads messages of OTLP/HTTP in JSON by OpenTelemetry's own definitions, and prints how many spans are in them.

A field that they do not know is an error, and so is an identifier of the wrong length. The JSON of OTLP differs from
that of protobuf in one point: trace and span identifiers are hexadecimal, not base64.
"""

import base64
import json
import pathlib
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def with_bytes(span):
    for key in ("traceId", "spanId", "parentSpanId"):
        if key in span:
            span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()


def read(path):
    message = json.loads(path.read_bytes())
    for resource in message["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                with_bytes(span)
    request = json_format.ParseDict(message, ExportTraceServiceRequest())
    count = 0
    for resource in request.resource_spans:
        names = {attribute.key for attribute in resource.resource.attributes}
        assert {"service.name", "service.version", "service.instance.id"} <= names, names
        for scope in resource.scope_spans:
            for span in scope.spans:
                assert len(span.trace_id) == 16 and len(span.span_id) == 8, span
                assert len(span.parent_span_id) in (0, 8) and span.name and span.kind, span
                assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano, span
                count += 1
    return count


print(sum(read(path) for path in sorted(pathlib.Path(sys.argv[1]).iterdir())))
