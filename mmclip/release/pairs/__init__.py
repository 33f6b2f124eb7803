"""Two towers that were trained apart, joined by new projections (LiT, locked text, ConSE)."""
