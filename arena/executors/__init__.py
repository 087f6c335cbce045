"""Executors: where a run is carried out. Each implements `contract.Executor`; the run directory is all they share."""
