"""gearhorn: publish once over Gearman, and every subscribed host gets its own copy."""

__version__ = "0.1.0"
