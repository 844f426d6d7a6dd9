"""Where raw videos come from: simulated, packaged films, a folder, a bucket."""
