"""Training code that stays outside the shipped package."""
