"""Trainers: each is a package that implements `contract.Trainer`; `realm.wiring` names them, nothing else does."""
