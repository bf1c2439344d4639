"""CapFilt itself: caption, score, select, balance, export."""
