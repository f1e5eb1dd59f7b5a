"""Errors that a user can act on.

Each message says what was wrong, what was found, and what to do next. The command-line programs
print them without a traceback; everything else that escapes is a defect of ours and shows one.
"""


class PSCError(ValueError):
    """Base of all errors that a user's input can cause."""


class ConfigError(PSCError):
    """A configuration value that is unknown, of the wrong type or impossible in combination."""


class DataError(PSCError):
    """A data file that is missing, damaged, or not what the configuration says it is."""


class DivergenceError(PSCError):
    """A training whose loss is no longer a number."""


class CheckpointError(PSCError):
    """A checkpoint that cannot be read, or that belongs to another network."""
