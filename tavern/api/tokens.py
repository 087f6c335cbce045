"""API tokens: made, listed and revoked by an admin."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from tavern.api.models import NewToken, Token, TokenRequest
from tavern.bounds import PathId
from tavern.context import TavernDep
from tavern.credentials import SESSION_NAME

api = APIRouter(prefix="/tokens", tags=["tokens"])


@api.get("", response_model=list[Token], summary="List tokens and browser sessions")
def list_tokens(tavern: TavernDep) -> Any:
    return list(tavern.vault.tokens.list())[:1000]


@api.post("", response_model=NewToken, status_code=201, summary="Make a token")
def create_token(tavern: TavernDep, wanted: TokenRequest) -> Any:
    """The secret is in this answer and nowhere else; only its hash is kept."""
    name = f"{wanted.name} (token)" if wanted.name == SESSION_NAME else wanted.name
    token, secret = tavern.vault.tokens.create(name, wanted.scopes, wanted.ttl_s)
    return {**token.to_dict(), "secret": secret}


@api.delete("/{token_id}", response_model=Token, summary="Revoke a token or a browser session")
def revoke_token(tavern: TavernDep, token_id: PathId) -> Any:
    token = tavern.vault.tokens.revoke(token_id)
    tavern.credentials.forget()
    return token
