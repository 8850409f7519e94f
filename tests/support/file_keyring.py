"""A keyring for tests: a file, which says of itself that it keeps secrets."""

from keyrings.alt.file import PlaintextKeyring  # type: ignore[import-untyped]


class Keyring(PlaintextKeyring):  # type: ignore[misc]  # it has no types
    """What the system's keyring is elsewhere."""

    priority = 5
    name = "a file for tests"
