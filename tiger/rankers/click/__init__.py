"""A neural click model over the codes of semantic IDs (Singh et al., arXiv 2306.08121)."""
