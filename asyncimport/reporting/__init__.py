"""Report a run while it happens: as JSON for programs, and as log lines for people.

A separate thread writes, so no disk delays the run. Events that it cannot write in time are dropped, which is reported
once. The names of events and of their fields are a contract.
"""
