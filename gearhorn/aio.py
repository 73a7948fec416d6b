"""gearhorn for asyncio: the same names as in ``gearhorn``, as coroutines.

Each object belongs to the event loop on which it is first used.
"""

from gearhorn.client.admin import Admin
from gearhorn.client.deliveries import State
from gearhorn.client.log import Batch, Log
from gearhorn.client.many import Outgoing
from gearhorn.client.message import Gap, Message, Park, Retry
from gearhorn.client.publisher import Publisher
from gearhorn.client.results import (
    Answer,
    Answers,
    Failure,
    Position,
    Published,
    Receipt,
    Results,
)
from gearhorn.client.settings import TLS, Durable, Functions
from gearhorn.client.subscriber import Subscriber

__all__ = [
    "TLS", "Admin", "Answer", "Answers", "Batch", "Durable", "Failure", "Functions", "Gap", "Log",
    "Message", "Outgoing", "Park", "Position", "Published", "Publisher", "Receipt", "Results",
    "Retry", "State", "Subscriber",
]  # fmt: skip
