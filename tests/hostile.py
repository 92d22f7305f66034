"""Hostile requests: what nobody sends by mistake. Lists of attacks, and strategies that make more of the kind."""

from __future__ import annotations

import re

# What no answer may tell: relations beside `api`, catalogs, PostgREST, versions, files, SQL.
INTERNALS = re.compile(
    r"postgrest|postgresql|\bpg_\w+|pgsql|schema cache|\b(?:agg|raw|staging|legacy|api|public)\.\w+|"
    r"spindle_(?:owner|admin)|authenticator|web_anon|nginx/|\b\d+\.\d+\.\d+\b|/(?:usr|etc|var|home|work|tmp|root)/|"
    r"\bselect .* from\b|canceling statement|haskell|hasql",
    re.IGNORECASE,
)
