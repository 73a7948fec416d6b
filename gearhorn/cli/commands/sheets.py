"""``gearhorn help``: cheat sheets, by what one wants to do.

Rules: every line that begins with ``gearhorn`` is a command that the program takes; a test tries
each.
"""

from __future__ import annotations

import click

_SHEETS = {
    "publish": """\
Publish
  gearhorn publish news 'hello'                       to every subscribed host
  gearhorn publish news --file page.html              a file
  uptime | gearhorn publish news                      standard input
  gearhorn publish news 'x' --wait --receipt          wait for the receivers, and name each
  gearhorn publish news 'x' --unique order-17         may be repeated: it counts once
  gearhorn publish news --lines --file orders.txt     a message per line
  gearhorn publish load '{n} {time}' --template --count 1000 --rate 100/s
  gearhorn explain news                               who would get it, without publishing
""",
    "ask": """\
Ask every host
  gearhorn ask uptime --timeout 2                     answers as they come
  gearhorn ask uptime --only-missing                  who does not answer
  gearhorn listen uptime --as web1 --exec uptime      what answers, on each host
""",
    "listen": """\
Listen, and run a command for each message
  gearhorn listen news                                show them; other receivers lose nothing
  gearhorn listen news --json --count 10              ten, as JSON Lines
  gearhorn listen 'shop.>' --pattern                  every topic below shop
  gearhorn listen deploy --as web1 --durable --exec ./deploy.sh
                                                      as this host; exit 0 is done, 75 try again,
                                                      65 set it aside
  gearhorn listen deploy --as web1 --durable --start 1h --exec ./deploy.sh
                                                      begin an hour back, where it is new
""",
    "subscriptions": """\
Subscriptions
  gearhorn subscribe news web1                        web1 gets a copy of each message
  gearhorn subscribe news web1 --durable              it is kept until web1 has processed it
  gearhorn show news                                  who is subscribed
  gearhorn show news web1                             all that is known of one
  gearhorn pause news web1 --for 600                  nothing is delivered for ten minutes
  gearhorn resume news web1
  gearhorn unsubscribe news web1                      end it
  gearhorn drain news web1                            end it, and discard what waits for it
""",
    "logs": """\
Logs of durable topics
  gearhorn log news --last 10                         the last ten messages
  gearhorn log news --after 100 --follow              what comes after the hundredth
  gearhorn trace news 17                              what became of one, at each subscription
  gearhorn retain news --max-age 86400                keep a day
""",
    "parked": """\
Messages that were set aside
  gearhorn parked                                     who has any
  gearhorn parked list news web1                      why
  gearhorn parked show news web1 17                   one, with its payload
  gearhorn parked redrive news web1 --rate 10/s       deliver them again
  gearhorn parked purge news web1 --limit 5           forget the oldest five
""",
    "trouble": """\
When something is wrong
  gearhorn doctor                                     looks at everything, says what to do
  gearhorn members                                    the workers
  gearhorn topics --sort lag                          the topics that are furthest behind
  gearhorn top                                        rates, live
  gearhorn explain news                               who would get it, and who has no receiver
  gearhorn check subscription news web1 --lag-crit 1000 --receivers-min 1
  gearhorn check canary news                          publish one, and time it
""",
    "contexts": """\
Several clusters
  gearhorn context add staging gearman1 gearman2      keep the addresses
  gearhorn context add production gearman3 --confirm
                                                      always asked before something is destroyed
  gearhorn context use production
  gearhorn -c staging topics                          for one call
""",
}


@click.command("help")
@click.argument("topic", required=False, type=click.Choice([*_SHEETS, "all"]))
def help_command(topic: str | None) -> None:
    """Show a cheat sheet: what to type for what is wanted."""
    if topic is None:
        click.echo(f"Cheat sheets: gearhorn help {'|'.join([*_SHEETS, 'all'])}")
        click.echo("Options of a subcommand: gearhorn COMMAND --help")
        return
    click.echo("\n".join(_SHEETS.values()) if topic == "all" else _SHEETS[topic], nl=False)
