"""The engine: a bounded queue of jobs, one running batch, one thread that generates. Imports nothing of HTTP."""
