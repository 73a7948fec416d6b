"""The command ``gearhorn-worker``: from options, environment and file to a running worker."""
