"""The Melee world: what is fixed about it. The model that learns to simulate it builds on this."""
