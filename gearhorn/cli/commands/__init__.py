"""The command ``gearhorn``: for people at a terminal, and for scripts.

It is a thin layer on the library, and goes through Gearman alone: it has no access to the store.
Each subcommand is a module that is imported when it is called, so that ``gearhorn publish`` does
not wait for what draws tables.
"""
