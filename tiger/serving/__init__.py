"""A recommender that answers: over HTTP, on a page, from file to file."""
