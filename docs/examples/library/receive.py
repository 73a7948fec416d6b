"""Subscribe as "frank", then receive until stopped (SIGTERM or Ctrl-C)."""

import gearhorn

subscriber = gearhorn.Subscriber("frank", "localhost:4730")


@subscriber.on("news")
def news(message: gearhorn.Message) -> str:
    print("frank received", message.text, flush=True)
    return "thanks from frank"


subscriber.run()
