"""Where this program came from: one root for the four packages, a digest of their sources, versions of what they use.

The four import names are generic, so another installed package could stand in for one of them without anyone noticing.
`check_single_root` refuses to start then. The digest goes into every report. Runs at every party; it proves nothing
about the interpreter or the libraries.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import platform
from pathlib import Path

from secfed.errors import SecfedError

PACKAGES = ("aggregator", "clients", "privacy", "secfed")
LIBRARIES = ("flwr", "torch", "monai", "numpy", "cryptography", "pycryptodome", "nibabel", "scipy")


@functools.cache
def source_root() -> Path:
    """The folder that holds all four packages.

    Raises:
        SecfedError: a package is missing, or they come from different places.
    """
    roots = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise SecfedError(f"package '{name}' is not installed; install secfed in an environment of its own")
        roots[name] = Path(next(iter(spec.submodule_search_locations))).resolve().parent
    if len(set(roots.values())) > 1:
        places = ", ".join(f"{name} from {root}" for name, root in roots.items())
        raise SecfedError(f"the four packages must come from one installation, but found {places}")
    return roots["secfed"]


def check_single_root() -> None:
    """Raise SecfedError unless all four packages come from one installation."""
    source_root()


@functools.cache
def code_digest() -> str:
    """Hex SHA-256 over the paths and contents of all our Python files, in sorted order."""
    root = source_root()
    digest = hashlib.sha256()
    for name in PACKAGES:
        for path in sorted((root / name).rglob("*.py")):
            data = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\0{len(data)}\0".encode())
            digest.update(data)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of secfed and of the libraries that results depend on."""
    found = {"secfed": importlib.metadata.version("secfed")}
    for name in LIBRARIES:
        found[name] = importlib.metadata.version(name)
    return found


def platform_line() -> str:
    """Interpreter and machine type, without host name or path."""
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
