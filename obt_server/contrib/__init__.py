"""What existing applications add to have agents beside what they drive already."""
