"""The web: pages, JSON and the event stream."""
