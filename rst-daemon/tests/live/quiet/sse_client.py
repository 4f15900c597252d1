"""Listens to server-sent events on some streams, one after the other, and
closes each when enough have come, or when the server has.

Arguments: server, port, own address, streams, events,
"end" to hear the server's end too.
"""
import socket
import sys

server, port, own, streams, events, how = sys.argv[1:]
socket.setdefaulttimeout(10)
for _ in range(int(streams)):
    connection = socket.create_connection((server, int(port)), source_address=(own, 0))
    connection.sendall(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n")
    heard = b""
    while heard.count(b"data: ") < int(events) or not heard.endswith(b"\n\n"):
        more = connection.recv(4096)
        assert more, heard
        heard += more
    if how == "end":
        while connection.recv(4096):
            pass
    connection.close()
