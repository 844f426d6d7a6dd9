"""What a reader sees of a release: one HTML file, contact sheets."""
