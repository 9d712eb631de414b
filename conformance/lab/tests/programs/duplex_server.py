# An HTTP/1.1 server that sends every chunk of a request's body back at once, before the next has come,
# and answers /refuse with 403 without reading the body.
import socket, threading

def serve(connection):
    reader = connection.makefile("rb")
    line = reader.readline()
    while reader.readline() not in (b"\r\n", b""):
        pass
    if b"/refuse" in line:
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.close()
        return
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while size := int(reader.readline().split(b";")[0], 16):
        chunk = reader.read(size)
        reader.readline()
        connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    reader.readline()
    connection.sendall(b"0\r\n\r\n")
    reader.close()
    connection.close()

server = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
