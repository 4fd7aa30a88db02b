"""What music is like beyond its scores: its structure, and what listeners say of it."""
