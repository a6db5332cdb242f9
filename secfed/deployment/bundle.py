"""The app bundle of a deployed run: it names the program that both sides have installed, and carries none of it.

Made at the aggregator, and again at each site from its own installation, to the same bytes. Flower sends a bundle to
every node and runs what is in it; ours holds two imports and the digest of the program it was made for. A site never
runs a bundle's code at all (secfed.deployment.site_worker): it compares the digest with that of its own program and
runs that. So what a reviewer approves is the installed release, which came by the site's own way.

Source: the format is that of flwr 1.41, `flwr build`.
"""

import hashlib
import io
import tomllib
import zipfile
from pathlib import Path

import tomli_w

from secfed.errors import PolicyRefusal
from secfed.provenance import code_digest, versions

APP_NAME = "secfed-run"
PUBLISHER = "secfed"
RUN_FOLDER_KEY = "run-dir"
"""The run config key by which the ServerApp finds the aggregator's folder of this run; sites do not read it."""
MAX_PROJECT_BYTES = 2**16

_SERVER = (
    b'"""The aggregator\'s side: the installed program\'s."""\n\nfrom aggregator.app import app\n\n__all__ = ["app"]\n'
)
_CLIENT = b'"""A site\'s side: the installed program\'s."""\n\nfrom clients.app import app\n\n__all__ = ["app"]\n'


def bundle_files(code: str | None = None) -> dict[str, bytes]:
    """Path and content of every file of the app; `code` is the program's digest, by default this installation's."""
    project = {
        "project": {
            "name": APP_NAME,
            "version": versions()["secfed"],
            "description": "A federated run of the installed secfed",
            "license": "Apache-2.0",
            "dependencies": [],
        },
        "tool": {
            "secfed": {"code": code_digest() if code is None else code},
            "flwr": {
                "app": {
                    "publisher": PUBLISHER,
                    "components": {"serverapp": "secfed_bundle.server:app", "clientapp": "secfed_bundle.client:app"},
                    "config": {RUN_FOLDER_KEY: ""},
                }
            },
        },
    }
    return {
        "pyproject.toml": tomli_w.dumps(project).encode(),
        "secfed_bundle/__init__.py": b'"""Names the installed program; there is no code in here."""\n',
        "secfed_bundle/server.py": _SERVER,
        "secfed_bundle/client.py": _CLIENT,
    }


def bundle_bytes(code: str | None = None) -> bytes:
    """The bundle as Flower builds it; the same bytes for the same program and the same flwr."""
    from flwr.cli.build import build_fab_from_files

    return bytes(build_fab_from_files(bundle_files(code))[0])


def bundle_digest(bundle: bytes) -> str:
    """Hex SHA-256, by which Flower names a bundle."""
    return hashlib.sha256(bundle).hexdigest()


def write_app(folder: Path) -> Path:
    """Write the app's files for `flwr run`; returns the folder."""
    for name, content in bundle_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def code_of(bundle: bytes) -> str:
    """The digest of the program that a bundle was made for, read from its project file; nothing of it is run.

    Raises:
        PolicyRefusal: it names none, or is no bundle.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            if archive.getinfo("pyproject.toml").file_size > MAX_PROJECT_BYTES:
                raise PolicyRefusal("the app bundle's project file is too large to be one of ours")
            project = tomllib.loads(archive.read("pyproject.toml").decode("utf-8"))
        code = project["tool"]["secfed"]["code"]
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, OSError) as error:
        raise PolicyRefusal(f"the app bundle does not name the program that it was made for: {error}") from error
    if not isinstance(code, str):
        raise PolicyRefusal("the app bundle does not name the program that it was made for")
    return code
