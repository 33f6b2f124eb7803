"""The kinds of fault that carry a message for a person."""


class UserError(ValueError):
    """A mistake the user can mend: the command prints the message alone and exits with code 2."""


class BadSampleError(ValueError):
    """A sample that will never be readable (checksum, decode, caption); the loader replaces it, counts it and names it."""


class MachineError(Exception):
    """The machine could not do what was asked (full disk, no memory, unreachable process): exit code 3."""


class GuardError(Exception):
    """A guard that was asked for did not hold, though everything worked: exit code 4."""


class UndecidedError(Exception):
    """Everything worked, and a person should look before what was asked about is done: exit code 5."""


class PreemptedError(BaseException):
    """The run was told to end and has ended; the same command with `--resume` goes on: exit code 75.

    Like KeyboardInterrupt no `Exception`: it may be raised anywhere, and nothing on the way may take it for a failure.
    """
