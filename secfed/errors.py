"""The exceptions that users of secfed see, each with an exit code that scripts can rely on.

SecfedError (1)
├── ConfigError (2)      a TOML file or an option is wrong: names the key, its value and what is accepted
├── DataError (3)        a volume, a label or a data set cannot be used: names the file
│   └── FileError        the one file that cannot be used, why, and what to do about it
├── RunFolderError (4)   the run folder is taken, incomplete or belongs to another configuration
├── PolicyRefusal (5)    the site's own policy does not allow what was asked
│   └── RosterRefusal    the site's roster has ended, does not name it, or is not the aggregator's
├── RoundAborted (6)     a federated round could not be completed; nothing was unmasked or decrypted
├── GroupKeyLost (7)     no site holds an encrypted run's group key any more, or can step on its sums
└── StorageError (1)     what has to be on the disk could not be written
"""

from pathlib import Path


class SecfedError(Exception):
    """Base of the errors that are shown to a user without a traceback."""

    exit_code = 1


class ConfigError(SecfedError):
    """A configuration file or a command-line option is wrong."""

    exit_code = 2


class DataError(SecfedError):
    """A volume, a label or a data set cannot be used."""

    exit_code = 3


class FileError(DataError):
    """One file cannot be used; `reason` and `todo` are for whoever keeps it, and `todo` may be empty."""

    def __init__(self, file: Path, reason: str, todo: str = "") -> None:
        super().__init__(f"{file}: {reason}" + (f"; {todo}" if todo else ""))
        self.file = file
        self.reason = reason
        self.todo = todo

    def __reduce__(self) -> tuple[type["FileError"], tuple[Path, str, str]]:
        # Workers hand errors to their parent, and an exception is copied by its message alone.
        return FileError, (self.file, self.reason, self.todo)


class RunFolderError(SecfedError):
    """A run folder is taken, incomplete or belongs to another configuration."""

    exit_code = 4


class PolicyRefusal(SecfedError):  # noqa: N818 - a refusal is the field's word
    """A site's own policy does not allow what the run asks for."""

    exit_code = 5


class RosterRefusal(PolicyRefusal):
    """A site's roster has ended, does not name the site, or is not the one that the aggregator works with."""


class RoundAborted(SecfedError):  # noqa: N818 - the protocol's word for it
    """A federated round could not be completed; nothing was unmasked or decrypted."""

    exit_code = 6


class GroupKeyLost(SecfedError):  # noqa: N818 - the protocol's word for it
    """An encrypted run cannot go on: no site holds its group key any more, or none can step on its sums."""

    exit_code = 7


class StorageError(SecfedError):
    """What has to be on the disk could not be written: it is full, or not this program's to write to."""
