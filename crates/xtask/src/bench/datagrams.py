# datagrams.py HOST PORT SECONDS WINDOW: sends datagrams, so many at a time, and counts those that come back.
import socket, sys, time

host, port, seconds, window = sys.argv[1], *map(int, sys.argv[2:])
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect((host, port))
sender.settimeout(1)
end, back, payload = time.monotonic() + seconds, 0, b"x" * 512
for _ in range(window):
    sender.send(payload)
while time.monotonic() < end:
    try:
        sender.recv(2048)
        back += 1
        sender.send(payload)
    except TimeoutError:
        # All that were under way are lost: begin again.
        for _ in range(window):
            sender.send(payload)
print(back, "datagrams came back")
