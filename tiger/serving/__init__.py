"""Serving: an HTTP service, a Gradio page, and batch recommendations for a whole log."""
