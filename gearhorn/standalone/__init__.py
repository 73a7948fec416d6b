"""An embedded job server and store: the pair that a laptop, or a test, needs beside a worker.

``servers`` starts both as child processes; ``jobserver`` is the job server where there is no
gearmand.
"""
