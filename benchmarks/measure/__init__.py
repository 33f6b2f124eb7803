"""What every benchmark shares: interleaving, ratios with their spread, the table and the JSON file, and the peers' venvs."""
