"""View models: what each page shows, made from the status and the vault's records and from nothing else.

A page's template receives exactly two names, `shell` and `page`; both are frozen records that hold words and numbers
ready to be shown. Jinja's StrictUndefined makes a missing one an error (tests/tavern/test_pages.py).
"""
