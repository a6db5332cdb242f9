"""The bundle is the same bytes wherever the same program is installed, holds no code of ours, and names its program."""

import io
import zipfile

import pytest

from secfed.deployment.bundle import bundle_bytes, bundle_digest, bundle_files, code_of, write_app
from secfed.errors import PolicyRefusal
from secfed.provenance import code_digest


def test_the_same_program_gives_the_same_bytes_and_another_gives_others():
    assert bundle_bytes() == bundle_bytes()
    assert bundle_bytes("0" * 64) != bundle_bytes("1" * 64)
    assert len(bundle_digest(bundle_bytes())) == 64


def test_it_names_the_installed_program():
    assert code_of(bundle_bytes()) == code_digest()
    assert code_of(bundle_bytes("0" * 64)) == "0" * 64


def test_it_holds_two_imports_and_nothing_else_that_runs():
    with zipfile.ZipFile(io.BytesIO(bundle_bytes())) as archive:
        python = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
    assert set(python) == {"secfed_bundle/__init__.py", "secfed_bundle/server.py", "secfed_bundle/client.py"}
    for text in python.values():
        code = [line for line in text.splitlines() if line and not line.startswith('"""')]
        assert len(code) <= 2, text


def test_flower_builds_the_written_app_to_the_same_bundle(tmp_path):
    from flwr.cli.build import build_fab_from_disk

    folder = write_app(tmp_path / "bundle")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(bundle_files())
    assert build_fab_from_disk(folder) == bundle_bytes()


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 not a zip",
        zipped(readme__md="x"),
        zipped(pyproject__toml="name ="),
        zipped(pyproject__toml="[tool]\nx = 1"),
        zipped(pyproject__toml="[tool.secfed]\ncode = 7"),
        zipped(pyproject__toml="[tool.secfed]\ncode = 'x'\n#" + "x" * 2**17),
        zipped(pyproject__toml=b"\xff\xfe"),
    ],
)
def test_what_names_no_program_is_refused(data):
    with pytest.raises(PolicyRefusal):
        code_of(data)
