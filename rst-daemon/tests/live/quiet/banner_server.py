"""Greets every client, then waits until it has gone.

Arguments: address, milliseconds before the greeting. Ends with its input.
"""
import os
import socket
import sys
import threading
import time

BANNER = b"J\0\0\0\n8.0.36\0" + bytes(66)


def serve(connection):
    try:
        time.sleep(int(sys.argv[2]) / 1000)
        connection.sendall(BANNER)
        while connection.recv(4096):
            pass
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
sys.stdout.flush()
os._exit(0)
