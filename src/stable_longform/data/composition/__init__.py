"""Music composed by rules and played by a soundfont, with complete metadata."""
