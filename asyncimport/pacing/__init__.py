"""How much is in flight, and what to do when nothing gets through: both shared by all, as they share the server.

adaptive     how many calls in flight are worth it: latency tells
concurrency  slots for that many, fewer after an overload
outage       repetitions to spare, and the wait for a server that is away
monitor      whether anything gets through, and the end of a run when nothing does
bandwidth    bytes a second
retry        when to try again
shutdown     how a run ends early
"""
