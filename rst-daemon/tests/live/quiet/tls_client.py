"""Asks over TLS on some connections and ends them as told.

Arguments: server, port, own address, how, cipher or TLSv1.3, connections.
"""
import socket
import ssl
import sys

server, port, own, how, cipher, count = sys.argv[1:]
socket.setdefaulttimeout(10)
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
if cipher == "TLSv1.3":
    context.minimum_version = ssl.TLSVersion.TLSv1_3
else:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(cipher)

open_ones = []
for _ in range(int(count)):
    plain = socket.create_connection((server, int(port)), source_address=(own, 0))
    connection = context.wrap_socket(plain)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    answer = b""
    while not answer.endswith(b"hello"):
        more = connection.recv(4096)
        assert more, answer
        answer += more
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    open_ones.append(connection)

for connection in open_ones:
    if how in ("answer", "close"):
        assert connection.recv(1) == b"", "nginx ends the connection"
    if how in ("answer", "polite"):
        connection.unwrap().close()
    elif how == "hasty":
        connection.setblocking(False)
        try:
            connection.unwrap()
        except (ssl.SSLWantReadError, OSError):
            pass
        connection.close()
    else:
        connection.close()
