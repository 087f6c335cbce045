"""The Weaver: starts the services, watches them, starts them again, stops them.

`policy` decides when (pure functions), `launch` starts and finds processes, `supervisor` is the loop, `control` is
`realm up` and `realm down`. `python -m realm.weaver --status | --daemon | --mend` are the commands that users know.
"""
