"""Files that are there whole or as they were, whatever ends their writer."""

import errno
import os
from pathlib import Path

import pytest

from secfed.whole_file import write_whole


def fail_with(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize(
    ("owner", "step"), [(os, "fsync"), (Path, "replace")], ids=["while it is written", "before it is renamed"]
)
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "no space left"), KeyboardInterrupt()], ids=["a full disk", "Ctrl-C"]
)
def test_a_file_is_there_whole_or_as_it_was(tmp_path, monkeypatch, owner, step, error):
    path = tmp_path / "a"
    write_whole(path, b"first", durable=True)
    with monkeypatch.context() as patched:
        patched.setattr(owner, step, fail_with(error))
        with pytest.raises(type(error)):
            write_whole(path, b"second", durable=True)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
    write_whole(path, b"third", durable=True)
    assert path.read_bytes() == b"third"


def test_what_a_kill_left_beside_is_overwritten(tmp_path):
    (tmp_path / ".a").write_bytes(b"half of something long")
    write_whole(tmp_path / "a", b"new", durable=False, mode=0o600)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
