"""An SSH server on this machine with nothing but SFTP, for one folder and one key."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncssh


def new_key(path: Path) -> Path:
    """Write a new private key, readable by its owner alone, with the public key beside it."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    path.touch(mode=0o600)
    key.write_private_key(path)
    key.write_public_key(path.with_suffix(".pub"))
    return path


@contextlib.contextmanager
def serving(folder: Path, key: Path) -> Iterator[tuple[int, str]]:
    """Serve ``folder`` to who has ``key`` while the block runs.

    Yields the port on 127.0.0.1, and the server's public key as a line of known_hosts has it.
    """
    loop = asyncio.new_event_loop()
    own = asyncssh.generate_private_key("ssh-ed25519")

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[own],
            authorized_client_keys=str(key.with_suffix(".pub")),
            sftp_factory=functools.partial(asyncssh.SFTPServer, chroot=str(folder)),
        )

    server = loop.run_until_complete(listen())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.get_port(), own.export_public_key().decode()
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
