# An authorization server: by HTTP on port 8080, by Envoy's gRPC protocol on port 9090. The path of the request that is
# asked about says what it answers. What it was asked goes to the backend in the field x-seen, how often about this
# path in x-count.
import json, socket, struct, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc

lock, asked = threading.Lock(), {}


def count(path):
    with lock:
        asked[path] = asked.get(path, 0) + 1
        return str(asked[path])


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = self.headers.get("content-length")
        seen = {
            "by": "http",
            "method": self.command,
            "path": self.path,
            "body": self.rfile.read(int(length or 0)).decode(),
            "headers": {name.lower(): value for name, value in self.headers.items()},
        }
        if "/silent" in self.path:
            time.sleep(60)
        if "/broken" in self.path:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        status, body, fields = 200, b"", {"x-user": "ann", "x-seen": json.dumps(seen)}
        if "/deny" in self.path:
            status, body, fields = 401, b"who are you?\n", {"www-authenticate": 'Basic realm="x"'}
        if "/login" in self.path:
            status, fields = 302, {"location": "https://id.example/", "set-cookie": "state=1"}
        if "/failed" in self.path:
            status = 500
        self.send_response(status)
        for name, value in {**fields, "x-count": count(self.path), "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_HEAD = answer

    def log_message(self, *_):
        pass


def number(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def read(data):
    """The fields of a message of the wire format of protobuf, by number."""
    fields, at = {}, 0
    while at < len(data):
        key, at = number(data, at)
        if key & 7 == 2:
            length, at = number(data, at)
            value, at = data[at : at + length], at + length
        else:
            value, at = number(data, at)
        fields.setdefault(key >> 3, []).append(value)
    return fields


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(key, value):
    if isinstance(value, int):
        return varint(key << 3) + varint(value)
    return varint(key << 3 | 2) + varint(len(value)) + value


def option(name, value):
    return field(1, field(1, name.encode()) + field(2, value.encode()))


def check(request, context):
    attributes = read(read(request)[1][0])
    http = read(read(attributes[4][0])[2][0])
    text = lambda fields, key: fields.get(key, [b""])[0].decode()
    headers = {text(read(entry), 1): text(read(entry), 2) for entry in http.get(3, [])}
    path = text(http, 4)
    seen = {
        "by": "grpc",
        "method": text(http, 2),
        "path": path,
        "body": text(http, 11),
        "headers": headers,
        "principal": text(read(attributes[1][0]), 4),
    }
    if "/silent" in path:
        time.sleep(60)
    if "/broken" in path:
        context.abort(grpc.StatusCode.INTERNAL, "broken")
    if "/deny" in path:
        status = field(1, field(1, 7))
        denied = field(1, field(1, 401)) + field(2, option("www-authenticate", 'Basic realm="x"'))
        return status + field(2, denied + field(3, b"who are you?\n"))
    if "/plain-no" in path:
        return field(1, field(1, 16))
    ok = b"".join(
        field(2, option(name, value))
        for name, value in {"x-user": "ann", "x-seen": json.dumps(seen), "x-count": count(path), "host": "evil"}.items()
    )
    ok += field(5, b"x-role") + field(6, option("x-added", "to-the-answer"))
    return field(1, b"") + field(3, ok)


class Dual(ThreadingHTTPServer):
    address_family = socket.AF_INET6

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


identity = lambda data: data
handler = grpc.unary_unary_rpc_method_handler(check, request_deserializer=identity, response_serializer=identity)
server = grpc.server(ThreadPoolExecutor(max_workers=16))
service = grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": handler})
server.add_generic_rpc_handlers((service,))
if server.add_insecure_port("[::]:9090") == 0:
    sys.exit("port 9090 is not free")
server.start()
Dual(("::", 8080), Http).serve_forever()
