"""How much is in flight, and what to do when nothing gets through: both shared by all, as they share the server.

knee      how many calls in flight are worth it: latency tells
throttle  slots for that many, fewer after an overload
outage    repetitions to spare, and the wait for a server that is away
monitor   whether anything gets through, and the end of a run when nothing does
rate      bytes a second
"""

from asyncimport.limits.knee import Knee
from asyncimport.limits.monitor import OutageMonitor
from asyncimport.limits.outage import Outage, RetryBudget
from asyncimport.limits.rate import Rate
from asyncimport.limits.throttle import Slot, Throttle

__all__ = ["Knee", "Outage", "OutageMonitor", "Rate", "RetryBudget", "Slot", "Throttle"]
