"""The server's address, taken before anything else is done."""

import socket

from coterie.errors import StorageError
from coterie.serving.settings import ServeConfig


def bind(config: ServeConfig) -> socket.socket:
    """A socket that has the server's address, but does not listen: connections are refused yet.

    Raises
    ------
    StorageError
        The address is taken, or not ours.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not while another listens
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((config.host, config.port))
    except OSError as error:
        bound.close()
        raise not_ours(config, error) from error
    return bound


def not_ours(config: ServeConfig, error: OSError) -> StorageError:
    """What to raise where the address cannot be listened on."""
    return StorageError(
        f"{config.host}:{config.port} cannot be listened on: {error.strerror}. Choose another "
        "--port, or 0 for a free one."
    )
