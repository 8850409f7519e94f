"""How much is in flight, when to try again, and when to stop; all calls share it, as they share the server.

adaptive     finds the best number of calls in flight by their latency
concurrency  slots for calls in flight, fewer after an overload; bytes a second
outage       a budget of retries, and the wait for a server that is away
monitor      ends a run when nothing gets through for too long
retry        when to try again
shutdown     how a run ends early
"""
