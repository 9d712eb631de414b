# `meet HOST PORT`: sends a byte and tells how the connection ends. `leave HOST PORT`: sends a byte, then resets.
import socket, struct, sys, time

how, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
stream = socket.create_connection((host, port), timeout=20)
stream.sendall(b"x")
if how == "meet":
    try:
        print("end" if stream.recv(1) == b"" else "bytes")
    except ConnectionResetError:
        print("reset")
else:
    time.sleep(0.2)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()
