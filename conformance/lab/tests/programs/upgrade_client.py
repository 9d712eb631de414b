# Opens a WebSocket (RFC 6455 handshake), then exchanges bytes both ways, in turns.
import socket, sys

host, path = sys.argv[1], sys.argv[2]
stream = socket.create_connection((host, 80), timeout=5)
stream.sendall((f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").encode())
head = b""
while b"\r\n\r\n" not in head:
    more = stream.recv(1)
    assert more, head
    head += more
print(head.split(b"\r\n")[0].decode())
assert b"\r\nupgrade: websocket" in head.lower(), head
for number in range(20):
    message = bytes([0x82, number]) * 500
    stream.sendall(message)
    got = b""
    while len(got) < len(message):
        more = stream.recv(4096)
        assert more, f"closed after {len(got)} bytes"
        got += more
    assert got == message
stream.shutdown(socket.SHUT_WR)
assert stream.recv(1) == b""
print("20 messages came back")
