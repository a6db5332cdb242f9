"""How much memory a process took, from Linux's own account of it (proc(5))."""

from pathlib import Path

from privacy.errors import MisuseError


def status_bytes(field: str) -> int:
    """A line of /proc/self/status: `VmRSS` is resident now, `VmHWM` at most since the last reset.

    Raises:
        MisuseError: there is no such line.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise MisuseError(f"/proc/self/status has no {field}: this benchmark runs on Linux")


def reset_peak() -> int:
    """Let `VmHWM` start anew; returns what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return status_bytes("VmRSS")
