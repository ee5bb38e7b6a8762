"""Every failure a user can meet, with the exit status of its kind (BSD sysexits where one fits)."""

from __future__ import annotations


class MedgenError(Exception):
    """A failure with one sentence for the user: what is wrong, where, and how to fix it.

    Raise a subclass; the command line turns it into the last line on stderr and into `exit_code`.
    """

    exit_code = 70


class SomeItemsFailed(MedgenError):
    """Under `--keep-going`, some items were left out, and each was named."""

    exit_code = 1


class UsageError(MedgenError):
    """The command was called wrongly."""

    exit_code = 2


class DataError(MedgenError):
    """An input is invalid or truncated, or does not match another input."""

    exit_code = 65


class InputMissingError(MedgenError):
    """An input does not exist or cannot be opened."""

    exit_code = 66


class UnavailableError(MedgenError):
    """A device or an optional package is missing."""

    exit_code = 69


class OutputError(MedgenError):
    """An output exists already, or cannot be created."""

    exit_code = 73


class StorageError(MedgenError):
    """Reading or writing failed part way, for instance because the disk is full."""

    exit_code = 74


class ConfigError(MedgenError):
    """A preset, configuration file or `--set` has an unknown key or a value out of range."""

    exit_code = 78


class PipeClosed(MedgenError):
    """The reader of our output has closed the pipe; end silently."""

    exit_code = 141


class Terminated(MedgenError):
    """SIGTERM arrived; what could be saved has been saved."""

    exit_code = 143
