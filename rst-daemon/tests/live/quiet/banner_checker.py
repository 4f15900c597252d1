"""Connects to a server that greets, and ends as told.

Arguments: server, port, own address, how, how often.
"""
import select
import socket
import struct
import sys

server, port, own, how, count = sys.argv[1:]
socket.setdefaulttimeout(10)
for _ in range(int(count)):
    connection = socket.create_connection((server, int(port)), source_address=(own, 0))
    if how.startswith("read"):
        banner = b""
        while len(banner) < 78:
            more = connection.recv(4096)
            assert more, banner
            banner += more
    elif how == "unread":
        readable, _, _ = select.select([connection], [], [], 10)
        assert readable, "no greeting"
    if how.endswith("reset"):
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()
