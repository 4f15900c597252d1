"""Opens connections, uses some of them, and closes all.

Arguments: server, port (TLS if it begins with 84), own address, connections,
how many of them to use.
"""
import select
import socket
import ssl
import sys

server, port, own, count, used = sys.argv[1:]
socket.setdefaulttimeout(10)
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE

connections = []
for _ in range(int(count)):
    connection = socket.create_connection((server, int(port)), source_address=(own, 0))
    if port.startswith("84"):
        connection = context.wrap_socket(connection)
    connections.append(connection)
for connection in connections[: int(used)]:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    answer = b""
    while not answer.endswith(b"hello"):
        more = connection.recv(4096)
        assert more, answer
        answer += more
for number, connection in enumerate(connections):
    if isinstance(connection, ssl.SSLSocket) and number >= int(used):
        readable, _, _ = select.select([connection], [], [], 10)
        assert readable, "no tickets"
    elif isinstance(connection, ssl.SSLSocket):
        connection.setblocking(False)
        try:
            connection.unwrap()
        except (ssl.SSLWantReadError, OSError):
            pass
    connection.close()
