"""Music composed by rule and played by a soundfont: everything about it is known."""
