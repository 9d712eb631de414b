# Port 9001: resets every connection once a byte has come. Port 9002: writes to /tmp/ended how each connection that
# carried a byte ended (probes carry none).
import socket, struct, threading

def reset(connection):
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()

def watch(connection):
    if not connection.recv(1):
        return
    try:
        while connection.recv(4096):
            pass
        ended = "end"
    except ConnectionResetError:
        ended = "reset"
    with open("/tmp/ended", "a") as file:
        file.write(ended + "\n")
    connection.close()

def listen(port, serve):
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

threading.Thread(target=listen, args=(9001, reset), daemon=True).start()
listen(9002, watch)
