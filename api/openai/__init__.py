"""The OpenAI dialect: so far its lists of models."""

from __future__ import annotations

from api.openai.models import listed, retrieved

ROUTES = (listed, retrieved)
