"""How much is in flight, when to try again, and when to stop; all calls share it, as they share the server.

adaptive     finds the best number of calls in flight by their latency
archiving    finds the best number of sessions that are archived at a time
compression  decides which files go as zips
concurrency  slots for calls in flight, fewer after an overload
load         what limits the speed, for display
meter        what uploads have done since the last look
monitor      ends a run when nothing gets through for too long
outage       a budget of retries, and the wait for a server that is away
rate_limit   how many bytes a second are sent
retry        when to try again
shutdown     how a run ends early
trial        compares files as they are with zips
"""
