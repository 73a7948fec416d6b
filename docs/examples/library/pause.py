"""Deliver nothing of "orders" to "frank" while something is repaired."""

import gearhorn

with gearhorn.Admin("localhost:4730") as admin:
    admin.pause("orders", "frank", 600)  # it ends by itself, should this program not
    try:
        frank = admin.describe("orders")["subscriptions"]["frank"]
        print("repairing; orders that wait:", frank["durable"]["lag"])
    finally:
        admin.resume("orders", "frank")
