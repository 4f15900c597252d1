"""Sends server-sent events, one each 10 ms, and closes after the last.

Arguments: address, events, "looks" (closes when the client has) or "sends"
(until it fails). Ends with its input.
"""
import os
import select
import socket
import sys
import threading
import time

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def serve(connection):
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        request += connection.recv(4096)
    try:
        connection.sendall(HEAD)
        for number in range(int(sys.argv[2])):
            connection.sendall(b"id: %d\ndata: something has happened\n\n" % number)
            if sys.argv[3] == "looks":
                gone, _, _ = select.select([connection], [], [], 0.01)
                if gone:
                    break
            else:
                time.sleep(0.01)
    except ConnectionError:
        pass
    connection.close()
    print("ended", flush=True)


def accept(listener):
    while True:
        connection, _ = listener.accept()
        connection.settimeout(10)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], 0), family=family)
print(listener.getsockname()[1], flush=True)
threading.Thread(target=accept, args=(listener,), daemon=True).start()
sys.stdin.read()
os._exit(0)
