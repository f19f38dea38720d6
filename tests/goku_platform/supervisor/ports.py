"""Ports for gangs on loopback."""

import random
import socket


def quiet_port() -> int:
    """A port that nobody listens on, below those that the kernel gives to outgoing connections:
    a member that knocks before its leader listens would now and then be connected to itself."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
