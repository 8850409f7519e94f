"""What happens in a run, written down while it happens: as JSON for programs, and as lines of a log for people.

A thread of its own writes, so that no disk ever holds up the run: what it cannot take in time is left out, and that is
said once. The names of events and of their fields are a contract.
"""
