"""An embedded job server and store: the pair that a laptop, or a test, needs beside a worker."""
