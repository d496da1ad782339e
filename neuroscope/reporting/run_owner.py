"""Identity of the process that has a run open, and whether that process is still alive."""

import socket


def this_process() -> str:
    """Return a name of this process that is unique across machines."""
    import psutil

    process = psutil.Process()
    return f"{socket.gethostname()} {process.pid} {process.create_time():.2f}"


def is_gone(owner: str) -> bool:
    """Return whether a process on this machine has ended; False for one on another machine.

    Args:
        owner: name of the process, from `this_process`.
    """
    import psutil

    host, pid, started = owner.rsplit(" ", 2)
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(started)) > 1
    except psutil.NoSuchProcess:
        return True
