"""Alembic's environment: migrations run on the connection that `vault.migrate` hands over."""

from alembic import context

from vault.schema import ledger

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=ledger, transactional_ddl=False)
context.run_migrations()
