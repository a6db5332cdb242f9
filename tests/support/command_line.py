"""The program, called in this process as from a shell."""

import sys

from secfed import cli


def call(monkeypatch, capfd, *arguments, columns=160):
    """Exit code, standard output and standard error of `secfed ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["secfed", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", str(columns))
    capfd.readouterr()
    try:
        cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    out, err = capfd.readouterr()
    return code, out, err
