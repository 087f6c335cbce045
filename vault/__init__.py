"""The vault: catalog, ledger, events, metric points and checkpoint manifests. The only place that speaks SQL."""
