# Calls URL, or echoes over one TCP connection, until standard input ends; then says how it went, as JSON.
# load.py MODE HOST PORT: `keep` uses one connection on and on, `slow` with pauses that other clients would close it in,
# `new` one per call; `stream` echoes.
import http.client, json, socket, sys, threading, time

mode, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
ok, failed, last = 0, [], ""
connection = None
while not stop.is_set():
    try:
        if mode == "stream":
            connection = connection or socket.create_connection((host, port), timeout=10)
            line = b"%d\n" % ok
            connection.sendall(line)
            got = b""
            while len(got) < len(line):
                part = connection.recv(len(line) - len(got))
                if not part:
                    raise ConnectionError("the stream ended")
                got += part
            assert got == line, (got, line)
        else:
            connection = connection or http.client.HTTPConnection(host, port, timeout=10)
            connection.request("GET", "/", headers={"Connection": "close"} if mode == "new" else {})
            response = connection.getresponse()
            last = response.read().decode()
            assert response.status == 200, (response.status, last)
            if mode == "new":
                connection.close()
                connection = None
        ok += 1
    except Exception as error:
        failed.append("after %d at %.3f: %r" % (ok, time.time(), error))
        if connection:
            connection.close()
        connection = None
        if mode == "stream":
            break
    stop.wait(1.5 if mode == "slow" else 0.01)
print(json.dumps({"ok": ok, "failed": failed, "last": last}))
