"""Asks twice on each connection of a pool, then drops the idle ones as told.

Arguments: server, port (TLS if it begins with 84), own address, connections, how.
"""
import http.client
import os
import select
import socket
import ssl
import struct
import sys
import time

server, port, own, count, how = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE


def connect():
    options = {"timeout": 10, "source_address": (own, 0)}
    if port.startswith("84"):
        return http.client.HTTPSConnection(server, int(port), context=context, **options)
    return http.client.HTTPConnection(server, int(port), **options)


def ask(connection):
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"hello"


def say_goodbye(connection):
    """Over TLS, without waiting for the answer."""
    if isinstance(connection.sock, ssl.SSLSocket):
        connection.sock.setblocking(False)
        try:
            connection.sock.unwrap()
        except (ssl.SSLWantReadError, OSError):
            pass


def drop_with_reader(connection):
    """Closes while somebody waits for input, as Go does with its poller."""
    with select.epoll() as poller:
        poller.register(connection.sock, select.EPOLLIN | select.EPOLLRDHUP)
        assert poller.poll(0) == [], "nothing has come"
        say_goodbye(connection)
        connection.close()


def reset(connection):
    """Says goodbye, then resets."""
    linger = struct.pack("ii", 1, 0)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    say_goodbye(connection)
    connection.close()


def is_dropped(connection):
    """What urllib3 looks at."""
    readable, _, _ = select.select([connection.sock], [], [], 0)
    return bool(readable)


pool = [connect() for _ in range(int(count))]
for connection in pool:
    ask(connection)
if how == "look":
    deadline = time.monotonic() + 5
    while not all(is_dropped(connection) for connection in pool):
        assert time.monotonic() < deadline, "nginx ends idle connections"
        time.sleep(0.05)
    for connection in pool:
        connection.close()
    pool = [connect() for _ in pool]
for connection in pool:
    ask(connection)
# Idle for a while: that is the scenario.
time.sleep(0.3)
for connection in pool:
    if how == "exit":
        os._exit(0)
    elif how == "reader":
        drop_with_reader(connection)
    elif how == "reset":
        reset(connection)
    else:
        connection.close()
