"""The arena: jobs, queue, daemon, executors, run directory, training loop and trainers. Mechanism, no policy."""
