# Sends a body chunk by chunk, each only after the one before has come back: stock http.client below, one request.
import http.client, sys

connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=5)
connection.putrequest("POST", "/duplex")
connection.putheader("Transfer-Encoding", "chunked")
connection.endheaders()
response = None
for number in range(5):
    chunk = b"chunk-%d" % number
    connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    response = response or connection.getresponse()
    assert response.read(len(chunk)) == chunk, number
connection.send(b"0\r\n\r\n")
assert response.read() == b""
print("each chunk came back before the next was sent")
