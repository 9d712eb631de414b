# Calls over one connection that is kept, every 1.5 s, until /tmp/stop is there; a line for each call.
import http.client, os, time

connection = None
while not os.path.exists("/tmp/stop"):
    try:
        connection = connection or http.client.HTTPConnection("server.late", 80, timeout=10)
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        print(response.status, flush=True)
    except Exception as error:
        print(repr(error), flush=True)
        connection = None
    time.sleep(1.5)
