# Calls URL, or echoes over one TCP connection, until standard input ends. Says once a second, and at the end, how it went, as JSON.
# load.py MODE HOST PORT [NAME=VALUE …]: `keep` uses one connection on and on, `slow` with pauses that other clients would close
# it in, `new` one per call; `stream` echoes. Names: `path`; `name`, which is called by header and server name whatever HOST is;
# `tls`, which takes any certificate and tells which there were.
import hashlib, http.client, json, socket, ssl, sys, threading, time

mode, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = dict(pair.split("=", 1) for pair in sys.argv[4:])
name = options.get("name", host)
headers = {"Host": name, **({"Connection": "close"} if mode == "new" else {})}
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
ok, failed, last, answered, certificates = 0, [], "", {}, []
connection = None

def connect():
    stream = socket.create_connection((host, port), timeout=20)
    if "tls" in options:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        stream = context.wrap_socket(stream, server_hostname=name)
        digest = hashlib.sha256(stream.getpeercert(binary_form=True)).hexdigest()
        if digest not in certificates:
            certificates.append(digest)
    if mode == "stream":
        return stream
    kept = http.client.HTTPConnection(host, port, timeout=20)
    kept.sock = stream
    # It would connect anew by itself, without what is above.
    kept.auto_open = 0
    return kept

def echo(line):
    connection.sendall(line)
    got = b""
    while len(got) < len(line):
        part = connection.recv(len(line) - len(got))
        if not part:
            raise ConnectionError("the stream ended")
        got += part
    assert got == line, (got, line)

def call():
    global connection, last
    connection.request("GET", options.get("path", "/"), headers=headers)
    response = connection.getresponse()
    last = response.read().decode()
    assert response.status == 200, (response.status, last)
    if last.startswith("{"):
        who = json.loads(last)["name"]
        answered[who] = answered.get(who, 0) + 1
    if mode == "new" or response.will_close:
        connection.close()
        connection = None

def tell():
    print(json.dumps({"ok": ok, "failed": failed, "last": last, "answered": answered, "certificates": certificates}), flush=True)

told = time.monotonic()
while not stop.is_set():
    try:
        connection = connection or connect()
        if mode == "stream":
            echo(b"%d\n" % ok)
        else:
            call()
        ok += 1
    except Exception as error:
        failed.append("after %d at %.3f: %r" % (ok, time.time(), error))
        if connection:
            connection.close()
        connection = None
        if mode == "stream":
            break
    if time.monotonic() - told >= 1:
        told = time.monotonic()
        tell()
    stop.wait(1.5 if mode == "slow" else 0.01)
tell()
