"""An SSH server for git and SFTP, as a process: a machine that keeps both remotes.

python ssh_host.py ADDRESS PORT HOST_KEY PUBLIC_KEYS
"""

import asyncio
import shlex
import sys

import asyncssh

COMMANDS = ("git-upload-pack", "git-receive-pack")


async def serve_git(process: asyncssh.SSHServerProcess) -> None:
    """Run a command of git for a client, and no other command."""
    name, *paths = shlex.split(process.command or "git")
    if name not in COMMANDS or len(paths) != 1:
        process.exit(126)
        return
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(name, *paths, stdin=pipe, stdout=pipe, stderr=pipe)
    await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
    process.exit(await child.wait())


async def serve(address: str, port: str, host_key: str, clients: str) -> None:
    await asyncssh.listen(
        address,
        int(port),
        server_host_keys=[host_key],
        authorized_client_keys=clients,
        process_factory=serve_git,
        sftp_factory=asyncssh.SFTPServer,
        encoding=None,
    )
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
