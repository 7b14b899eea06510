"""Codes to semantic IDs and tokens, and back to items."""
