"""Which process has a run open, and whether it is still alive."""

import socket


def this_process() -> str:
    """Return a name of this process that no other has, on any machine."""
    import psutil

    process = psutil.Process()
    return f"{socket.gethostname()} {process.pid} {process.create_time():.2f}"


def is_gone(owner: str) -> bool:
    """Return whether a process of this machine has ended; False for one of another machine.

    Args:
        owner: as `this_process` names it.
    """
    import psutil

    host, pid, started = owner.rsplit(" ", 2)
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(started)) > 1
    except psutil.NoSuchProcess:
        return True
