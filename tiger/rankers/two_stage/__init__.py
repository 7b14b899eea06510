"""Two-stage ranker: candidates from several sources, ordered by LambdaRank trees."""
