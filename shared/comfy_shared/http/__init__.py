"""The HTTP edge that both tiers share: log-in, limits, problem documents, Swagger. No domain module knows of it."""
