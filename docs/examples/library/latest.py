"""Subscribe durably as "frank" to the newest price of each currency; older ones are passed by."""

import gearhorn

subscriber = gearhorn.Subscriber("frank", "localhost:4730")


@subscriber.on("prices", durable=gearhorn.Durable(latest="currency"))
def price(message: gearhorn.Message) -> None:
    """Show one price. However long this takes, the next one is the newest there is then."""
    print("frank received", message.text, message.headers["currency"], flush=True)


subscriber.run()
