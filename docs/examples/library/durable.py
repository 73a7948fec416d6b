"""Subscribe durably as "frank": a message that cannot be processed is delivered again."""

import gearhorn

subscriber = gearhorn.Subscriber("frank", "localhost:4730")


@subscriber.on("orders", durable=gearhorn.Durable(timeout=10, max_attempts=5))
def order(message: gearhorn.Message) -> None:
    """Process one order. The first attempt fails, to show what follows."""
    if message.attempt == 1:
        raise RuntimeError("disk full")  # deliver it again, after 2 seconds, then 3, 5, 9 ...
    print("frank processed", message.text, "in attempt", message.attempt, flush=True)


subscriber.run()
