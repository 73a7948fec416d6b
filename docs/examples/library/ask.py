"""Ask all hosts that subscribed to "news", and print what each answered within 5 seconds."""

import gearhorn

with gearhorn.Publisher("localhost:4730") as publisher:
    answers = publisher.ask("news", "who is there?", timeout=5)
for host, answer in answers.items():
    print(f"{host}: {answer.text}")
for host, reason in answers.failed.items():
    print(f"{host} failed: {reason}")
for host in answers.missing:
    print(f"{host} did not answer")
