"""What scripts/bench measures: gearhorn, a raw socket that does the same, and its peers."""
