# For each number that comes in: calls until the answer's header x-round says it, and tells when the first such request was sent.
import http.client, sys, time

connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=20)
for line in sys.stdin:
    while True:
        sent = time.time()
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        if response.getheader("x-round") == line.strip():
            break
        time.sleep(0.001)
    print("%.4f" % sent, flush=True)
