"""What the README's figures come from: `scripts/bench`. Ratios in one run on one machine, both sides synced to disk."""
